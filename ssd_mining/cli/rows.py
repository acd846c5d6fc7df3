"""The rows that `mine` and `report` print: what a data set has in all, and its worst samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ssd_mining.analysis.result import AnalysisResult
from ssd_mining.files.text import fitted
from ssd_mining.mining_rule import Mining


@dataclass(frozen=True)
class Summary:
    """What ``mine`` says of a file, by the names of a report."""

    losses: str
    labels: str
    num_samples: int
    num_without_pos: int
    num_anchors: int
    num_pos: int
    num_neg: int
    num_kept: int
    positive_sum: float
    negative_sum: float
    loss_sum: float
    loss: float
    normalize: str
    top_samples: dict[str, list[Any]]
    mining: Mining
    hazards: tuple[str, ...]


def total_rows(totals: Summary | AnalysisResult, loss_is: str) -> list[str]:
    """Return a row for each total; `loss_is` says by what the loss is divided."""
    rows = [
        f"{'samples':26}{totals.num_samples:>14,}",
        f"{'samples without positives':26}{totals.num_without_pos:>14,}",
        f"{'anchors':26}{totals.num_anchors:>14,}",
    ]
    counts = {
        "positives": totals.num_pos,
        "negatives": totals.num_neg,
        "ignored": totals.num_anchors - totals.num_pos - totals.num_neg,
        "kept negatives": totals.num_kept,
    }
    rows += [f"{title:26}{count:>14,}{count / max(1, totals.num_anchors):>10.2%}" for title, count in counts.items()]
    return [
        *rows,
        f"{'loss of positives':26}{totals.positive_sum:>14,.7g}  nats",
        f"{'loss of kept negatives':26}{totals.negative_sum:>14,.7g}  nats",
        f"{'confidence loss':26}{totals.loss:>14,.7g}  nats, {loss_is}",
    ]


def worst_rows(title: str, worst: Iterable[tuple[object, float, int, int]]) -> list[str]:
    """Return a row for each of the worst samples: its name, its number, its positives, its kept negatives."""
    rows = [f"{fitted(name, 24):>24}{number:>16,.4f}{pos:>12,}{kept:>17,}" for name, number, pos, kept in worst]
    return ["", f"{title:>40}{'positives':>12}{'kept negatives':>17}", *rows] if rows else []
