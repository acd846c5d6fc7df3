"""The analysis of a block of rows: what mining says, how the losses are distributed, what other ratios keep."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.histogram import BINS, bin_counts
from ssd_mining.engine import run as _backends
from ssd_mining.engine.run import Backend
from ssd_mining.inputs.arrays import read_only
from ssd_mining.inputs.batch import SHORTEST_ROW, Batch
from ssd_mining.kernels.records import NUM_KEPT, NUM_POS, Mined, Rows, Rule
from ssd_mining.kernels.tally import KEPT, TABLES, Tally
from ssd_mining.mining_rule import Mining

# Anchors of a block that are looked at together: what that takes for each of them is 100 bytes and more.
MOST_AT_ONCE = 1 << 17

Counts = NDArray[np.int64]
Given = tuple[Counts, NDArray[np.float64]]


class AnalysisTwin(Protocol):
    """What every backend module of the analysis offers."""

    def analyse(self, rows: Rows, rule: Rule, given: Given, mined: Mined, tally: Tally, num_workers: int) -> None:
        """Mine rows that are ranked by their losses, without masks, and tally them."""


class Swept(NamedTuple):
    """What b samples keep under each of R ratios."""

    num_kept: Counts  # (b, R)
    sums: NDArray[np.float64]  # (b, R) of the losses of the kept negatives
    threshold: NDArray[np.float64]  # (b, R) loss of the easiest of them; NaN where none is kept


class Found(NamedTuple):
    """The anchors of a role, by sample, then by anchor."""

    first: int  # sample of the block
    counts: Counts  # (b,) of it and of the samples that follow
    anchors: Counts  # (m,) in their samples
    losses: NDArray[Any]  # (m,)

    def parts(self) -> Iterator["Found"]:
        """Cut into whole samples, which together have `MOST_AT_ONCE` anchors, so that copies of them stay small."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        first = 0
        while first < self.counts.size:
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + MOST_AT_ONCE, "right")) - 1)
            own = slice(ends[first], ends[last])
            yield Found(self.first + first, self.counts[first:last], self.anchors[own], self.losses[own])
            first = last


class Analysed(NamedTuple):
    """What an analysis of a block finds out beside what mining says."""

    swept: Swept
    positives: Found
    kept: Found


class Analyser:
    """Analyses blocks of rows one after the other, and adds up what they have in common."""

    def __init__(
        self,
        ratios: tuple[float, ...],
        levels: tuple[int, ...] | None,
        num_anchors: int,
        backend: Backend | None,
        num_threads: int | None,
    ) -> None:
        workers = _backends.workers_for(num_anchors, _backends.PARALLEL_ANCHORS, backend, num_threads)
        self._twin = cast("AnalysisTwin", _backends.load_analysis(backend))
        self._threads: Any = {"backend": backend, "num_threads": num_threads}
        self._ratios = ratios
        self._starts = read_only(np.concatenate([[0], np.cumsum(levels or (), dtype=np.int64)]))
        self._found: tuple[Counts, NDArray[Any]] | None = None  # room for the anchors of a block, used again
        self.tables = np.zeros((workers, TABLES, BINS), np.int64)
        self.num_neg = np.zeros((workers, self._starts.size - 1), np.int64)  # by feature map

    def walk(self, batch: Batch, mined: Mined) -> Iterator[tuple[slice, Rows, Mined, Analysed]]:
        """Mine a checked batch into `mined` block by block; yield the samples, rows and results of each."""
        found: list[Analysed] = []

        def mine(rows: Rows, part: Mined) -> None:
            found.append(self.analyse(rows, batch.mining, part))

        for block, rows, part in _backends.walk_with(mine, batch, mined):
            yield block, rows, part, found.pop()

    def analyse(self, rows: Rows, mining: Mining, mined: Mined) -> Analysed:
        """Mine rows into `mined`, which has no masks, and say what else there is to know."""
        if mining.is_plain and not rows.rank.size:
            return self._pass(rows, mining.rule, self._ratios, mined)
        # Which negatives compete is one question, how all of them are distributed another.
        nothing = read_only(np.zeros_like(mined.num_pos))
        found = self._pass(rows._replace(quotas=nothing), mining.rule.unbounded, (), mined)
        masked = self._mined(rows, mining, masks=True)
        mined.counts[:], mined.sums[:] = masked.counts, masked.sums
        kept = np.flatnonzero(masked.hard_negative_mask)
        self.tables[0, KEPT] += bin_counts(rows.loss[kept])
        of_ratios = [
            masked if ratio == mining.neg_pos_ratio else self._mined(rows, _with_ratio(mining, ratio), masks=False)
            for ratio in self._ratios
        ]
        swept = empty_swept(mined.num_pos.size, len(of_ratios))
        for i, each in enumerate(of_ratios):
            swept.num_kept[:, i], swept.sums[:, i] = each.num_kept, each.negative_sum
            swept.threshold[:, i] = each.threshold
        anchors = kept - np.repeat(rows.offsets[:-1], mined.num_kept)
        return Analysed(swept, found.positives, Found(0, mined.num_kept, anchors, rows.loss[kept]))

    def _mined(self, rows: Rows, mining: Mining, *, masks: bool) -> Mined:
        mined = _backends.empty_mined(rows.offsets.size - 1, rows.loss.size if masks else 0)
        _backends.mine_rows(rows, mining, mined, None, **self._threads)
        return mined

    def _pass(self, rows: Rows, rule: Rule, ratios: tuple[float, ...], mined: Mined) -> Analysed:
        """Analyse plain rows in one pass of the twin, for which ratios fall, that of the rule among them."""
        num_samples, workers = mined.num_pos.size, self.tables.shape[0]
        all_ratios = np.array([*ratios, rule.ratio], np.float64)
        falling, place = np.unique(-all_ratios, return_inverse=True)
        room = rows.loss.size + SHORTEST_ROW * num_samples  # of rows that are filled up
        if self._found is None or self._found[0].shape[1] < room:
            self._found = np.empty((2, room), np.int64), np.empty((2, room), rows.loss.dtype)
        places = np.zeros((workers, 2, 2), np.int64)
        tally = Tally(*empty_swept(num_samples, falling.size), self.tables, self.num_neg, *self._found, places)
        self._twin.analyse(rows, rule, (self._starts, read_only(-falling)), mined, tally, workers)
        asked = place[: len(ratios)]
        swept = Swept(tally.num_kept[:, asked], tally.sums[:, asked], tally.threshold[:, asked])
        return Analysed(
            swept, *(_found(tally, role, counts) for role, counts in enumerate(mined.counts[[NUM_POS, NUM_KEPT]]))
        )


def _found(tally: Tally, role: int, counts: Counts) -> Found:
    """Return the anchors of a role, which every worker has written in a place of its own; the next block takes it."""
    anchors, losses = (
        [array[role, start:stop] for start, stop in tally.places[:, role]] for array in (tally.anchors, tally.losses)
    )
    if len(anchors) == 1:  # no copy
        return Found(0, counts, anchors[0], losses[0])
    return Found(0, counts, np.concatenate(anchors), np.concatenate(losses))


def _with_ratio(mining: Mining, ratio: float) -> Mining:
    return dataclasses.replace(mining, neg_pos_ratio=ratio)


def empty_swept(num_samples: int, num_ratios: int) -> Swept:
    """Allocate what a kernel writes about some samples under each of some ratios."""
    shape = num_samples, num_ratios
    return Swept(np.zeros(shape, np.int64), np.empty(shape), np.empty(shape))
