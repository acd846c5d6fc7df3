"""The memory of an analysis, `State`: bounded, and the same, bit for bit, for blocks in any order."""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.causes import Explained, Listed, Positives
from ssd_mining.analysis.exact_sums import Totals, by_sample
from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.one_pass import Analysed, Analyser, bins_of
from ssd_mining.analysis.spec import AnalysisSpec
from ssd_mining.analysis.top_k import TopK
from ssd_mining.engine.run import Columns, sample_losses
from ssd_mining.inputs.batch import Batch
from ssd_mining.kernels.records import BINS, EVEN, KEPT, ODD, POSITIVES, SAMPLES, TABLES

POS_MASK = "a pos_mask"
TOTALS = (
    # Sums, with counts of samples, positives, kept negatives, and positives again.
    *("samples", "positives", "kept", "located"),
    *("anchors", "negatives", "without positives", "empty rows"),  # counts only
    *("false alarms", "omitted", "flat", "scored", "like probabilities"),  # counts only
    *("ratio samples", "ratio kept"),  # by ratio
    *("class positives", "class kept", "class located"),  # by class
    *("level positives", "level negatives", "level kept", "level located"),  # by level
    "confusions",  # by `pair_of` two classes
)
_TOP = {"score": np.float64, "sample": np.int64, "anchor": np.int64, "id": object}
BY = ("confidence_loss", "unrecognised", "false_alarm", "misplaced")  # by which scores samples are listed
_OF_A_SAMPLE = {
    **dict.fromkeys((*BY, "positive_sum", "negative_sum"), np.float64),
    **dict.fromkeys(("num_false_alarms", "num_pos", "num_kept"), np.int64),
}
# What else is listed: positives and kept negatives by their loss, objects by the mean loss of their anchors, boxes by
# their mean localization loss, false alarms by their probability.
_OF_AN_OBJECT = dict.fromkeys(("object", "num_anchors", "label", "taken_for"), np.int64)
_OF_OTHERS: dict[str, dict[str, Any]] = {
    "positives": {"label": np.int64, "taken_for": np.int64},
    "kept": {"label": np.int64},
    "objects": _OF_AN_OBJECT,
    "boxes": _OF_AN_OBJECT,
    "alarms": {"loss": np.float64, "label": np.int64},
}
# So many times the entries that are asked for are kept, because those of stuck anchors become one.
FOLDED = 4
# The rows of `State.positions`: samples in which the anchor at a position is positive; in which it is the worst
# positive; in which it is among the worst free negatives.
AS_POSITIVE, WORST_POSITIVE, WORST_NEGATIVE = range(3)

Ids = NDArray[Any] | None  # (B,) of objects


