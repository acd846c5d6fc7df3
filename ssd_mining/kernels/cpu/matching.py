"""Matching on the CPU: which object every anchor takes, without a matrix of overlaps.

1. `_are_objects`: the boxes of a sample in columns.
2. `_visit`: for each block of 64 anchors, `_load` writes them into a tile, in columns with their areas. `_count` says
   which of them count, and which are in a crowd. The overlaps with every object that reaches the box around the block
   follow, 64 at a time. The block keeps the best object of every anchor; every object keeps its best anchor. Then
   `_label` labels the block.
3. `_force_...`: objects are forced onto anchors. What that needs beyond the best anchor of an object is computed once
   more.

What a worker holds is three words and a box per block, and one tile: memory grows with the anchors, not with the
objects.
"""

import numpy as np

from ssd_mining.kernels.cpu import lanes
from ssd_mining.kernels.cpu.jit import drivers, helper, inlined
from ssd_mining.kernels.cpu.lanes import LANES, ONE, Row
from ssd_mining.kernels.records import (
    ARGMAX,
    BIPARTITE,
    LEFT_OUT,
    NO_FORCE,
    OWN_BEST,
    UNMATCHED,
    BoxRows,
    Matched,
    MatchRule,
    Scalar,
)

# The columns of a block of anchors, and in a tile what is computed of them: the overlap with one object, the largest
# one, and the number of its object, which is exact in a float32 up to 2 ** 24 objects.
X1, Y1, X2, Y2, AREA, IOU, BEST, OBJECT = (column * LANES for column in range(8))
TILE = 8 * LANES
LEFT, TOP, RIGHT, BOTTOM = range(4)  # of the box around a block

FULL, NO_WORD = ~np.uint64(0), np.uint64(0)
# The place of the next word: all anchors that count; those in a crowd; those that no object has been given yet.
COUNTS, CROWDED, FREE, WORDS = range(4)


