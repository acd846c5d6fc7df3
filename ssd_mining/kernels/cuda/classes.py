"""Labels and logits of any layout, on a GPU, become what the losses from logits take.

Classes are int32, -1 where an anchor is ignored. A label that is no class is not told here: it becomes the class that
the caller names for it, and the losses know what to make of that.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.pack import THREADS, Strided, place_of, source_of
from ssd_mining.kernels.cuda.runtime import DeviceArray, Kernel, Stream, cuda, types

Pointer = Any


class Meaning(NamedTuple):
    """What labels mean."""

    num_legal: int  # classes that a label may name
    illegal: int  # what others become
    ignore_index: int
    may_ignore: int  # 1: there is an ignore_index
    has_valid: int  # 1: an array says who is ignored


def enqueue_classes(
    labels: tuple[Strided, np.dtype[Any]], valid: Strided, meaning: Meaning, classes: DeviceArray, stream: Stream
) -> None:
    """Write classes (N,) int32, of labels of a dtype and any layout, on a stream of the current device."""
    if classes.size:
        arguments = labels[0], valid, meaning, _cuda.argument(classes), classes.size
        _classifier(labels[1]).launch(-(-classes.size // THREADS), stream, *arguments)


@functools.cache
def _classifier(dtype: np.dtype[Any]) -> Kernel:
    def classify(labels: Strided, valid: Strided, meaning: Meaning, classes: Pointer, num_anchors: int) -> None:
        anchor = cuda.grid(1)
        if anchor >= num_anchors:
            return
        label = np.int64(labels.elements[place_of(labels, anchor)])
        ignored = meaning.may_ignore and label == meaning.ignore_index
        if meaning.has_valid:
            ignored = ignored or valid.elements[place_of(valid, anchor)] == 0
        is_legal = 0 <= label < meaning.num_legal
        classes[anchor] = -1 if ignored else (label if is_legal else meaning.illegal)

    kinds = source_of(dtype), source_of(np.dtype(np.bool_))
    meaning = _cuda.record(Meaning, **dict.fromkeys(Meaning._fields, types.int64))
    return Kernel(classify, *kinds, meaning, _cuda.pointer(np.int32), types.int64, threads=THREADS)


def enqueue_rows(source: Strided, packed: DeviceArray, stream: Stream) -> None:
    """Copy (B, A, C) of any layout to (N, C), on a stream of the current device."""
    if packed.size:
        kernel = _row_packer(packed.dtype)
        kernel.launch(-(-packed.size // THREADS), stream, source, _cuda.argument(packed), packed.size)


@functools.cache
def _row_packer(dtype: np.dtype[Any]) -> Kernel:
    def pack_rows(source: Strided, packed: Pointer, size: int) -> None:
        i = cuda.grid(1)
        if i < size:
            anchor, c = i // source.num_classes, i % source.num_classes
            packed[i] = source.elements[place_of(source, anchor) + c * source.of_class]

    return Kernel(pack_rows, source_of(dtype), _cuda.pointer(dtype), types.int64, threads=THREADS)