class State:
    """Counts, sums, histograms, and the worst samples, objects and anchors so far."""

    def __init__(self, spec: AnalysisSpec) -> None:
        self.spec = spec
        self.labels: str | None = None  # the form of the labels, once it is known
        self.beside: str | None = None  # what is given beside them, likewise
        self.tables = np.zeros((TABLES, BINS), np.int64)
        self.extremes = dict.fromkeys(("positives", "negatives", "kept", "samples"), (np.nan, np.nan))
        self.totals = {name: Totals() for name in TOTALS}
        self.worst = {name: TopK(spec.top, _TOP | _OF_A_SAMPLE) for name in BY}
        self.worst |= {name: TopK(FOLDED * spec.top, _TOP | own) for name, own in _OF_OTHERS.items()}
        self.positions = np.zeros((3, 0), np.int64)  # (3, A) of samples with one number of anchors
        self.seen = Intervals()
        # The lists of what is only listed. Kept negatives of a class or a level are also in a table.
        self.listed_only = {"alarms": self.worst["alarms"]}
        if spec.classification is None and spec.levels is None:
            self.listed_only["kept"] = self.worst["kept"]

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

    def distribution(self, name: str) -> LossHistogram:
        """Describe the losses of a distribution."""
        return LossHistogram.of(self.histograms[name], *self.extremes[name])

    def add(
        self, batch: Batch, counted: Analyser, found: list[Analysed], told: Explained, columns: Columns, *,
        start: int, ids: Ids,
    ) -> None:  # fmt: skip
        """Add the analysis of a batch whose first sample is number `start`. `columns`: of its samples, with causes."""
        loss = columns["confidence_loss"]
        tables, num_neg = counted.counted()
        self.tables[:SAMPLES] += tables
        self._widen(negatives=counted.extremes.ravel(), samples=loss)
        np.add.at(self.tables[SAMPLES], bins_of(loss), 1)
        self._add_counts(batch, told, columns)
        if self.spec.levels is not None:
            self.totals["level negatives"].add_counts(range(num_neg.size), num_neg)
        names = np.arange(start, start + loss.size) if ids is None else ids
        for name in BY if told.beside.locations is not None else BY[:-1]:
            self._list(name, columns[name], start, names, columns)
        for block in found:
            self._add_sweep(block, columns["positive_sum"][block.samples])
            self._widen(positives=block.positives.losses, kept=block.kept.losses)
        if batch.is_dense:
            self._make_room(batch.shape[1])
        for own in told.positives:
            self._add_positives(own, told, start, names)
        for kept in told.kept:
            self._list("kept", kept.loss, start, names, kept._asdict())
            self._add_tables("kept", told, kept, kept.loss)
            self._add_confusions(kept, np.full(kept.sample.size, told.background), kept.label)
        for alarms in told.alarms:
            self._list("alarms", alarms.probability, start, names, alarms.listed._asdict())
            self._add_positions(WORST_NEGATIVE, alarms.worst)
        self.labels, self.beside = form_of(batch), told.beside.names
        self.seen.add(start, start + loss.size)

    def _add_counts(self, batch: Batch, told: Explained, columns: Columns) -> None:
        """Add the counts and the sums of the samples of a batch."""
        totals = self.totals
        totals["samples"].add(columns["confidence_loss"])
        totals["positives"].add(columns["positive_sum"], counts=columns["num_pos"])
        totals["kept"].add(columns["negative_sum"], counts=columns["num_kept"])
        counts = {
            "anchors": int(batch.offsets[-1]),
            "negatives": int(columns["num_neg"].sum()),
            "empty rows": batch.num_empty,
            "without positives": int((columns["num_pos"] == 0).sum()),
            "false alarms": int(columns["num_false_alarms"].sum()),
            **told.signs,
        }
        for name, count in counts.items():
            if count:
                totals[name].add_counts([0], [count])

    def _add_sweep(self, block: Analysed, positive_sum: NDArray[np.float64]) -> None:
        sweep = block.sweep
        if sweep.num_kept.shape[1]:
            loss = sample_losses(positive_sum[:, None], sweep.negative_sum)
            ratio = np.broadcast_to(np.arange(loss.shape[1]), loss.shape).reshape(-1)
            self.totals["ratio samples"].add(loss.reshape(-1), ratio)
            self.totals["ratio kept"].add(sweep.negative_sum.reshape(-1), ratio, sweep.num_kept.reshape(-1))

    def _add_positives(self, own: Positives, told: Explained, start: int, names: NDArray[Any]) -> None:
        listed = own.listed
        self._list("positives", listed.loss, start, names, listed._asdict() | {"taken_for": own.taken_for})
        if told.beside.matched is not None:
            self._add_objects("objects", own, listed.loss, start, names)
        self._add_tables("positives", told, listed, listed.loss)
        if own.distance is not None:
            self._add_objects("boxes", own, own.distance, start, names)
            self.totals["located"].add(*by_sample(listed.sample, np.zeros_like(listed.sample), own.distance))
            self._add_tables("located", told, listed, own.distance)
        self._add_confusions(listed, listed.label, own.taken_for)
        self._add_positions(AS_POSITIVE, listed.anchor)
        self._add_positions(WORST_POSITIVE, listed.anchor[own.are_worst])

    def _add_objects(self, name: str, own: Positives, cost: NDArray[Any], start: int, names: NDArray[Any]) -> None:
        """Add what may be among the worst objects to a list; `cost`: of every positive."""
        worst, listed, objects = self.worst[name], own.listed, own.objects
        score = objects.mean(cost)
        chosen = worst.candidates(score)
        if chosen.size:
            hardest = objects.hardest(chosen, cost)
            worst.add(
                {
                    "score": score[chosen],
                    "sample": start + objects.sample[chosen],
                    "id": names[objects.sample[chosen]],
                    "object": objects.number[chosen],
                    "num_anchors": objects.num_anchors[chosen],
                    "anchor": listed.anchor[hardest],
                    "label": listed.label[hardest],
                    "taken_for": own.taken_for[hardest],
                }
            )

    def _list(
        self, name: str, score: NDArray[Any], start: int, names: NDArray[Any], columns: Mapping[str, NDArray[Any]]
    ) -> None:
        """Add what may be among the worst to a list. Without a column `sample`, there is one score per sample."""
        worst = self.worst[name]
        chosen = worst.candidates(score)
        if name not in (BY[0], "positives", "kept"):
            chosen = chosen[~(score[chosen] <= 0)]  # a cause of 0 is none
        if chosen.size:  # most blocks have none
            sample = columns["sample"][chosen] if "sample" in columns else chosen
            rows = {"score": score[chosen], "sample": start + sample, "id": names[sample]}
            for each in worst.names - rows.keys():
                rows[each] = columns[each][chosen] if each in columns else np.zeros_like(chosen)
            worst.add(rows)

    def _add_tables(self, role: str, told: Explained, listed: Listed, values: NDArray[Any]) -> None:
        """Add losses of anchors to the tables by class and by level."""
        if role in told.with_classes:
            self.totals[f"class {role}"].add(*by_sample(listed.sample, listed.label, values))
        if self.spec.levels is not None:
            level = np.searchsorted(np.cumsum(self.spec.levels), listed.anchor, "right")
            self.totals[f"level {role}"].add(*by_sample(listed.sample, level, values))

    def _add_confusions(self, listed: Listed, label: NDArray[np.int64], taken_for: NDArray[np.int64]) -> None:
        if self.spec.classification is not None:
            self.totals["confusions"].add(*by_sample(listed.sample, pair_of(label, taken_for), listed.loss))

    def _widen(self, **losses: ArrayLike) -> None:
        """Widen the least and the largest loss of distributions to those of these losses, without NaN."""
        for name, values in losses.items():
            least, largest = self.extremes[name]
            least = np.fmin.reduce(values, dtype=np.float64, initial=least).item()
            self.extremes[name] = least, np.fmax.reduce(values, dtype=np.float64, initial=largest).item()

    def _make_room(self, num_anchors: int) -> None:
        """Make room for the positions of so many anchors."""
        more = num_anchors - self.positions.shape[1]
        if more > 0:
            self.positions = np.pad(self.positions, ((0, 0), (0, more)))

    def _add_positions(self, row: int, anchors: NDArray[np.int64]) -> None:
        if self.positions.shape[1]:  # positions of ragged samples have nothing in common
            self.positions[row] += np.bincount(anchors, minlength=self.positions.shape[1])

    def merge(self, other: "State") -> None:
        """Add the state of other samples."""
        self.labels, self.beside = self.labels or other.labels, self.beside or other.beside
        self.tables += other.tables
        self._widen(**other.extremes)
        for name, totals in self.totals.items():
            totals.merge(other.totals[name])
        for name, worst in self.worst.items():
            worst.add(other.worst[name].columns)
        self._make_room(other.positions.shape[1])
        self.positions[:, : other.positions.shape[1]] += other.positions
        for start, stop in other.seen:
            self.seen.add(start, stop)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "labels": self.labels,
            "beside": self.beside,
            "histograms": [_sparse(counts) for counts in self.histograms.values()],
            "extremes": [[value.hex() for value in extremes] for extremes in self.extremes.values()],
            "totals": {name: totals.to_state() for name, totals in self.totals.items()},
            "worst": {name: worst.to_state() for name, worst in self.worst.items()},
            "positions": [self.positions.shape[1], *map(_sparse, self.positions)],
            "seen": [list(pair) for pair in self.seen],
        }

    @classmethod
    def from_dict(cls, spec: AnalysisSpec, given: Mapping[str, Any]) -> "State":
        """Return the state from the dictionary of `to_dict`."""
        state = cls(spec)
        state.labels, state.beside = given["labels"], given["beside"]
        for table, (bins, number) in zip((POSITIVES, EVEN, KEPT, SAMPLES), given["histograms"], strict=True):
            state.tables[table, bins] = number
        for name, (least, largest) in zip(state.extremes, given["extremes"], strict=True):
            state.extremes[name] = float.fromhex(least), float.fromhex(largest)
        state.totals = {name: Totals.from_state(given["totals"][name]) for name in TOTALS}
        for name, worst in state.worst.items():
            worst.add_state(given["worst"][name])
        num_anchors, *rows = given["positions"]
        state.positions = np.zeros((3, num_anchors), np.int64)
        for row, (anchors, number) in zip(state.positions, rows, strict=True):
            row[anchors] = number
        state.seen = Intervals(given["seen"])
        return state


def _sparse(counts: NDArray[np.int64]) -> list[list[int]]:
    """Return where counts are not 0, and what they are there."""
    present = np.flatnonzero(counts)
    return [present.tolist(), counts[present].tolist()]


def pair_of(label: NDArray[np.int64], taken_for: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number for a class and the class that it is taken for; either may be -1, which is not known."""
    return (label + 1 << 32) + taken_for + 1


def pair(number: int) -> tuple[int, int]:
    """Return both classes of `pair_of`."""
    label, taken_for = divmod(number, 1 << 32)
    return label - 1, taken_for - 1


def form_of(batch: Batch) -> str:
    """Return the form of the labels of a batch."""
    if batch.labels.ndim > len(batch.shape):
        return "scores"
    return POS_MASK if batch.is_pos_mask else "classes"


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
