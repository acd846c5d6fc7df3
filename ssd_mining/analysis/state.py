"""What is known of the samples seen so far, in bounded memory: `Summary`, which adds up in any order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis import parts
from ssd_mining.analysis.exact_sums import Totals
from ssd_mining.analysis.histogram import BINS, bin_counts
from ssd_mining.analysis.one_pass import Analyser, Found, Swept
from ssd_mining.analysis.parts import POS_MASK, ROLES, AnalysisSpec, Place, Role
from ssd_mining.analysis.top_k import Stretches, Worst
from ssd_mining.engine import run as _backends
from ssd_mining.engine.lazy_losses import LogitLosses
from ssd_mining.inputs.batch import Batch
from ssd_mining.kernels.records import Mined
from ssd_mining.kernels.tally import EVEN, KEPT, ODD, POSITIVES, SAMPLES, TABLES

DISTRIBUTIONS = ("positives", "negatives", "kept", "samples")
TOTALS = (
    *("samples", "positives", "kept"),  # sums of samples; their counts are of samples, positives, kept negatives
    *("anchors", "negatives", "without positives"),  # counts alone
    *("ratio samples", "ratio kept"),  # by ratio
    *("class positives", "class kept"),  # by class
    *("level positives", "level negatives", "level kept"),  # by level
)

Ids = list[str | int] | None
Columns = dict[str, NDArray[Any]]


class Summary:
    """Counts, sums, histograms and the worst of the samples seen so far."""

    def __init__(self, spec: AnalysisSpec, before: "Summary | None" = None) -> None:
        """Begin a summary, one that will be merged into another, if there is one `before`."""
        self.spec = spec
        self.labels: str | None = None  # their form, once it is known
        self.tables = np.zeros((TABLES, BINS), np.int64)
        self.totals = {name: Totals() for name in TOTALS}
        self.worst = {name: Worst(spec.top) for name in ("samples", "anchors")}
        for name, worst in ({} if before is None else before.worst).items():
            self.worst[name].floor = worst.least
        self.seen = Stretches()

    @property
    def histograms(self) -> dict[str, NDArray[np.int64]]:
        """The losses by bin, of every distribution."""
        negatives = self.tables[EVEN] + self.tables[ODD]
        others = {"positives": POSITIVES, "kept": KEPT, "samples": SAMPLES}
        return {name: self.tables[others[name]] if name in others else negatives for name in DISTRIBUTIONS}

    def add(self, batch: Batch, logits: LogitLosses | None, start: int, ids: Ids, num_threads: int | None) -> Columns:
        """Mine a checked batch, add it, and return what is said of its samples; if that fails, this is spoilt."""
        mined = _backends.empty_mined(batch.num_samples, 0)
        analyser = Analyser(self.spec.ratios, self.spec.levels, batch.conf_loss.size, self.spec.backend, num_threads)
        for block, rows, part, (swept, *by_role) in analyser.walk(batch, mined):
            self._sweep(swept, part)
            for role, found in zip(ROLES, by_role, strict=True):
                for some in found.parts():
                    self._add_anchors(role, some, Place(batch, logits, block, rows), start, ids)
        self.tables = analyser.tables[0]
        for table in analyser.tables[1:]:
            self.tables += table
        if self.spec.levels is not None:
            self.totals["level negatives"].add_counts(range(len(self.spec.levels)), analyser.num_neg.sum(axis=0))
        loss = parts.loss_of(mined.positive_sum, mined.negative_sum)
        self._count_samples(batch, mined, loss)
        self._keep_samples(mined, loss, start, ids)
        self.labels = parts.form_of(batch)
        self.seen.add(start, start + batch.num_samples)
        return parts.sample_columns(mined, loss, start, ids)

    def _add_anchors(self, role: Role, found: Found, place: Place, start: int, ids: Ids) -> None:
        self._keep_anchors(role, found, place, start, ids)
        tells_class = self.spec.classification is not None or (
            role == "positives" and parts.form_of(place.batch) != POS_MASK
        )
        if not tells_class and self.spec.levels is None:
            return
        sample = np.repeat(found.first + np.arange(found.counts.size), found.counts)
        if tells_class:
            label = parts.labels_of(place, role, sample, found.anchors)
            self.totals[f"class {role}"].add(*parts.by_sample(sample, label, found.losses))
        if self.spec.levels is not None:
            level = np.searchsorted(np.cumsum(self.spec.levels), found.anchors, "right")
            self.totals[f"level {role}"].add(*parts.by_sample(sample, level, found.losses))

    def _sweep(self, swept: Swept, mined: Mined) -> None:
        loss = parts.loss_of(mined.positive_sum[:, None], swept.sums)
        ratio = np.broadcast_to(np.arange(loss.shape[1]), loss.shape).reshape(-1)
        self.totals["ratio samples"].add(loss.reshape(-1), ratio)
        self.totals["ratio kept"].add(swept.sums.reshape(-1), ratio, counts=swept.num_kept.reshape(-1))

    def _count_samples(self, batch: Batch, mined: Mined, loss: NDArray[np.float64]) -> None:
        self.tables[SAMPLES] += bin_counts(loss)
        self.totals["samples"].add(loss)
        self.totals["positives"].add(mined.positive_sum, counts=mined.num_pos)
        self.totals["kept"].add(mined.negative_sum, counts=mined.num_kept)
        for name, number in (
            ("anchors", batch.conf_loss.size),
            ("negatives", mined.num_neg.sum()),
            ("without positives", np.count_nonzero(mined.num_pos == 0)),
        ):
            self.totals[name].add_counts([0], [int(number)])

    def _keep_samples(self, mined: Mined, loss: NDArray[np.float64], start: int, ids: Ids) -> None:
        worst = self.worst["samples"]
        rest = mined.positive_sum, mined.negative_sum, mined.num_pos, mined.num_kept
        chosen = worst.candidates(loss)
        numbers = (start + chosen).tolist()
        names = numbers if ids is None else [ids[i] for i in chosen.tolist()]
        columns = (column[chosen].tolist() for column in (loss, *rest))
        worst.add(
            (value, number, 0, name, *others)
            for number, name, value, *others in zip(numbers, names, *columns, strict=True)
        )

    def _keep_anchors(self, role: Role, found: Found, place: Place, start: int, ids: Ids) -> None:
        worst = self.worst["anchors"]
        chosen = worst.candidates(found.losses)
        if not chosen.size:  # as of most blocks
            return
        sample = found.first + np.searchsorted(np.cumsum(found.counts), chosen, "right")
        anchor = found.anchors[chosen]
        label = parts.labels_of(place, role, sample, anchor)
        numbers = (place.block.start + sample).tolist()
        names = [start + i if ids is None else ids[i] for i in numbers]
        loss, anchors, labels = (column.tolist() for column in (found.losses[chosen], anchor, label))
        roles = [role == "positives"] * len(names)
        worst.add(zip(loss, (start + i for i in numbers), anchors, names, roles, labels, strict=True))

    def merge(self, other: "Summary") -> None:
        """Add what another knows of other samples."""
        self.labels = self.labels or other.labels
        self.tables += other.tables
        for name, totals in self.totals.items():
            totals.merge(other.totals[name])
        for name, worst in self.worst.items():
            worst.add(other.worst[name].records)
        for start, stop in other.seen:
            self.seen.add(start, stop)

    def to_state(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        present = [(np.flatnonzero(counts), counts) for counts in self.histograms.values()]
        return {
            "labels": self.labels,
            "histograms": [[bins.tolist(), counts[bins].tolist()] for bins, counts in present],
            "totals": {name: totals.to_state() for name, totals in self.totals.items()},
            "worst": {name: worst.to_state() for name, worst in self.worst.items()},
            "seen": [list(pair) for pair in self.seen],
        }

    @classmethod
    def from_state(cls, spec: AnalysisSpec, state: Mapping[str, Any]) -> "Summary":
        """Return what `to_state` told."""
        summary = cls(spec)
        summary.labels = state["labels"]
        for table, (bins, number) in zip((POSITIVES, EVEN, KEPT, SAMPLES), state["histograms"], strict=True):
            summary.tables[table, bins] = number
        summary.totals = {name: Totals.from_state(state["totals"][name]) for name in TOTALS}
        for name, worst in summary.worst.items():
            worst.add_state(state["worst"][name])
        summary.seen = Stretches(state["seen"])
        return summary
