"""Tiles: the transposed logits of 64 anchors, 64 lanes of each class, and what is known of each lane.

One flat array holds the classes one after the other. What a loss does with a tile are plain loops over 64 lanes,
which LLVM vectorises, in the order of the classes, so that every CPU adds up in the same order.
"""

import functools
from typing import Any

import numpy as np

from ssd_mining.kernels import loss_rules
from ssd_mining.kernels.cpu import lanes
from ssd_mining.kernels.cpu.jit import helper
from ssd_mining.kernels.cpu.lanes import COLUMNS, LANES, Row

rounded_off = helper(loss_rules.rounded_off)

Index = Any  # int or np.uint64: unsigned indices need no test for being negative

# Classes that are added up before they meet the sum: fewer roundings, fewer loads. 21 and 81 are whole groups.
GROUP = 3

WIDTH = np.uint64(LANES)

SOON = 1024  # elements that are asked for ahead, where a tile is smaller

MIXED = -2  # the labels of a tile differ

# Where in `vectors` stands what is known of each lane. Slices instead would cost more than the arithmetic.
NUM_VECTORS = 11
(TOP, REST, OWN, SHARE, TOTAL, COUNT, LOST, BASE, LOWEST, HIGHEST, ROUNDER) = (
    np.uint64(i * LANES) for i in range(NUM_VECTORS)
)


@helper
def height(num_classes: int) -> int:
    """Say how many rows a tile has: whole columns, and whole groups."""
    return max(-(-num_classes // COLUMNS) * COLUMNS, -(-num_classes // GROUP) * GROUP)


@functools.cache
def tile_size(num_classes: int) -> int:
    """Say how many elements a worker needs: a tile of logits, one of targets, the vectors."""
    return (2 * height(num_classes) + NUM_VECTORS) * LANES


@helper
def fill(array: Row, start: Index, stop: Index, value: float) -> None:
    """Set a part of an array; a slice assignment would take Numba several times as long."""
    for i in range(np.uint64(start), np.uint64(stop)):
        array[i] = value


@helper
def load_tile(flat: Row, start: int, num_classes: int, tile: Row, tail: Row) -> None:
    """Transpose the flat rows (A, C) of the 64 anchors from `start`; lanes past the last anchor hold anything."""
    first, size = start * num_classes, LANES * num_classes
    if first + size + COLUMNS > flat.shape[0]:  # whole columns reach past the last class of the last anchor
        for i in range(min(flat.shape[0] - first, size)):
            tail[i] = flat[first + i]
        _transpose_rows(tail, 0, num_classes, tile)
    else:
        _transpose_rows(flat, first, num_classes, tile)
    groups = -(-num_classes // GROUP)
    fill(tile, num_classes * LANES, groups * GROUP * LANES, -np.inf)  # classes that fill up a group: exp is 0


@helper
def prefetch_class(flat: Row, place: int, num_classes: int, c: int) -> None:
    """Ask for a part of the next tile, between the sums over one class and the next: all at once would wait."""
    lanes.prefetch_near(flat, place + max(LANES * num_classes, SOON) + c * LANES)


@helper
def _transpose_rows(flat: Row, first: int, num_classes: int, tile: Row) -> None:
    for c in range(0, num_classes, COLUMNS):
        lanes.transpose(flat, first + c, num_classes, tile, c * LANES)


@helper
def clear(vectors: Row) -> None:
    """Set the totals to 0."""
    fill(vectors, TOTAL, TOTAL + WIDTH, 0.0)
    fill(vectors, LOST, LOST + WIDTH, 0.0)


@helper
def common_label(labels: Row, start: int) -> int:
    """Return the label of the 64 anchors from `start` where they share one, `MIXED` where not."""
    if start + LANES > labels.shape[0]:
        return MIXED
    first, differs = np.uint64(start), np.int64(0)
    usual = labels[first]
    for j in range(WIDTH):
        differs |= labels[first + j] ^ usual
    return usual if differs == 0 else MIXED


@helper
def are_classes(labels: Row, num_classes: int) -> bool:
    """Say whether all labels of a sample are classes; as unsigned numbers, those below 0 are large."""
    largest = np.uint64(0)
    for i in range(np.uint64(labels.shape[0])):
        label = np.uint64(labels[i])
        largest = label if label > largest else largest
    return bool(largest < np.uint64(num_classes))


@helper
def find_own(labels: Row, weights: Row, start: int, tile: Row, vectors: Row) -> None:
    """Look up the logit of every lane's label, and its weight: 0 where the anchor is ignored."""
    first, num_classes, common = np.uint64(start), np.uint64(weights.shape[0]), common_label(labels, start)
    if 0 <= common < weights.shape[0]:  # most tiles are background alone
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
    """Write the target 1 to the class of every lane's label."""
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
def take_own(labels: Row, start: int, tile: Row, num_classes: int, vectors: Row) -> None:
    """Move the logit of every lane's label out of the tile; -inf is left there."""
    common = common_label(labels, start)
    if 0 <= common < num_classes:  # most tiles are background alone
        lanes.copy(tile, common * LANES, vectors, OWN)
        fill(tile, common * LANES, common * LANES + LANES, -np.inf)
        return
    fill(vectors, OWN, OWN + WIDTH, 0.0)
    first, last = np.uint64(start), np.uint64(num_classes)
    for j in range(np.uint64(min(LANES, labels.shape[0] - start))):
        label = np.uint64(labels[first + j])
        if label < last:
            vectors[OWN + j] = tile[label * WIDTH + j]
            tile[label * WIDTH + j] = -np.inf


@helper
def find_top_except(tile: Row, num_classes: int, excluded: int, vectors: Row, place: Index) -> None:
    """Find the largest logit of every lane among all classes but one, NaN above all."""
    fill(vectors, place, place + WIDTH, -np.inf)
    for c in range(num_classes):
        if c != excluded:
            first = np.uint64(c) * WIDTH
            for j in range(WIDTH):
                top, x = vectors[place + j], tile[first + j]
                vectors[place + j] = x if x > top or x != x else top


@helper
def store(labels: Row, values: Row, start: int, vectors: Row, again: bool) -> None:
    """Write the totals of the anchors from `start`, 0 for the ignored ones; `again`: of those that have NaN."""
    first, zero = np.uint64(start), values.dtype.type(0)
    for j in range(np.uint64(min(LANES, values.shape[0] - start))):
        total, lost, old = vectors[TOTAL + j], vectors[LOST + j], values[first + j]
        total = total + lost if lost == lost else total
        total = zero if labels[first + j] < 0 else total
        values[first + j] = old if again and old == old else total


@helper
def is_left(values: Row, start: int) -> bool:
    """Say whether a loss of the 64 anchors from `start` is NaN."""
    for i in range(np.uint64(start), np.uint64(min(start + LANES, values.shape[0]))):
        if values[i] != values[i]:
            return True
    return False


@helper
def find_targets(labels: Row, scores: Row, sample: int, anchor: int, targets: Row) -> None:
    """Write the targets of one anchor, from its label or its scores."""
    if scores.shape[0] > 0:
        for c in range(targets.shape[0]):
            targets[c] = scores[sample, anchor, c]
        return
    targets[:] = 0.0
    label = np.uint64(labels[sample, anchor])
    if label < np.uint64(targets.shape[0]):
        targets[label] = 1.0
