"""Labels of any integer type become classes on a GPU: int32, -1 where an anchor is ignored, as losses take them."""

import functools
from typing import Any, NamedTuple

import numpy as np

from ssd_mining import _cuda
from ssd_mining._cuda import DeviceArray, Kernel, Stream, cuda, types

Pointer = Any

THREADS = min(256, _cuda.THREADS)


class Labels(NamedTuple):
    """What the kernel reads."""

    labels: Any  # (N,) integers
    valid: Any  # (N,) bytes, or (0,): all are
    num_classes: int  # that a label may name; another becomes this number
    ignore_index: int
    may_ignore: int  # 1: there is an ignore_index
    is_masked: int  # 1: valid says who is ignored
    num_anchors: int


def enqueue_classes(given: Labels, classes: DeviceArray, stream: Stream) -> None:
    """Write classes (N,) int32, on a stream of the current device; `given` holds device arrays."""
    arguments = given._replace(labels=_cuda.argument(given.labels), valid=_cuda.argument(given.valid))
    kernel = _kernel(given.labels.dtype)
    if given.num_anchors:
        kernel.launch(-(-given.num_anchors // THREADS), stream, arguments, _cuda.argument(classes))


@functools.cache
def _kernel(dtype: np.dtype[Any]) -> Kernel:
    def classify(given: Labels, classes: Pointer) -> None:
        anchor = cuda.grid(1)
        if anchor < given.num_anchors:
            label = np.int64(given.labels[anchor])
            ignored = given.may_ignore and label == given.ignore_index
            if given.is_masked:
                ignored = ignored or given.valid[anchor] == 0
            is_class = 0 <= label < given.num_classes
            classes[anchor] = -1 if ignored else (label if is_class else given.num_classes)

    fields = {"labels": _cuda.pointer(dtype), "valid": _cuda.pointer(np.bool_)}
    labels = _cuda.record(Labels, **dict.fromkeys(Labels._fields, types.int64) | fields)
    return Kernel(classify, labels, _cuda.pointer(np.int32), threads=THREADS)
