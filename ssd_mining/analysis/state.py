"""The memory of an analysis, `State`: bounded, and the same, bit for bit, for blocks in any order."""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.exact_sums import Totals, by_sample
from ssd_mining.analysis.one_pass import Analysed, Analyser, Found, bin_counts
from ssd_mining.analysis.spec import AnalysisSpec
from ssd_mining.analysis.top_k import TopK
from ssd_mining.engine.run import Columns, sample_losses
from ssd_mining.inputs.batch import Batch
from ssd_mining.kernels.records import BINS, EVEN, KEPT, ODD, POSITIVES, SAMPLES, TABLES

POS_MASK = "a pos_mask"
TOTALS = (
    *("samples", "positives", "kept"),  # sums, with counts of samples, positives, kept negatives
    *("anchors", "negatives", "without positives", "empty rows"),  # counts only
    *("ratio samples", "ratio kept"),  # by ratio
    *("class positives", "class kept"),  # by class
    *("level positives", "level negatives", "level kept"),  # by level
)
_TOP = {"loss": np.float64, "sample": np.int64, "anchor": np.int64, "id": object}
_TOP_SAMPLES = {"positive_sum": np.float64, "negative_sum": np.float64, "num_pos": np.int64, "num_kept": np.int64}
_TOP_ANCHORS = {"is_positive": np.bool_, "label": np.int64}

Ids = list[str | int] | None


class State:
    """Counts, sums, histograms, and the worst samples and anchors so far."""

    def __init__(self, spec: AnalysisSpec) -> None:
        self.spec = spec
        self.labels: str | None = None  # the form of the labels, once it is known
        self.tables = np.zeros((TABLES, BINS), np.int64)
        self.totals = {name: Totals() for name in TOTALS}
        self.worst = {"samples": TopK(spec.top, _TOP | _TOP_SAMPLES), "anchors": TopK(spec.top, _TOP | _TOP_ANCHORS)}
        self.seen = Intervals()

    @property
    def histograms(self) -> dict[str, NDArray[np.int64]]:
        """Counts of losses by bin, for every distribution."""
        tables = self.tables
        return {
            "positives": tables[POSITIVES],
            "negatives": tables[EVEN] + tables[ODD],
            "kept": tables[KEPT],
            "samples": tables[SAMPLES],
        }

    def add(
        self, batch: Batch, columns: Columns, found: list[Analysed], counted: Analyser, start: int, ids: Ids
    ) -> NDArray[np.float64]:
        """Add the analysis of a batch whose first sample is number `start`. Return the losses of its samples."""
        totals, positive_sum, negative_sum = self.totals, columns["positive_sum"], columns["negative_sum"]
        loss = sample_losses(positive_sum, negative_sum)
        tables, num_neg = counted.counted()
        self.tables += tables
        self.tables[SAMPLES] += bin_counts(loss)
        totals["samples"].add(loss)
        totals["positives"].add(positive_sum, counts=columns["num_pos"])
        totals["kept"].add(negative_sum, counts=columns["num_kept"])
        totals["anchors"].add_counts([0], [int(batch.offsets[-1])])
        totals["negatives"].add_counts([0], [int(columns["num_neg"].sum())])
        if batch.num_empty:
            totals["empty rows"].add_counts([0], [batch.num_empty])
        totals["without positives"].add_counts([0], [np.count_nonzero(columns["num_pos"] == 0)])
        if self.spec.levels is not None:
            totals["level negatives"].add_counts(range(num_neg.size), num_neg)
        self._add_samples(columns, loss, start, ids)
        for block in found:
            self._add_sweep(block, positive_sum[block.samples])
            for role, anchors in (("positives", block.positives), ("kept", block.kept)):
                for part in anchors.parts():
                    self._add_anchors(batch, role, part, block.samples.start, start, ids)
        self.labels = form_of(batch)
        self.seen.add(start, start + loss.size)
        return loss

    def _add_sweep(self, block: Analysed, positive_sum: NDArray[np.float64]) -> None:
        sweep = block.sweep
        if sweep.num_kept.shape[1]:
            loss = sample_losses(positive_sum[:, None], sweep.negative_sum)
            ratio = np.broadcast_to(np.arange(loss.shape[1]), loss.shape).reshape(-1)
            self.totals["ratio samples"].add(loss.reshape(-1), ratio)
            self.totals["ratio kept"].add(sweep.negative_sum.reshape(-1), ratio, sweep.num_kept.reshape(-1))

    def _add_samples(self, columns: Columns, loss: NDArray[np.float64], start: int, ids: Ids) -> None:
        worst = self.worst["samples"]
        chosen = worst.candidates(loss)
        if not chosen.size:
            return
        sample = start + chosen
        worst.add(
            {
                "loss": loss[chosen],
                "sample": sample,
                "anchor": np.zeros_like(chosen),
                "id": sample if ids is None else np.array(ids, object)[chosen],
                **{name: columns[name][chosen] for name in _TOP_SAMPLES},
            }
        )

    def _add_anchors(self, batch: Batch, role: str, found: Found, first: int, start: int, ids: Ids) -> None:
        """Add the anchors of a role of a block. The first sample of the block is number `first` of the batch."""
        classes = true_classes if role == "positives" else taken_for
        worst = self.worst["anchors"]
        chosen = worst.candidates(found.losses)
        if chosen.size:  # most blocks have none
            sample = first + found.first + np.searchsorted(np.cumsum(found.counts), chosen, "right")
            anchor = found.anchors[chosen]
            worst.add(
                {
                    "loss": found.losses[chosen],
                    "sample": start + sample,
                    "anchor": anchor,
                    "id": start + sample if ids is None else np.array(ids, object)[sample],
                    "is_positive": np.full(chosen.size, role == "positives"),
                    "label": classes(batch, sample, anchor),
                }
            )
        tells_class = batch.logits is not None or (role == "positives" and form_of(batch) != POS_MASK)
        if not tells_class and self.spec.levels is None:
            return
        sample = first + np.repeat(found.first + np.arange(found.counts.size), found.counts)
        if tells_class:
            label = classes(batch, sample, found.anchors)
            self.totals[f"class {role}"].add(*by_sample(sample, label, found.losses))
        if self.spec.levels is not None:
            level = np.searchsorted(np.cumsum(self.spec.levels), found.anchors, "right")
            self.totals[f"level {role}"].add(*by_sample(sample, level, found.losses))

    def merge(self, other: "State") -> None:
        """Add the state of other samples."""
        self.labels = self.labels or other.labels
        self.tables += other.tables
        for name, totals in self.totals.items():
            totals.merge(other.totals[name])
        for name, worst in self.worst.items():
            worst.add(other.worst[name].columns)
        for start, stop in other.seen:
            self.seen.add(start, stop)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        present = [(np.flatnonzero(counts), counts) for counts in self.histograms.values()]
        return {
            "labels": self.labels,
            "histograms": [[bins.tolist(), counts[bins].tolist()] for bins, counts in present],
            "totals": {name: totals.to_state() for name, totals in self.totals.items()},
            "worst": {name: worst.to_state() for name, worst in self.worst.items()},
            "seen": [list(pair) for pair in self.seen],
        }

    @classmethod
    def from_dict(cls, spec: AnalysisSpec, given: Mapping[str, Any]) -> "State":
        """Return the state from the dictionary of `to_dict`."""
        state = cls(spec)
        state.labels = given["labels"]
        for table, (bins, number) in zip((POSITIVES, EVEN, KEPT, SAMPLES), given["histograms"], strict=True):
            state.tables[table, bins] = number
        totals = {"empty rows": Totals().to_state(), **given["totals"]}  # version 0.1.0 did not count these
        state.totals = {name: Totals.from_state(totals[name]) for name in TOTALS}
        for name, worst in state.worst.items():
            worst.add_state(given["worst"][name])
        state.seen = Intervals(given["seen"])
        return state