@helper
def _load(corners: Row, block: int, tile: Row) -> None:
    """Write 64 anchors into the columns of a tile, with their areas; after the last come boxes without an area.

    `corners`, (4 A,), holds the anchors one after the other. The area of what is no box is NaN.
    """
    first = block * LANES
    size = min(LANES, corners.shape[0] // 4 - first)
    own = corners[first * 4 : (first + size) * 4]
    if size == LANES:  # a constant number of steps, which LLVM turns into shuffles
        for j in range(LANES):
            tile[X1 + j], tile[Y1 + j], tile[X2 + j], tile[Y2 + j] = (
                own[4 * j],
                own[4 * j + 1],
                own[4 * j + 2],
                own[4 * j + 3],
            )
    else:
        for j in range(4 * LANES):
            tile[j] = tile.dtype.type(0)
        for j in range(size):
            tile[X1 + j], tile[Y1 + j], tile[X2 + j], tile[Y2 + j] = (
                own[4 * j],
                own[4 * j + 1],
                own[4 * j + 2],
                own[4 * j + 3],
            )
    zero, nan = tile.dtype.type(0), tile.dtype.type(np.nan)
    for j in range(LANES):
        width, height = tile[X2 + j] - tile[X1 + j], tile[Y2 + j] - tile[Y1 + j]
        tile[AREA + j] = width * height if (width >= zero) & (height >= zero) else nan


@helper
def _bound(tile: Row, around: Row) -> None:
    """Write the box around the anchors of a tile."""
    lowest = tile.dtype.type(-np.inf)
    around[LEFT], around[TOP] = lanes.least(tile, X1, lowest), lanes.least(tile, Y1, lowest)
    around[RIGHT], around[BOTTOM] = lanes.largest(tile, X2, FULL), lanes.largest(tile, Y2, FULL)


@helper
def _reaches(box: Row, around: Row) -> bool:
    """Say whether a box has an area in common with the box around a block."""
    beside = box[LEFT] < around[RIGHT] and box[RIGHT] > around[LEFT]
    return bool(beside and box[TOP] < around[BOTTOM] and box[BOTTOM] > around[TOP])


@helper
def _reaching(columns: Row, start: int, last: int, around: Row) -> Scalar:
    """Say which of the 64 objects from `start` on, before `last`, have an area in common with it."""
    word = lanes.above(columns[RIGHT], start, around[LEFT]) & lanes.above(columns[BOTTOM], start, around[TOP])
    word &= ~lanes.reaching(columns[LEFT], start, around[RIGHT])
    word &= ~lanes.reaching(columns[TOP], start, around[BOTTOM])
    return word & (FULL >> np.uint64(max(0, start + LANES - last)))


@helper
def _overlap(tile: Row, box: Row) -> None:
    """Compute the overlap of every anchor of the tile with one box."""
    lanes.use_wide_registers()
    zero = tile.dtype.type(0)
    left, top, right, bottom = box[LEFT], box[TOP], box[RIGHT], box[BOTTOM]
    area = (right - left) * (bottom - top)
    for j in range(LANES):
        x1, y1, x2, y2 = tile[X1 + j], tile[Y1 + j], tile[X2 + j], tile[Y2 + j]
        width = (right if right < x2 else x2) - (left if left > x1 else x1)
        height = (bottom if bottom < y2 else y2) - (top if top > y1 else y1)
        common = (width if width > zero else zero) * (height if height > zero else zero)
        union = (tile[AREA + j] + area) - common
        tile[IOU + j] = common / union if common > zero else zero


@helper
def _keep_best(tile: Row, number: int) -> None:
    """Keep the overlaps with this object where they are larger than all before them."""
    own = tile.dtype.type(number)
    for j in range(LANES):
        iou, best = tile[IOU + j], tile[BEST + j]
        better = iou > best
        tile[BEST + j] = iou if better else best
        tile[OBJECT + j] = own if better else tile[OBJECT + j]


@helper
def _share_of_anchor(tile: Row, box: Row) -> None:
    """Compute the share of the area of every anchor of the tile that is inside one box."""
    zero = tile.dtype.type(0)
    left, top, right, bottom = box[LEFT], box[TOP], box[RIGHT], box[BOTTOM]
    for j in range(LANES):
        x1, y1, x2, y2 = tile[X1 + j], tile[Y1 + j], tile[X2 + j], tile[Y2 + j]
        width = (right if right < x2 else x2) - (left if left > x1 else x1)
        height = (bottom if bottom < y2 else y2) - (top if top > y1 else y1)
        common = (width if width > zero else zero) * (height if height > zero else zero)
        tile[IOU + j] = common / tile[AREA + j] if common > zero else zero


@inlined
def _count(rows: BoxRows, rule: MatchRule, sample: int, block: int, around: Row, words: Row, tile: Row) -> None:
    """Write which anchors of a block count, and which are in a crowd."""
    start, num_valid = block * LANES, rows.valid.shape[0]
    size = min(LANES, rows.anchors.shape[1] - start)
    word, crowded = FULL >> np.uint64(LANES - size), NO_WORD
    if num_valid:
        valid = rows.valid[sample if num_valid > 1 else 0]
        word = NO_WORD
        for j in range(size):
            word |= np.uint64(valid[start + j]) << np.uint64(j)
    if rows.crowd.shape[0]:
        for i in range(rows.offsets[sample], rows.offsets[sample + 1]):
            if rows.crowd[i] and _reaches(rows.boxes[i], around):
                _share_of_anchor(tile, rows.boxes[i])
                crowded |= lanes.above(tile, IOU, tile.dtype.type(rule.ignore_ioa))
    words[CROWDED, block] = crowded
    words[COUNTS, block] = word & ~crowded if rule.crowd_first else word


@helper
def _improve(tile: Row, wanted: np.uint64, start: int, best: Row, anchor_of: Row, i: int) -> None:
    """Keep the first of the best anchors for an object, if one of the `wanted` anchors of a tile is better."""
    word = lanes.above(tile, IOU, tile.dtype.type(best[i])) & wanted
    if word != NO_WORD:
        best[i] = lanes.largest(tile, IOU, word)
        anchor_of[i] = start + lanes.lowest(lanes.equal(tile, IOU, tile.dtype.type(best[i])) & word)


@inlined
def _label(rows: BoxRows, rule: MatchRule, matched: Matched, sample: int, block: int, words: Row, tile: Row) -> None:
    """Label the anchors of a block by their best objects; all of them are background so far."""
    real, start = tile.dtype.type, block * LANES
    size, first = min(LANES, rows.anchors.shape[1] - start), rows.offsets[sample]
    # Slices, whose indices begin at 0: otherwise the loop would not be vectorised.
    labels, numbers = matched.labels[sample, start : start + size], matched.matched[sample, start : start + size]
    overlaps = matched.overlaps[sample, start : start + size]
    for j in range(size):
        overlaps[j] = np.float32(tile[BEST + j])
    counts = words[COUNTS, block]
    positive = lanes.reaching(tile, BEST, real(rule.pos_iou)) & counts
    left_out = ~counts | words[CROWDED, block]
    if rows.offsets[sample + 1] > first:
        left_out |= lanes.reaching(tile, BEST, real(rule.neg_high))
        left_out |= ~lanes.reaching(tile, BEST, real(rule.neg_low))
    left_out &= ~positive & (FULL >> np.uint64(LANES - size))
    while left_out:
        j = lanes.lowest(left_out)
        numbers[j], labels[j] = LEFT_OUT, rule.ignore_index
        left_out &= left_out - ONE
    while positive:
        j = lanes.lowest(positive)
        i = np.int64(tile[OBJECT + j])
        numbers[j], labels[j] = i, rows.classes[first + i]
        matched.num_anchors[first + i] += 1
        positive &= positive - ONE


@helper
def _visit(
    rows: BoxRows, rule: MatchRule, matched: Matched, corners: Row, sample: int,
    all_around: Row, words: Row, columns: Row, anchor_of: Row, tile: Row,
) -> bool:  # fmt: skip
    """Find the best object of every anchor and the best anchor of every object, and label the anchors.

    Return whether all anchors are boxes with a finite area.
    """
    lanes.use_wide_registers()
    real = tile.dtype.type
    most = real(np.finfo(tile.dtype).max / 4)
    first, last = rows.offsets[sample], rows.offsets[sample + 1]
    matched.labels[sample, :] = rule.background
    matched.matched[sample, :] = UNMATCHED
    for block in range(words.shape[1]):
        around = all_around[block]
        _load(corners, block, tile)
        if lanes.above(tile, AREA, most) != NO_WORD:  # also for NaN
            return False
        _bound(tile, around)
        _count(rows, rule, sample, block, around, words, tile)
        for j in range(LANES):
            tile[BEST + j] = real(0)
        for start in range(first, last, LANES):
            reaching = _reaching(columns, start, last, around)
            while reaching != NO_WORD:
                i = start + lanes.lowest(reaching)
                reaching &= reaching - ONE
                _overlap(tile, rows.boxes[i])
                _keep_best(tile, i - first)
                _improve(tile, words[COUNTS, block], block * LANES, matched.best_iou, anchor_of, i)
        _label(rows, rule, matched, sample, block, words, tile)
    return True


@helper
def _give(rows: BoxRows, matched: Matched, sample: int, anchor: int, number: int) -> None:
    """Give an anchor to an object, and take it from the one that has it."""
    first, numbers = rows.offsets[sample], matched.matched[sample]
    if numbers[anchor] >= 0:
        matched.num_anchors[first + numbers[anchor]] -= 1
    numbers[anchor], matched.labels[sample, anchor] = number, rows.classes[first + number]
    matched.num_anchors[first + number] += 1


@helper
def _best_object(rows: BoxRows, corners: Row, around: Row, sample: int, anchor: int, tile: Row) -> int:
    """Return the object that an anchor overlaps most, the first of equal ones."""
    block, j = anchor // LANES, anchor % LANES
    first, best, number = rows.offsets[sample], tile.dtype.type(0), 0
    _load(corners, block, tile)
    for i in range(first, rows.offsets[sample + 1]):
        if _reaches(rows.boxes[i], around[block]) and not (rows.crowd.shape[0] and rows.crowd[i]):
            _overlap(tile, rows.boxes[i])
            if tile[IOU + j] > best:
                best, number = tile[IOU + j], i - first
    return number


@helper
def _force_bests(
    rows: BoxRows, rule: MatchRule, matched: Matched, corners: Row, around: Row, sample: int,
    words: Row, anchor_of: Row, tile: Row,
) -> None:  # fmt: skip
    """Force every object onto its best anchor, or onto all of its best anchors."""
    real, force = tile.dtype.type, rule.force
    first, num_objects = rows.offsets[sample], rows.offsets[sample + 1] - rows.offsets[sample]
    for step in range(num_objects):
        i = first + (num_objects - 1 - step if rule.first else step)  # a later one overwrites an earlier one
        best = real(matched.best_iou[i])
        if not (best > real(0) and best >= real(rule.force_iou)):
            continue
        if force == ARGMAX:
            _give(rows, matched, sample, anchor_of[i], i - first)
            continue
        for block in range(anchor_of[i] // LANES, words.shape[1]):
            if _reaches(rows.boxes[i], around[block]):
                _load(corners, block, tile)
                _overlap(tile, rows.boxes[i])
                word = lanes.equal(tile, IOU, best) & words[COUNTS, block]
                while word:
                    anchor = block * LANES + lanes.lowest(word)
                    number = i - first
                    if force == OWN_BEST:
                        number = _best_object(rows, corners, around, sample, anchor, tile)
                    _give(rows, matched, sample, anchor, number)
                    word &= word - ONE


@helper
def _next_object(rule: MatchRule, left: Row, anchor_of: Row, first: int, last: int) -> int:
    """Return the object whose pair comes next, -1 if there is none: of equal overlaps, that with the first anchor."""
    top = -1
    for i in range(first, last):
        if left[i] < rule.force_iou:
            left[i] = 0.0
        if left[i] > 0.0 and (
            top < 0 or left[i] > left[top] or (left[i] == left[top] and anchor_of[i] < anchor_of[top])
        ):
            top = i
    return top


@helper
def _force_pairs(
    rows: BoxRows, rule: MatchRule, matched: Matched, corners: Row, around: Row, sample: int,
    words: Row, anchor_of: Row, left: Row, tile: Row,
) -> None:  # fmt: skip
    """Give every object an anchor of its own, the largest overlaps first.

    `left`, (n,), holds the overlap with the best anchor that was free when it was looked for; 0: look no more. It can
    only be too large. So the largest of all, whose anchor is still free, is the largest overlap of any free pair.
    """
    first, last = rows.offsets[sample], rows.offsets[sample + 1]
    for block in range(words.shape[1]):
        words[FREE, block] = words[COUNTS, block]
    for i in range(first, last):
        left[i] = matched.best_iou[i]
    while True:
        top = _next_object(rule, left, anchor_of, first, last)
        if top < 0:
            break
        left[top], anchor = 0.0, anchor_of[top]
        word, bit = words[FREE, anchor // LANES], ONE << np.uint64(anchor % LANES)
        if word & bit:
            words[FREE, anchor // LANES] = word & ~bit
            _give(rows, matched, sample, anchor, top - first)
            continue
        for block in range(words.shape[1]):
            if _reaches(rows.boxes[top], around[block]):
                _load(corners, block, tile)
                _overlap(tile, rows.boxes[top])
                _improve(tile, words[FREE, block], block * LANES, left, anchor_of, top)


@helper
def _are_objects(rows: BoxRows, rule: MatchRule, matched: Matched, sample: int, columns: Row) -> bool:
    """Say whether all boxes of a sample are boxes with a finite area, of classes that an object can have.

    Write them into `columns`, (4, n + 64), where a crowd reaches nothing.
    """
    zero, most = rows.boxes.dtype.type(0), rows.boxes.dtype.type(np.finfo(rows.boxes.dtype).max / 4)
    for i in range(rows.offsets[sample], rows.offsets[sample + 1]):
        width, height = rows.boxes[i, RIGHT] - rows.boxes[i, LEFT], rows.boxes[i, BOTTOM] - rows.boxes[i, TOP]
        if not (width >= zero and height >= zero and width * height <= most):  # also for NaN
            return False
        if rows.classes[i] == rule.background or rows.classes[i] == rule.ignore_index:
            return False
        for side in range(4):
            columns[side, i] = rows.boxes[i, side]
        if rows.crowd.shape[0] and rows.crowd[i]:
            columns[LEFT, i] = np.inf
        matched.num_anchors[i], matched.best_iou[i] = 0, 0.0
    return True


@helper
def _match_sample(
    worker: int, sample: int,
    boxes: Row, classes: Row, crowd: Row, offsets: Row, anchors: Row, valid: Row,
    pos_iou: float, neg_low: float, neg_high: float, force: int, first: bool, force_iou: float, ignore_ioa: float,
    crowd_first: bool, background: int, ignore_index: int,
    labels: Row, matched: Row, overlaps: Row, num_anchors: Row, best_iou: Row, done: Row,
    all_corners: Row, all_around: Row, all_words: Row, tiles: Row, columns: Row, anchor_of: Row, left: Row,
) -> None:  # fmt: skip
    rows = BoxRows(boxes, classes, crowd, offsets, anchors, valid)
    rule = MatchRule(
        pos_iou, neg_low, neg_high, force, first, force_iou, ignore_ioa, crowd_first, background, ignore_index
    )
    into = Matched(labels, matched, overlaps, num_anchors, best_iou, done)
    corners = all_corners[sample if anchors.shape[0] > 1 else 0]
    around, words, tile = all_around[worker], all_words[worker], tiles[worker]
    if not _are_objects(rows, rule, into, sample, columns):
        return
    if not _visit(rows, rule, into, corners, sample, around, words, columns, anchor_of, tile):
        return
    if force == BIPARTITE:
        _force_pairs(rows, rule, into, corners, around, sample, words, anchor_of, left, tile)
    elif force != NO_FORCE:
        _force_bests(rows, rule, into, corners, around, sample, words, anchor_of, tile)
    done[sample] = 1


_MATCH = drivers(_match_sample)


def match(rows: BoxRows, rule: MatchRule, matched: Matched, num_workers: int) -> None:
    """Match every sample of `rows` into `matched`, by at most `num_workers` threads.

    Where an anchor, or a box of a sample, is no box with a finite area, or a class is none that an object can have,
    `Matched.done` stays 0: the caller finds out which.
    """
    (num_sets, num_anchors, _), num_samples = rows.anchors.shape, rows.offsets.size - 1
    num_blocks, num_boxes, real = -(-num_anchors // LANES), rows.boxes.shape[0], rows.boxes.dtype
    num_workers = max(1, min(num_workers, num_samples))
    corners = rows.anchors.reshape(num_sets, num_anchors * 4)
    around = np.empty((num_workers, num_blocks, 4), real)
    words = np.empty((num_workers, WORDS, num_blocks), np.uint64)
    tiles, columns = np.empty((num_workers, TILE), real), np.empty((4, num_boxes + LANES), real)
    anchor_of, left = np.empty(num_boxes, np.int64), np.empty(num_boxes)
    driver = _MATCH[num_workers > 1]
    driver(num_samples, num_workers, *rows, *rule, *matched, corners, around, words, tiles, columns, anchor_of, left)
