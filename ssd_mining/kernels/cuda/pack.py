"""Device arrays of any layout become rows as the mining kernels take them: one thread per anchor, one pass.

What `_labels` does to labels on the host, `recode` does here: a byte for every anchor says whether it is negative,
ignored, positive or wrong. Nothing raises: what is wrong is counted while mining, and told by the host.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.inputs.labels import BAD, IGNORED, NEGATIVE, SCORE_SUM_TOLERANCE
from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.runtime import cuda

POSITIVE = 1
THREADS = min(_cuda.THREADS, 256)


class Strided(NamedTuple):
    """A source of any layout: (B, A) or (B, A, C), with strides in elements."""

    elements: Any
    num_anchors: int  # A
    of_sample: int
    of_anchor: int
    of_class: int
    num_classes: int  # C


class Coding(NamedTuple):
    """What the labels of a source mean."""

    background: Any  # a label; of scores, the class
    ignored: Any
    highest: Any
    has_valid: int
    is_empty_ignored: int  # an all-zero row of scores
    is_empty_wrong: int


@_cuda.helper
def place_of(source, i):
    """Say where the i-th anchor is, or the first of its scores."""
    return i // source.num_anchors * source.of_sample + i % source.num_anchors * source.of_anchor


def pack(source, packed, num_anchors):
    """Copy anchors to consecutive places: a kernel."""
    i = cuda.blockIdx.x * np.int64(THREADS) + cuda.threadIdx.x
    if i < num_anchors:
        packed[i] = source.elements[place_of(source, i)]


def count(mask, offsets, counts):
    """Count the anchors of a mask in every sample: a kernel of one block per sample."""
    partial = cuda.shared.array(THREADS, np.int64)
    sample, thread = cuda.blockIdx.x, cuda.threadIdx.x
    total = 0
    for i in range(offsets[sample] + thread, offsets[sample + 1], THREADS):
        total += mask[i]
    partial[thread] = total
    cuda.syncthreads()
    if thread == 0:
        for other in range(1, THREADS):
            total += partial[other]
        counts[sample] = total


def recode_classes(source, valid, coding, codes, num_anchors):
    """Write the code of every class label: a kernel."""
    i = cuda.blockIdx.x * np.int64(THREADS) + cuda.threadIdx.x
    if i >= num_anchors:
        return
    label = source.elements[place_of(source, i)]
    code = BAD if label > coding.highest else POSITIVE
    if label == coding.ignored:
        code = IGNORED
    if label == coding.background:
        code = NEGATIVE
    if coding.has_valid and valid[i] == 0:
        code = IGNORED
    codes[i] = code


def recode_scores(source, valid, coding, codes, num_anchors):
    """Write the code of every row of scores: a kernel."""
    i = cuda.blockIdx.x * np.int64(THREADS) + cuda.threadIdx.x
    if i >= num_anchors:
        return
    first = place_of(source, i)
    total, is_wrong, is_empty = np.float64(0.0), False, True
    for c in range(source.num_classes):
        score = source.elements[first + c * source.of_class]
        total += score
        is_wrong = is_wrong or not score >= 0  # also true of NaN
        is_empty = is_empty and score == 0
    code = NEGATIVE
    if source.elements[first + coding.background * source.of_class] == 0:
        code = POSITIVE
    if is_empty and coding.is_empty_ignored:
        code = IGNORED
    is_wrong = is_wrong or not (is_empty or abs(total - 1.0) <= SCORE_SUM_TOLERANCE)
    if is_wrong or (is_empty and coding.is_empty_wrong):
        code = BAD
    if coding.has_valid and valid[i] == 0:
        code = IGNORED
    codes[i] = code


def source_of(dtype: np.dtype[Any]) -> Any:
    """Return the type of a source of elements of a type."""
    integers = dict.fromkeys(Strided._fields[1:], _cuda.types.int64)
    return _cuda.record(Strided, elements=_cuda.pointer(dtype), **integers)


@functools.cache
def packer(dtype: np.dtype[Any]) -> _cuda.Kernel:
    """Return the kernel that copies elements of a type."""
    return _cuda.Kernel(pack, source_of(dtype), _cuda.pointer(dtype), _cuda.types.int64, threads=THREADS)


@functools.cache
def counter() -> _cuda.Kernel:
    """Return the kernel that counts."""
    offsets = _cuda.pointer(np.int64)
    return _cuda.Kernel(count, _cuda.pointer(np.bool_), offsets, offsets, threads=THREADS)


@functools.cache
def recoder(dtype: np.dtype[Any], *, scores: bool) -> _cuda.Kernel:
    """Return the kernel for class labels of an unsigned type, or for scores of any."""
    label = _cuda.types.int64 if scores else _cuda.element(dtype)
    integers = dict.fromkeys(Coding._fields[3:], _cuda.types.int64)
    coding = _cuda.record(Coding, background=label, ignored=label, highest=label, **integers)
    byte = _cuda.pointer(np.uint8)
    function = recode_scores if scores else recode_classes
    return _cuda.Kernel(function, source_of(dtype), byte, coding, byte, _cuda.types.int64, threads=THREADS)