def form_of(batch: Batch) -> str:
    """Return the form of the labels of a batch."""
    if batch.labels.ndim > len(batch.shape):
        return "scores"
    return POS_MASK if batch.labels.dtype.kind == "b" else "classes"


def true_classes(batch: Batch, sample: NDArray[np.int64], anchor: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the classes of some positives; -1 where the labels do not say."""
    labels = batch.labels[sample, anchor] if batch.is_dense else batch.labels[batch.offsets[sample] + anchor]
    if labels.dtype == np.bool_:
        return np.full(labels.shape[0], -1)
    if labels.ndim == 1:
        return labels.astype(np.int64)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1)


def taken_for(batch: Batch, sample: NDArray[np.int64], anchor: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the foreground classes with the largest logits of some anchors; -1 without logits."""
    logits = batch.logits
    if logits is None:
        return np.full(anchor.size, -1)
    place = (sample, anchor) if batch.is_dense else (np.zeros_like(anchor), batch.offsets[sample] + anchor)
    scores = logits.values[place]  # (m, C)
    background = -1 if logits.background is None else logits.background
    if background == scores.shape[1]:  # a sigmoid head without a column for background
        return np.asarray(scores.argmax(axis=1))
    foreground = np.delete(np.arange(scores.shape[1]), background)
    return foreground[scores[:, foreground].argmax(axis=1)] if foreground.size else np.full(anchor.size, -1)


class Intervals:
    """A set of whole numbers, as disjoint intervals [start, stop) in ascending order."""

    def __init__(self, pairs: Iterable[Sequence[int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in pairs:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    @property
    def stop(self) -> int:
        """One more than the largest number."""
        return self._stops[-1] if self._stops else 0

    def first_of(self, start: int, stop: int) -> int | None:
        """Return the smallest number of an interval that is in the set; None if none is."""
        if start == stop:
            return None
        i = bisect.bisect_right(self._stops, start)
        if i < len(self._starts) and self._starts[i] < stop:
            return max(start, self._starts[i])
        return None

    def add(self, start: int, stop: int) -> None:
        """Add an interval, none of which is in the set."""
        if start == stop:
            return
        i = bisect.bisect_left(self._stops, start)  # the first interval that the new one touches or precedes
        j = bisect.bisect_right(self._starts, stop)
        if i < j:
            start, stop = min(start, self._starts[i]), max(stop, self._stops[j - 1])
        self._starts[i:j], self._stops[i:j] = [start], [stop]
