"""Tiles: the logits of 64 anchors, transposed, so that each class is a vector of 64 lanes, one lane per anchor.

One flat array holds the classes one after the other. A loss is a few plain loops over the 64 lanes, which LLVM
vectorises. Classes are added in their order, so every CPU adds in the same order.
"""

import functools
from typing import Any

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cpu import lanes, matrices
from ssd_mining.kernels.cpu.jit import helper
from ssd_mining.kernels.cpu.lanes import LANES, Row
from ssd_mining.kernels.cpu.matrices import COLUMNS

rounded_off = helper(loss_rules.rounded_off)

Index = Any  # int or np.uint64; unsigned indices need no test for being negative

# Classes that are added together before they are added to the sum: fewer roundings, fewer loads. 3 divides 21 and 81.
GROUP = 3

WIDTH = np.uint64(LANES)

NEAREST = 1024  # elements: the smallest distance to prefetch ahead

MIXED = -2  # not a label: the labels of a tile differ

# Where each vector of 64 lanes begins in `vectors`. Slicing them would cost more than the arithmetic.
NUM_VECTORS = 11
(TOP, REST, OWN, SHARE, TOTAL, COUNT, LOST, BASE, LOWEST, HIGHEST, ROUNDER) = (
    np.uint64(i * LANES) for i in range(NUM_VECTORS)
)


def tile_height(num_classes: int) -> int:
    """Return how many rows a tile has: a multiple of COLUMNS, or of GROUP if that is more."""
    return max(-(-num_classes // COLUMNS) * COLUMNS, -(-num_classes // GROUP) * GROUP)


height = helper(tile_height)  # called from Python, it would be compiled once more


@functools.cache
def tile_size(num_classes: int) -> int:
    """Return how many elements a worker needs: a tile of logits, one of targets, and the vectors."""
    return (2 * tile_height(num_classes) + NUM_VECTORS) * LANES


@helper
def fill(array: Row, start: Index, stop: Index, value: float) -> None:
    """Set a part of an array. Numba takes several times as long for a slice assignment."""
    for i in range(np.uint64(start), np.uint64(stop)):
        array[i] = value


@helper
def load_tile(flat: Row, start: int, num_classes: int, tile: Row, tail: Row) -> None:
    """Transpose the rows (A, C) of 64 anchors, beginning with `start`. Lanes past the last anchor hold anything."""
    first, size = start * num_classes, LANES * num_classes
    if first + size + COLUMNS > flat.shape[0]:  # whole columns would reach past the end
        for i in range(min(flat.shape[0] - first, size)):
            tail[i] = flat[first + i]
        _transpose_rows(tail, 0, num_classes, tile)
    else:
        _transpose_rows(flat, first, num_classes, tile)
    groups = -(-num_classes // GROUP)
    fill(tile, num_classes * LANES, groups * GROUP * LANES, -np.inf)  # the classes that complete a group: exp is 0


@helper
def prefetch_class(flat: Row, place: int, num_classes: int, c: int) -> None:
    """Prefetch a part of the next tile: one part per class, because a burst of all would stall."""
    lanes.prefetch_near(flat, place + max(LANES * num_classes, NEAREST) + c * LANES)


@helper
def _transpose_rows(flat: Row, first: int, num_classes: int, tile: Row) -> None:
    for c in range(0, num_classes, COLUMNS):
        matrices.transpose(flat, first + c, num_classes, tile, c * LANES)


@helper
def clear(vectors: Row) -> None:
    """Set the totals to 0."""
    fill(vectors, TOTAL, TOTAL + WIDTH, 0.0)
    fill(vectors, LOST, LOST + WIDTH, 0.0)


@helper
def common_label(labels: Row, start: int) -> int:
    """Return the label that all 64 anchors from `start` share, or `MIXED`."""
    if start + LANES > labels.shape[0]:
        return MIXED
    first, differs = np.uint64(start), np.int64(0)
    usual = labels[first]
    for j in range(WIDTH):
        differs |= labels[first + j] ^ usual
    return usual if differs == 0 else MIXED


@helper
def are_classes(labels: Row, num_classes: int) -> bool:
    """Say whether all labels of a sample are classes. As unsigned numbers, labels below 0 are large."""
    largest = np.uint64(0)
    for i in range(np.uint64(labels.shape[0])):
        label = np.uint64(labels[i])
        largest = label if label > largest else largest
    return bool(largest < np.uint64(num_classes))


@helper
def find_own(labels: Row, weights: Row, start: int, tile: Row, vectors: Row) -> None:
    """Look up, for every lane, the logit of its label and the weight of that class: 0 for an ignored anchor."""
    first, num_classes, common = np.uint64(start), np.uint64(weights.shape[0]), common_label(labels, start)
    if 0 <= common < weights.shape[0]:  # most tiles hold only background
        lanes.copy(tile, common * LANES, vectors, OWN)
        fill(vectors, SHARE, SHARE + WIDTH, weights[common])
        return
    fill(vectors, OWN, OWN + WIDTH, 0.0)
    fill(vectors, SHARE, SHARE + WIDTH, 0.0)
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        label = np.uint64(labels[first + j])
        if label < num_classes:
            vectors[OWN + j] = tile[label * WIDTH + j]
            vectors[SHARE + j] = weights[label]


@helper
def mark_own(labels: Row, start: int, targets: Row, num_classes: int) -> None:
    """Write the target 1 for the label of every lane."""
    common = common_label(labels, start)
    if 0 <= common < num_classes:
        fill(targets, common * LANES, common * LANES + LANES, 1.0)
        return
    first, last = np.uint64(start), np.uint64(num_classes)
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        label = np.uint64(labels[first + j])
        if label < last:
            targets[label * WIDTH + j] = 1.0


@helper
def find_top_except(tile: Row, num_classes: int, excluded: int, vectors: Row, place: Index) -> None:
    """Find the largest logit of every lane among all classes but one. NaN counts as the largest."""
    fill(vectors, place, place + WIDTH, -np.inf)
    for c in range(num_classes):
        if c != excluded:
            first = np.uint64(c) * WIDTH
            for j in range(WIDTH):
                top, x = vectors[place + j], tile[first + j]
                vectors[place + j] = x if x > top or x != x else top


@helper
def store(labels: Row, values: Row, start: int, vectors: Row, again: bool) -> None:
    """Write the totals of 64 anchors, 0 for ignored ones. `again`: only where the value so far is NaN."""
    first, zero = np.uint64(start), values.dtype.type(0)
    for j in range(np.uint64(min(LANES, values.shape[0] - start))):
        total, lost, old = vectors[TOTAL + j], vectors[LOST + j], values[first + j]
        total = total + lost if lost == lost else total
        total = zero if labels[first + j] < 0 else total
        values[first + j] = old if again and old == old else total


@helper
def is_left(values: Row, start: int) -> bool:
    """Say whether one of the 64 anchors from `start` has a loss of NaN: the careful path is to compute it."""
    for i in range(np.uint64(start), np.uint64(min(start + LANES, values.shape[0]))):  # noqa: SIM110 - `any` does not compile
        if values[i] != values[i]:
            return True
    return False


@helper
def find_targets(labels: Row, scores: Row, anchor: Index, targets: Row) -> None:
    """Write the targets of one anchor, from its label or its scores."""
    if scores.shape[0] > 0:
        for c in range(targets.shape[0]):
            targets[c] = scores[anchor, c]
        return
    fill(targets, 0, targets.shape[0], 0.0)
    label = np.uint64(labels[anchor])
    if label < np.uint64(targets.shape[0]):
        targets[label] = 1.0
