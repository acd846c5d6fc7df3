"""Arrays of any layout on a device become arrays as the other kernels take them: one thread per anchor, one pass.

What `inputs.labels` does to labels on the host, is done here: a byte for every anchor says what it is (`records`), or
an int32 its class. Nothing raises: what is wrong becomes a role, or a class, that is none.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ssd_mining.kernels import rules
from ssd_mining.kernels.cuda import runtime
from ssd_mining.kernels.cuda.runtime import (
    DeviceArray,
    Kernel,
    Stream,
    cuda,
    element,
    helper,
    nothing,
    pointer,
    record,
    types,
)
from ssd_mining.kernels.records import BAD, IGNORED, NEGATIVE, POSITIVE

THREADS = min(runtime.THREADS, 256)

is_negative, is_positive, is_bad = helper(rules.is_negative), helper(rules.is_positive), helper(rules.is_bad)


class Strided(NamedTuple):
    """An array of any layout, (B, A) or (B, A, C), or (N,) or (N, C), by its strides in elements."""

    elements: DeviceArray
    num_anchors: int  # A, or N
    of_sample: int
    of_anchor: int
    of_class: int
    num_classes: int  # 1 where there is no such axis


# Of anchors all of which count.
NO_MASK = Strided(nothing(np.bool_), num_anchors=1, of_sample=0, of_anchor=0, of_class=0, num_classes=1)


@helper
def place_of(source, anchor):
    """Say where an anchor is, or the first of its classes."""
    return anchor // source.num_anchors * source.of_sample + anchor % source.num_anchors * source.of_anchor


def source_type(dtype: np.dtype[Any]) -> Any:
    """Return the type of a source of elements of a type."""
    return record(Strided, elements=dtype)


def enqueue_packed(source: Strided, packed: DeviceArray, stream: Stream) -> None:
    """Copy (B, A, C) of any layout to (N, C)."""
    kernel = _packer(packed.dtype, with_classes=source.num_classes > 1)
    kernel.launch_each(packed.size, stream, source, packed, packed.size)


@functools.cache
def _packer(dtype: np.dtype[Any], *, with_classes: bool) -> Kernel:
    def pack(source, packed, size):
        i = cuda.grid(1)
        if i < size:
            anchor, c = (i // source.num_classes, i % source.num_classes) if with_classes else (i, 0)
            packed[i] = source.elements[place_of(source, anchor) + c * source.of_class]

    return Kernel(pack, source_type(dtype), pointer(dtype), types.int64, threads=THREADS)


def enqueue_counts(mask: DeviceArray, offsets: DeviceArray, counts: DeviceArray, stream: Stream) -> None:
    """Count the anchors of a mask in every sample."""
    _counter().launch(counts.size, stream, mask, offsets, counts)


@functools.cache
def _counter() -> Kernel:
    def count(mask, offsets, counts):
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

    return Kernel(count, pointer(np.bool_), pointer(np.int64), pointer(np.int64), threads=THREADS)


# --- labels


class ClassCoding(NamedTuple):
    """What class labels mean to the miner."""

    codes: tuple[int, int, int]  # as those of `Rows`
    has_valid: int  # 1: a mask says which anchors count


class ScoreCoding(NamedTuple):
    """What rows of scores mean to the miner."""

    background: int  # a class, from 0; C: there is no column for it
    role_of_empty: int  # of a row of zeros
    tolerance: float  # by which the sum of a row may miss 1
    has_valid: int  # 1: a mask says which anchors count


def enqueue_roles(
    labels: Strided, valid: DeviceArray, coding: ClassCoding | ScoreCoding, roles: DeviceArray, stream: Stream
) -> None:
    """Write the roles of anchors, a byte each, by unsigned labels or by scores of any type; `valid` is (N,)."""
    kind = _class_recoder if isinstance(coding, ClassCoding) else _score_recoder
    kind(labels.elements.dtype).launch_each(roles.size, stream, labels, valid, coding, roles, roles.size)


@functools.cache
def _class_recoder(dtype: np.dtype[Any]) -> Kernel:
    def recode(source, valid, coding, roles, num_anchors):
        i = cuda.grid(1)
        if i >= num_anchors:
            return
        label, codes = source.elements[place_of(source, i)], coding.codes
        role = NEGATIVE if is_negative(label, codes) else IGNORED
        if is_positive(label, codes):
            role = BAD if is_bad(label, codes) else POSITIVE
        if coding.has_valid and valid[i] == 0:
            role = IGNORED
        roles[i] = role

    return _recoder(recode, dtype, record(ClassCoding, codes=types.UniTuple(element(dtype), 3)))


@functools.cache
def _score_recoder(dtype: np.dtype[Any]) -> Kernel:
    def recode(source, valid, coding, roles, num_anchors):
        i = cuda.grid(1)
        if i >= num_anchors:
            return
        first = place_of(source, i)
        total, is_wrong, is_empty, role = np.float64(0.0), False, True, POSITIVE
        has_column = coding.background < source.num_classes
        for c in range(source.num_classes):
            score = source.elements[first + c * source.of_class]
            total += score
            is_wrong = is_wrong or not score >= 0 or (score > 1 and not has_column)  # also true of NaN
            is_empty = is_empty and score == 0
            if c == coding.background and score != 0:
                role = NEGATIVE
        if is_wrong or (has_column and not abs(total - 1.0) <= coding.tolerance):
            role = BAD
        if is_empty:
            role = coding.role_of_empty
        if coding.has_valid and valid[i] == 0:
            role = IGNORED
        roles[i] = role

    return _recoder(recode, dtype, record(ScoreCoding))


def _recoder(function: Callable[..., None], dtype: np.dtype[Any], coding: Any) -> Kernel:
    arguments = source_type(dtype), pointer(np.bool_), coding, pointer(np.uint8), types.int64
    return Kernel(function, *arguments, threads=THREADS)


class Meaning(NamedTuple):
    """What class labels mean to the losses from logits."""

    num_legal: int  # classes that a label may name
    illegal: int  # what others become
    ignore_index: int
    may_ignore: int  # 1: there is an ignore_index
    has_valid: int  # 1: a mask says which anchors count


def enqueue_classes(labels: Strided, valid: Strided, meaning: Meaning, classes: DeviceArray, stream: Stream) -> None:
    """Write classes (N,) int32, -1 where an anchor is ignored, by labels of any integer type."""
    kernel = _classifier(labels.elements.dtype)
    kernel.launch_each(classes.size, stream, labels, valid, meaning, classes, classes.size)


@functools.cache
def _classifier(dtype: np.dtype[Any]) -> Kernel:
    def classify(labels, valid, meaning, classes, num_anchors):
        anchor = cuda.grid(1)
        if anchor >= num_anchors:
            return
        label = np.int64(labels.elements[place_of(labels, anchor)])
        ignored = meaning.may_ignore and label == meaning.ignore_index
        if meaning.has_valid:
            ignored = ignored or valid.elements[place_of(valid, anchor)] == 0
        is_legal = 0 <= label < meaning.num_legal
        classes[anchor] = -1 if ignored else (label if is_legal else meaning.illegal)

    arguments = source_type(dtype), source_type(np.dtype(np.bool_)), record(Meaning), pointer(np.int32), types.int64
    return Kernel(classify, *arguments, threads=THREADS)
