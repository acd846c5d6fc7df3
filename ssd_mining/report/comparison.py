"""What changed between two reports: sample by sample, in all, and which negatives both mine."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.result import Table
from ssd_mining.checks import DataError
from ssd_mining.report.saved_report import SavedReport

COMPARISON_SCHEMA = 1
TOTALS = ("loss", "num_pos", "num_neg", "num_kept", "positive_sum", "negative_sum")


@dataclass(frozen=True, eq=False, repr=False)
class Changes(Table):
    """The names or numbers of n samples, their losses in A and in B in nats, and the change; see `change`."""

    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    loss_a: NDArray[np.float64] = field(metadata={"title": "Loss in A"})
    loss_b: NDArray[np.float64] = field(metadata={"title": "Loss in B"})
    change: NDArray[np.float64] = field(metadata={"title": "Change"})

    def rows(self, chosen: NDArray[np.int64]) -> "Changes":
        """Return some of the samples."""
        return Changes(self.id[chosen], self.loss_a[chosen], self.loss_b[chosen], self.change[chosen])


@dataclass(frozen=True)
class Total:
    """A number of the whole data set in A and in B."""

    a: float
    b: float
    change: float


@dataclass(frozen=True)
class SampleCounts:
    """How many samples are in both reports, what became of them, and how many are in one only."""

    both: int
    worse: int
    better: int
    equal: int
    only_a: int
    only_b: int


@dataclass(frozen=True)
class Churn:
    """How many negatives are mined in A, in B and in both, and in how many samples they differ."""

    kept_a: int
    kept_b: int
    kept_both: int
    overlap: float
    changed_samples: int


@dataclass(frozen=True)
class Comparison:
    """What is said of two reports."""

    schema: int
    totals: dict[str, Total]
    samples: SampleCounts
    quantiles: dict[str, dict[str, dict[str, float | None]]]  # by distribution, then "a" or "b", then probability
    worse: Changes
    better: Changes
    a: str
    b: str
    churn: Churn | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return asdict(self) | {"worse": self.worse.lists(), "better": self.better.lists()}


class Paired(NamedTuple):
    """The samples that are in both reports, in the order of A: where each stands in A, and where in B."""

    in_a: NDArray[np.int64]  # (n,)
    in_b: NDArray[np.int64]  # (n,)


def paired(a: SavedReport, b: SavedReport) -> Paired:
    """Pair samples by their names; without names, by their numbers."""
    if a.has_names != b.has_names:
        known = {True: "with names", False: "without names"}
        expected, got = known[a.has_names], known[b.has_names]
        raise DataError(f"{b.name}: expected samples {expected}, as in {a.name}, got samples {got}")
    if not a.has_names and a.size != b.size:
        expected = f"the {a.size:,} samples of {a.name}, for they have no names"
        raise DataError(f"{b.name}: expected {expected}, got {b.size:,}; name them with --ids")
    places = {name: place for place, name in enumerate(b.ids.tolist())}
    pairs = [(i, places[name]) for i, name in enumerate(a.ids.tolist()) if name in places]
    return Paired(*np.array(pairs, np.int64).reshape(-1, 2).T)


def changes_of(a: SavedReport, b: SavedReport, pairs: Paired) -> Changes:
    """Return what became of the samples that are in both."""
    before, after = a.columns["confidence_loss"][pairs.in_a], b.columns["confidence_loss"][pairs.in_b]
    return Changes(a.ids[pairs.in_a], before, after, change(before, after))


def change(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the change of every loss, (n,): 0 where both are the same infinity or both NaN.

    Else it is infinite where one of them is NaN, the worst loss there is.
    """
    with np.errstate(invalid="ignore"):
        difference = after - before
    was_nan, is_nan = np.isnan(before), np.isnan(after)
    difference[is_nan & ~was_nan], difference[was_nan & ~is_nan] = np.inf, -np.inf
    difference[(before == after) | (was_nan & is_nan)] = 0
    return difference


def compared(a: SavedReport, b: SavedReport, changes: Changes, top: int, churn: Churn | None) -> Comparison:
    """Return the comparison; it names the `top` samples that got worse, and better."""
    change = changes.change
    worst = np.argsort(-change, kind="stable")
    before, after = ({name: number_of(report.summary[name]) for name in TOTALS} for report in (a, b))
    in_a, in_b = a.summary["distributions"], b.summary["distributions"]
    return Comparison(
        schema=COMPARISON_SCHEMA,
        totals={name: Total(before[name], after[name], after[name] - before[name]) for name in TOTALS},
        samples=SampleCounts(
            both=change.size,
            worse=int((change > 0).sum()),
            better=int((change < 0).sum()),
            equal=int((change == 0).sum()),
            only_a=a.size - change.size,
            only_b=b.size - change.size,
        ),
        quantiles={
            name: {"a": in_a[name]["quantiles"], "b": in_b[name]["quantiles"]}
            for name in ("positives", "negatives", "kept", "samples")
        },
        worse=changes.rows(worst[change[worst] > 0][:top]),
        better=changes.rows(worst[change[worst] < 0][::-1][:top]),
        a=a.name,
        b=b.name,
        churn=churn,
    )


def number_of(value: float | None) -> float:
    """Return a number of a summary, where null stands for NaN and infinity."""
    return float("nan") if value is None else value
