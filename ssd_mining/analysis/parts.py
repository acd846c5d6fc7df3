"""The parts of an analysis: its settings as one value, and what one block of rows adds to it."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.exact_sums import numbered
from ssd_mining.checks import check_int, check_number, refuse
from ssd_mining.classification import Classification, Focal, Sigmoid, Softmax
from ssd_mining.engine.lazy_losses import LogitLosses
from ssd_mining.engine.run import Backend
from ssd_mining.inputs.arrays import as_array
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.logits import check_class_axis
from ssd_mining.kernels.records import Mined, Rows
from ssd_mining.mining_rule import Mining

POS_MASK = "a pos_mask"

Role = Literal["positives", "kept"]
ROLES: tuple[Role, Role] = ("positives", "kept")

_LOSSES = {kind.__name__: kind for kind in (Softmax, Sigmoid, Focal)}


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """The settings of a `LossAnalysis`, which describes them: two with equal settings can be merged."""

    mining: Mining
    ratios: tuple[float, ...]
    levels: tuple[int, ...] | None
    top: int
    classification: Classification | None
    class_axis: int
    backend: Backend | None

    def __post_init__(self) -> None:
        check_ratios(self.ratios)
        for size in self.levels or ():
            check_int("levels", size, lowest=1)
        check_int("top", self.top, lowest=0)
        check_class_axis(self.class_axis)
        if self.classification is not None and not isinstance(self.classification, Classification):
            expected = "a Softmax, a Sigmoid, a Focal or None"
            refuse("classification", expected, type(self.classification).__name__, TypeError)
        check_by_sample(self.mining)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        kind = self.classification
        return {
            "mining": {name: _number(value) for name, value in dataclasses.asdict(self.mining).items()},
            "ratios": [float(ratio) for ratio in self.ratios],
            "levels": None if self.levels is None else [int(size) for size in self.levels],
            "top": int(self.top),
            "classification": None if kind is None else {"kind": type(kind).__name__, **dataclasses.asdict(kind)},
            "class_axis": self.class_axis,
            "backend": self.backend,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "AnalysisSpec":
        """Return the settings that `to_dict` told."""
        kind = given["classification"]
        if kind is not None:
            fields = dict(kind)
            kind = _LOSSES[fields.pop("kind")](**fields)
        own = {
            "mining": Mining(**given["mining"]),
            "ratios": tuple(given["ratios"]),
            "levels": None if given["levels"] is None else tuple(given["levels"]),
            "classification": kind,
        }
        return cls(**{**given, **own})


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def check_sequence(name: str, value: Any) -> tuple[Any, ...]:
    """Return numbers that were given in a sequence or in an array, whatever their values."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        refuse(name, "a sequence of numbers", f"{value!r}", TypeError)
    return tuple(value.tolist() if isinstance(value, np.ndarray) else value)


