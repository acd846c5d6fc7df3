"""Visit every sample of a batch once: mine it, count its losses by bin, and see what other ratios keep."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.top_k import TopK
from ssd_mining.engine.run import ANCHORS_EACH, Block, Call, blocks, empty_mined, mine_rows
from ssd_mining.inputs.arrays import read_only
from ssd_mining.inputs.batch import SHORTEST_ROW, Batch
from ssd_mining.kernels import records
from ssd_mining.kernels.records import Counts, Mined, Rows, Rule, Tally
from ssd_mining.mining_rule import Mining

# An anchor whose overlap with every object is below this is free: what it finds there is no part of an object.
FREE_BELOW = 0.1

_ALL_FREE = read_only(np.empty(0, np.uint8))

# At most so much is looked at together, because each anchor takes 100 bytes and more.
MOST_AT_ONCE = 1 << 17


class Sweep(NamedTuple):
    """What b samples keep under each of R ratios."""

    num_kept: Counts  # (b, R)
    negative_sum: NDArray[np.float64]  # (b, R) the losses of the kept negatives, summed
    threshold: NDArray[np.float64]  # (b, R) the loss of the easiest kept negative; NaN where none is kept


class Found(NamedTuple):
    """The anchors of a list, by sample, then by anchor."""

    first: int  # the first sample, counted in the block
    counts: Counts  # (b,) how many anchors each sample has, from the first on
    anchors: Counts  # (m,) indices in the samples
    losses: NDArray[Any]  # (m,)

    def parts(self, most: int, start: int) -> Iterator[tuple["Found", Counts]]:
        """Split into groups of whole samples with at most so many anchors, so that copies stay small.

        With each goes the sample of every anchor, where that of the first sample is `start`.
        """
        if self.anchors.size <= most:
            yield self, np.repeat(np.arange(start + self.first, start + self.first + self.counts.size), self.counts)
            return
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        first = 0
        while first < self.counts.size:
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + most, "right")) - 1)
            own = slice(ends[first], ends[last])
            yield from Found(self.first + first, self.counts[first:last], self.anchors[own], self.losses[own]).parts(
                max(most, own.stop - own.start), start
            )
            first = last

    def candidates(self, worst: TopK) -> "Found":
        """Return those that could be among the worst by their losses."""
        chosen = worst.candidates(self.losses)
        ends = np.searchsorted(chosen, np.cumsum(self.counts))
        return Found(self.first, np.diff(ends, prepend=0), self.anchors[chosen], self.losses[chosen])

    def are_hardest(self) -> NDArray[np.bool_]:
        """Return which anchors have the largest loss of their sample, (m,); NaN is the largest."""
        sizes = self.counts[self.counts > 0]
        losses = np.where(np.isnan(self.losses), np.inf, self.losses)
        largest = np.maximum.reduceat(losses, np.cumsum(sizes) - sizes) if sizes.size else losses
        return np.asarray(losses == np.repeat(largest, sizes))


class Analysed(NamedTuple):
    """What an analysis of a block finds in addition to `Mined`."""

    samples: slice
    sweep: Sweep
    positives: Found
    kept: Found
    free: Found  # the hardest negatives that overlap no object, `records.MOST_FREE` of a sample at most
    free_numbers: NDArray[np.float64]  # (b, FREE_NUMBERS) what is said of their losses


class Analyser:
    """Analyses one batch after the other. It counts their losses by bin until `clear` is called."""

    def __init__(self, ratios: tuple[float, ...], levels: tuple[int, ...] | None, call: Call) -> None:
        self._ratios, self._call = ratios, call
        self._starts = _level_starts(levels or ())
        self._room: tuple[Counts, NDArray[Any]] | None = None  # for the anchors of a block; reused
        self._tables = np.zeros((0, records.SAMPLES, records.BINS), np.int32)  # one table set per worker
        self._levels = np.zeros((0, self._starts.size - 1), np.int64)  # negatives by feature map, one row per worker
        self.extremes = np.zeros((0, 2))  # the least and the largest loss of the negatives, one row per worker

    def analyse(self, batch: Batch) -> tuple[Mined, list[Analysed]]:
        """Mine and analyse a checked batch. A batch with bad values raises and leaves nothing counted."""
        num_anchors = int(batch.offsets[-1])
        workers = 1 if num_anchors < 2 * ANCHORS_EACH else self._call.workers(num_anchors // ANCHORS_EACH)
        dtype = np.dtype(np.int32 if num_anchors < 1 << 31 else np.int64)  # small counts stay in the nearest cache
        if self._tables.shape[0] < workers or self._tables.dtype != dtype:
            self._tables = np.zeros((workers, records.SAMPLES, records.BINS), dtype)
            self._levels = np.zeros((workers, self._levels.shape[1]), np.int64)
            self.extremes = np.full((workers, 2), np.nan)
        mined, found = empty_mined(batch.offsets.size - 1, 0), list[Analysed]()
        try:
            for block in blocks(batch, self._call, mined):
                found.append(self._block(block, batch, workers))
        except BaseException:
            self.clear()
            raise
        return mined, _as_one(found) if len(found) > 1 else found

    def counted(self) -> tuple[Counts, Counts]:
        """Return the losses by table and bin, (SAMPLES, BINS), and the negatives by feature map, (L,), so far."""
        tables = self._tables[0] if self._tables.shape[0] == 1 else self._tables.sum(axis=0, dtype=np.int64)
        return tables, self._levels.sum(axis=0)

    def clear(self) -> None:
        """Start counting from zero."""
        self._tables[...] = 0
        self._levels[...] = 0
        self.extremes[...] = np.nan

    def _block(self, block: Block, batch: Batch, workers: int) -> Analysed:
        """Mine a block, whose record has no masks, and analyse it."""
        (samples, rows, mined), mining = block, batch.mining
        is_free = _ALL_FREE
        if batch.overlaps is not None:
            is_free = read_only((batch.part(batch.overlaps, samples) < FREE_BELOW).view(np.uint8))
        if mining.is_plain and not rows.rank.size:
            return self._visit(block, mining.rule, self._ratios, is_free, workers)
        # The rule decides which negatives compete; the distribution is that of all negatives.
        nothing = read_only(np.zeros(rows.offsets.size - 1, np.int64))
        without = block._replace(rows=rows._replace(quotas=nothing))
        found = self._visit(without, mining.rule.unbounded, (), is_free, workers)
        masked = self._mined(rows, mining, rows.loss.size)
        mined.counts[:], mined.sums[:] = masked.counts, masked.sums
        kept = np.flatnonzero(masked.hard_negative_mask)
        np.add.at(self._tables[0, records.KEPT], bins_of(rows.loss[kept]), 1)
        sweep = _empty_sweep(rows.offsets.size - 1, len(self._ratios))
        for i, ratio in enumerate(self._ratios):
            is_own = ratio == mining.neg_pos_ratio
            each = masked if is_own else self._mined(rows, dataclasses.replace(mining, neg_pos_ratio=ratio), 0)
            sweep.num_kept[:, i], sweep.threshold[:, i] = each.counts[records.NUM_KEPT], each.sums[records.THRESHOLD]
            sweep.negative_sum[:, i] = each.sums[records.NEGATIVE_SUM]
        num_kept = mined.counts[records.NUM_KEPT].copy()
        anchors = kept - np.repeat(rows.offsets[:-1], num_kept)
        return found._replace(sweep=sweep, kept=Found(0, num_kept, anchors, rows.loss[kept]))

    def _mined(self, rows: Rows, mining: Mining, num_masked: int) -> Mined:
        mined = empty_mined(rows.offsets.size - 1, num_masked)
        mine_rows(rows, mining, mined, self._call)
        return mined

    def _visit(
        self, block: Block, rule: Rule, ratios: tuple[float, ...], is_free: NDArray[np.uint8], workers: int
    ) -> Analysed:
        """Analyse plain rows in one pass of the twin."""
        samples, rows, mined = block
        num_samples = rows.offsets.size - 1
        falling, asked = _falling(ratios, rule.ratio)
        size = rows.loss.size + SHORTEST_ROW * num_samples  # short rows are filled up
        if self._room is None or self._room[0].shape[1] < size or self._room[1].dtype != rows.loss.dtype:
            shape = records.LISTS, size
            self._room = np.empty(shape, np.int64), np.empty(shape, rows.loss.dtype)
        places = np.zeros((workers, records.LISTS, 2), np.int64)
        num_free, free = np.zeros(num_samples, np.int64), np.empty((num_samples, records.FREE_NUMBERS))
        sums = _empty_sweep(num_samples, falling.size)
        counted = self._tables, self._levels, self.extremes
        tally = Tally(*sums, *counted, *self._room, places, num_free, free)
        self._call.twin.analyse(rows, rule, falling, self._starts, is_free, mined, tally, workers)
        sweep = Sweep(tally.num_kept[:, asked], tally.negative_sum[:, asked], tally.threshold[:, asked])
        positives, kept = mined.counts[records.NUM_POS].copy(), mined.counts[records.NUM_KEPT].copy()
        lists = [_found(tally, listed, counts) for listed, counts in enumerate((positives, kept, num_free))]
        return Analysed(samples, sweep, lists[0], lists[1], lists[2], free)


def _as_one(found: list[Analysed]) -> list[Analysed]:
    """Return what was found in several blocks as one, if it is little: looking at a block has a fixed cost."""
    lists = [(each.positives, each.kept, each.free) for each in found]
    if sum(own.anchors.size for block in lists for own in block) > MOST_AT_ONCE:
        return found
    samples = slice(found[0].samples.start, found[-1].samples.stop)
    sweep = joined([each.sweep for each in found], found[0].sweep.num_kept.shape[1])
    positives, kept, free = (
        Found(0, *(np.concatenate(columns) for columns in list(zip(*blocks, strict=True))[1:]))
        for blocks in zip(*lists, strict=True)
    )
    return [Analysed(samples, sweep, positives, kept, free, np.concatenate([each.free_numbers for each in found]))]


def _found(tally: Tally, listed: int, counts: Counts) -> Found:
    """Return a copy of the anchors of a list, to which each worker has written its own part."""
    anchors, losses = [], []
    for start, stop in tally.places[:, listed].tolist():
        anchors.append(tally.anchors[listed, start:stop])
        losses.append(tally.losses[listed, start:stop])
    return Found(0, counts, np.concatenate(anchors), np.concatenate(losses))


@functools.lru_cache(maxsize=16)
def _level_starts(levels: tuple[int, ...]) -> Counts:
    """Return where the feature maps begin, and where the last one ends."""
    return read_only(np.concatenate([[0], np.cumsum(levels, dtype=np.int64)]))


@functools.lru_cache(maxsize=16)
def _falling(ratios: tuple[float, ...], own: float) -> tuple[NDArray[np.float64], Counts]:
    """Return all ratios in descending order, and the places of `ratios` among them."""
    negated, place = np.unique(-np.array([*ratios, own], np.float64), return_inverse=True)
    return read_only(-negated), place[: len(ratios)]


def _empty_sweep(num_samples: int, num_ratios: int) -> Sweep:
    """Allocate what a kernel writes for each sample and each ratio."""
    shape = num_samples, num_ratios
    return Sweep(np.zeros(shape, np.int64), np.empty(shape), np.empty(shape))


def joined(sweeps: list[Sweep], num_ratios: int) -> Sweep:
    """Return several sweeps as one."""
    parts = [_empty_sweep(0, num_ratios), *sweeps]
    return Sweep(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def bins_of(values: ArrayLike) -> Counts:
    """Return the bin of each value, (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become inf; some NaN are signalling
        numbers = np.asarray(values).astype(np.float32)
    bins = (numbers.view(np.uint32) >> np.uint32(16)).astype(np.int64)
    bins[np.isnan(numbers)] = records.NAN_BIN
    return bins
