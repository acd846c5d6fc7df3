"""The settings of an analysis as one value, and the checks of its other arguments."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_class_axis, check_int, check_number, refuse, set_fields
from ssd_mining.classification import Classification, Focal, Sigmoid, Softmax
from ssd_mining.engine.run import Backend, Call, call_of
from ssd_mining.inputs.batch import Batch, check_logit_batch, check_losses
from ssd_mining.inputs.logits import check_classification
from ssd_mining.mining_rule import NO_EXTRAS, Extras, Mining

_LOSSES = {kind.__name__: kind for kind in (Softmax, Sigmoid, Focal)}


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """The settings of a `LossAnalysis`. Analyses with equal settings can be merged."""

    mining: Mining
    ratios: tuple[float, ...]
    levels: tuple[int, ...] | None
    top: int
    classification: Classification | None
    class_axis: int
    beta: float
    backend: Backend | None

    def __post_init__(self) -> None:
        levels = None if self.levels is None else tuple(check_int("levels", size, lowest=1) for size in self.levels)
        own = {"ratios": check_ratios(self.ratios), "levels": levels, "top": check_int("top", self.top, lowest=0)}
        set_fields(self, **own, class_axis=check_class_axis(self.class_axis), beta=check_number("beta", self.beta))
        if self.classification is not None:
            check_classification(self.classification)
        check_by_sample(self.mining)

    def checked(self, values: ArrayLike, labels: ArrayLike, extras: Extras = NO_EXTRAS) -> Batch:
        """Check a block of samples, losses or logits, without a pass over its values."""
        if self.ratios and extras.num_negatives is not None:
            refuse("num_negatives", "none beside ratios, which it replaces", "both; pass ratios=()")
        if self.classification is None:
            batch = check_losses(values, labels, self.mining, extras)
        else:
            batch = check_logit_batch(values, labels, self.mining, extras, self.classification, self.class_axis)
        if self.levels is not None:
            check_levels(self.levels, batch)
        return batch

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        kind = self.classification
        return {
            "mining": dataclasses.asdict(self.mining),
            "ratios": [float(ratio) for ratio in self.ratios],
            "levels": None if self.levels is None else list(self.levels),
            "top": self.top,
            "classification": None if kind is None else {"kind": type(kind).__name__, **dataclasses.asdict(kind)},
            "class_axis": self.class_axis,
            "beta": self.beta,
            "backend": self.backend,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "AnalysisSpec":
        """Return the settings from the dictionary of `to_dict`."""
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


def analysis_call(backend: Backend | None, num_threads: int | None) -> Call:
    """Return where an analysis computes."""
    if backend == "cuda":
        msg = "backend: 'cuda' does not do analyses in this version; use 'cpu' or leave it out"
        raise NotImplementedError(msg)
    return call_of(backend, num_threads)


def check_sequence(name: str, value: Any) -> tuple[Any, ...]:
    """Return the elements of a sequence or an array as a tuple."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        refuse(name, "a sequence of numbers", f"{value!r}", TypeError)
    return tuple(value)


def check_ratios(ratios: tuple[Any, ...]) -> tuple[float, ...]:
    """Return ratios that are numbers of at least 0, all different."""
    values = tuple([check_number("ratios", ratio) for ratio in ratios])
    if len(set(values)) < len(values):
        refuse("ratios", "numbers that differ", f"{list(values)}")
    return values


def check_by_sample(mining: Mining) -> None:
    """Refuse rules that look beyond one sample: their result depends on how the data set is split into blocks."""
    reason = "depend on how the data set is split into blocks"
    if mining.scope != "sample":
        refuse("scope", f'"sample", for other scopes {reason}', repr(mining.scope))
    if mining.pool_size > 1:
        refuse("pool_size", f"1, for draws {reason}", f"{mining.pool_size}")


def check_levels(levels: tuple[int, ...], batch: Batch) -> None:
    """Check that the feature maps add up to the anchors of a batch."""
    if not batch.is_dense:
        refuse("sample_offsets", "none beside levels, which every sample must have alike", "both", TypeError)
    if sum(levels) != batch.shape[1]:
        got = f"{list(levels)}, which make {sum(levels)}"
        refuse("levels", f"sizes that add up to the {batch.shape[1]} anchors", got)


def check_ids(ids: Sequence[Any] | NDArray[Any], num_samples: int) -> list[str | int]:
    """Check the names of the samples of a block."""
    if isinstance(ids, str) or not isinstance(ids, Sequence | np.ndarray):
        refuse("ids", "a sequence of ids", f"{ids!r}", TypeError)
    names = [name.item() if isinstance(name, np.generic) else name for name in ids]
    if len(names) != num_samples:
        refuse("ids", f"one for each of {num_samples} samples", f"{len(names)}")
    for i, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int):
            refuse("ids", "strings or whole numbers", f"{name!r} at {i}", TypeError)
    if len(set(names)) < len(names):
        ((twice, _),) = Counter(names).most_common(1)
        refuse("ids", "another for every sample", f"{twice!r} twice")
    return names


def id_array(ids: list[str | int]) -> NDArray[Any]:
    """Return ids as an array of strings or of int64; of objects if they are mixed, or NumPy would not keep them."""
    kinds = set(map(type, ids))
    if kinds <= {int} and (not ids or (min(ids) >= -(1 << 63) and max(ids) < 1 << 63)):  # type: ignore[operator]
        return np.array(ids, np.int64)
    is_kept = kinds == {str} and not any(name.endswith("\0") for name in ids)  # type: ignore[union-attr]
    return np.array(ids, np.str_ if is_kept else object)