def check_ratios(ratios: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse ratios of negatives per positive that are none, or not all different."""
    for ratio in ratios:
        check_number("ratios", ratio, lowest=0)
    if len(set(ratios)) < len(ratios):
        refuse("ratios", "numbers that differ", f"{list(ratios)}")
    return ratios


def check_by_sample(mining: Mining) -> None:
    """Refuse rules that look beyond the sample: what they keep depends on how a data set is split into blocks."""
    reason = "depend on how the data set is split into blocks"
    if mining.scope != "sample":
        refuse("scope", f'"sample", for other scopes {reason}', repr(mining.scope))
    if mining.pool_size > 1:
        refuse("pool_size", f"1, for draws {reason}", f"{mining.pool_size}")


def check_ids(ids: Sequence[Any] | NDArray[Any] | None, num_samples: int) -> list[str | int] | None:
    """Check what the caller calls the samples of a block."""
    if ids is None:
        return None
    if isinstance(ids, str) or not isinstance(ids, Sequence | np.ndarray):
        refuse("ids", "a sequence of ids", f"{ids!r}", TypeError)
    names = as_array("ids", ids).tolist() if isinstance(ids, np.ndarray) else list(ids)
    if len(names) != num_samples:
        refuse("ids", f"one for each of {num_samples} samples", f"{len(names)}")
    for i, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int):
            refuse("ids", "strings or whole numbers", f"{name!r} at {i}", TypeError)
    if len(set(names)) < len(names):
        ((twice, _),) = Counter(names).most_common(1)
        refuse("ids", "another for every sample", f"{twice!r} twice")
    return names


def check_levels(levels: tuple[int, ...], batch: Batch) -> None:
    """Check that feature maps make up the anchors of a batch."""
    if not batch.is_dense:
        refuse("sample_offsets", "none beside levels, which every sample must have alike", "both", TypeError)
    num_anchors = batch.conf_loss.shape[1]
    if sum(levels) != num_anchors:
        got = f"{list(levels)}, which make {sum(levels)}"
        refuse("levels", f"sizes that add up to the {num_anchors} anchors", got)


def form_of(batch: Batch) -> str:
    """Say what the labels of a batch are."""
    if batch.labels.ndim > batch.conf_loss.ndim:
        return "scores"
    return POS_MASK if batch.labels.dtype.kind == "b" else "classes"


class Place(NamedTuple):
    """A block of samples: where it stands in its batch, and the rows that were made of it."""

    batch: Batch
    logits: LogitLosses | None
    block: slice
    rows: Rows


def labels_of(place: Place, role: Role, sample: NDArray[np.int64], anchor: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class of some positives, or what some negatives are taken for; -1 where that is not known."""
    batch, logits, block, rows = place
    places = rows.offsets[sample] + anchor
    if role == "positives":
        return _classes(batch.part(batch.labels, block)[places])
    if logits is None:
        return np.full(places.size, -1)
    if batch.is_dense:
        return _taken_for(logits, block.start + sample, anchor)
    return _taken_for(logits, np.zeros_like(places), batch.anchors(block).start + places)


def _classes(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the class that each of some labels tells, -1 where it does not."""
    if labels.dtype == np.bool_:
        return np.full(labels.shape[0], -1)
    if labels.ndim == 1:
        return labels.astype(np.int64)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1)


def _taken_for(logits: LogitLosses, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the foreground class with the largest logit of some anchors, -1 where there is none."""
    scores = logits.logits[row, column]  # (m, C)
    background = -1 if logits.background is None else logits.background
    if background == scores.shape[1]:  # of a sigmoid head without a column for it
        return np.asarray(scores.argmax(axis=1))
    foreground = np.delete(np.arange(scores.shape[1]), background)
    return foreground[scores[:, foreground].argmax(axis=1)] if foreground.size else np.full(row.size, -1)


def by_sample(
    sample: NDArray[np.int64], group: NDArray[np.int64], losses: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Sum and count losses, in their order, by sample and group: sums, groups, counts.

    The sums of samples are float64, like all others; their totals are exact.
    """
    names, rows = numbered(group)
    cells, rows = numbered(sample * max(1, names.size) + rows)
    counts = np.bincount(rows, minlength=cells.size)
    present = np.flatnonzero(counts)
    with np.errstate(invalid="ignore"):  # some bits of NaN signal when they are widened
        sums = np.bincount(rows, losses, cells.size)[present].astype(np.float64)
    return sums, names[cells[present] % max(1, names.size)], counts[present].astype(np.int64)


def loss_of(positive_sum: NDArray[np.float64], negative_sum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the confidence losses of some samples."""
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, as in confidence_loss
        return positive_sum + negative_sum


def columns_of(records: list[tuple[Any, ...]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return records as columns of these names."""
    columns = {name: [record[i] for record in records] for i, name in enumerate(names)}
    return {name: _column(name, values) for name, values in columns.items()}


def _column(name: str, values: list[Any]) -> NDArray[Any]:
    if name == "id":
        return id_array(values)
    kind = np.float64 if name in ("loss", "positive_sum", "negative_sum") else np.int64
    return np.array(values, np.bool_ if name == "is_positive" else kind)


def sample_columns(
    mined: Mined, loss: NDArray[np.float64], start: int, ids: list[Any] | None
) -> dict[str, NDArray[Any]]:
    """Return what is said of every sample of a batch."""
    names = {} if ids is None else {"id": id_array(ids)}
    return {
        "sample": np.arange(start, start + loss.size),
        **names,
        "num_pos": mined.num_pos,
        "num_neg": mined.num_neg,
        "num_kept": mined.num_kept,
        "positive_sum": mined.positive_sum,
        "negative_sum": mined.negative_sum,
        "confidence_loss": loss,
        "threshold": mined.threshold,
    }


def id_array(ids: list[str | int]) -> NDArray[Any]:
    """Return ids as an array of strings, or of whole numbers; of objects where they are mixed or too large."""
    kinds = {type(name) for name in ids}
    if kinds <= {int} and all(-(1 << 63) <= name < 1 << 63 for name in ids):  # type: ignore[operator]
        return np.array(ids, np.int64)
    return np.array(ids, np.str_ if kinds == {str} else object)
