"""The result of an analysis: `AnalysisResult`, and its tables of equal-length columns.

The metadata of a field hold the title of its column on a page. A page leaves out columns without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.engine.result import Result


class Table(Result):
    """A frozen dataclass whose fields are columns of one length."""

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, ready for a data frame."""
        return {column.name: getattr(self, column.name) for column in fields(self)}  # type: ignore[arg-type]

    def lists(self) -> dict[str, list[Any]]:
        """Return the columns as lists of Python's own numbers and strings, as JSON can hold them."""
        return {name: column.tolist() for name, column in self.to_dict().items()}


@dataclass(frozen=True, eq=False, repr=False)
class RatioTable(Table):
    """What each of R ratios keeps of a whole data set.

    Attributes
    ----------
    ratio : ndarray of float64, (R,)
        The ratios, in the given order.
    num_kept : ndarray of int64, (R,)
        Kept negatives of all samples.
    negative_sum : ndarray of float64, (R,)
        Sum of the losses of the kept negatives, in nats.
    loss : ndarray of float64, (R,)
        The confidence loss: the mean of the sums of the samples, as with ``normalize="batch"``.
    """

    ratio: NDArray[np.float64] = field(metadata={"title": "Ratio"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Kept negatives"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Their loss"})
    loss: NDArray[np.float64] = field(metadata={"title": "Confidence loss"})


@dataclass(frozen=True, eq=False, repr=False)
class ClassTable(Table):
    """The losses of C foreground classes, by class number.

    Attributes
    ----------
    label : ndarray of int64, (C,)
        The classes that were met, ascending; -1 for positives whose all-zero row names no class.
    num_pos : ndarray of int64, (C,)
        Positives of the class.
    positive_sum : ndarray of float64, (C,)
        Sum of their losses, in nats.
    num_kept : ndarray of int64, (C,)
        Kept negatives that are taken for this class, because it has the largest logit of all but background. 0 without
        logits.
    negative_sum : ndarray of float64, (C,)
        Sum of their losses, in nats.
    """

    label: NDArray[np.int64] = field(metadata={"title": "Class"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positives"})
    positive_sum: NDArray[np.float64] = field(metadata={"title": "Their loss"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Negatives taken for it"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Loss of these"})


@dataclass(frozen=True, eq=False, repr=False)
class LevelTable(Table):
    """The losses of L feature maps: slices of the anchor axis.

    Attributes
    ----------
    first_anchor, num_anchors : ndarray of int64, (L,)
        The first anchor of each feature map, and how many anchors it has.
    num_pos, num_neg, num_kept : ndarray of int64, (L,)
        Positives, negatives and kept negatives of all samples.
    positive_sum, negative_sum : ndarray of float64, (L,)
        Sum over the positives and over the kept negatives, in nats.
    """

    first_anchor: NDArray[np.int64] = field(metadata={"title": "From"})
    num_anchors: NDArray[np.int64] = field(metadata={"title": "Anchors"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positives"})
    num_neg: NDArray[np.int64] = field(metadata={"title": "Negatives"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Kept"})
    positive_sum: NDArray[np.float64] = field(metadata={"title": "Positive loss"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Negative loss"})


@dataclass(frozen=True, eq=False, repr=False)
class TopSamples(Table):
    """The samples with the largest losses, the worst first.

    Attributes
    ----------
    sample : ndarray of int64, (k,)
        Indices of the samples; of equal losses, the lower index comes first.
    id : ndarray, (k,)
        Names of the samples; without ids, their indices.
    loss : ndarray of float64, (k,)
        ``positive_sum + negative_sum``, in nats; NaN comes first.
    positive_sum, negative_sum : ndarray of float64, (k,)
        Sum over the positives, and over the kept negatives.
    num_pos, num_kept : ndarray of int64, (k,)
        How many anchors are positive, and kept negatives.
    """

    sample: NDArray[np.int64]
    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    loss: NDArray[np.float64] = field(metadata={"title": "Loss"})
    positive_sum: NDArray[np.float64] = field(metadata={"title": "Positive loss"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Negative loss"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positives"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Kept"})


@dataclass(frozen=True, eq=False, repr=False)
class TopAnchors(Table):
    """The positives and kept negatives with the largest losses, the worst first.

    Attributes
    ----------
    sample, anchor : ndarray of int64, (k,)
        Indices; of equal losses, the lower indices come first.
    id : ndarray, (k,)
        Names of the samples; without ids, their indices.
    loss : ndarray of float64, (k,)
        In nats; NaN comes first.
    is_positive : ndarray of bool, (k,)
        True for a positive, False for a kept negative.
    label : ndarray of int64, (k,)
        The class of a positive. For a negative, the class that it is taken for; -1 without logits.
    """

    sample: NDArray[np.int64]
    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    anchor: NDArray[np.int64] = field(metadata={"title": "Anchor"})
    loss: NDArray[np.float64] = field(metadata={"title": "Loss"})
    is_positive: NDArray[np.bool_]
    label: NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class AnalysisResult(Result):
    """The result of a `LossAnalysis`. Losses are in nats.

    Attributes
    ----------
    spec : mapping
        The settings of the analysis, ready for JSON.
    num_samples, num_anchors : int
        Samples, and anchors of all samples.
    num_pos, num_neg, num_kept : int
        Positives, negatives, kept negatives; the other anchors are ignored.
    num_without_pos : int
        Samples without positives.
    loss : float
        The confidence loss: the mean of the sums of the samples, as with ``normalize="batch"``; 0 without samples.
    loss_sum, positive_sum, negative_sum : float
        The exact sum of the losses of all samples, and of its two parts, rounded once.
    distributions : mapping of str to LossHistogram
        The losses of ``"positives"``, of all ``"negatives"``, of ``"kept"`` negatives, and of ``"samples"``.
    ratio_sweep : RatioTable or None
        What other ratios would keep.
    classes : ClassTable or None
        Losses by class; None for a ``pos_mask`` without logits.
    levels : LevelTable or None
        Losses by feature map.
    top_samples : TopSamples
        The worst samples.
    top_anchors : TopAnchors
        The worst positives and kept negatives.
    hazards : tuple of str
        What is surely a mistake about the labels, with the number that shows it (docs/semantics.md).
    """

    spec: Mapping[str, Any]
    num_samples: int
    num_anchors: int
    num_pos: int
    num_neg: int
    num_kept: int
    num_without_pos: int
    loss: float
    loss_sum: float
    positive_sum: float
    negative_sum: float
    distributions: Mapping[str, LossHistogram]
    # Any, or a type checker would ask for a test of None after every analysis that makes these tables.
    ratio_sweep: RatioTable | Any
    classes: ClassTable | Any
    levels: LevelTable | Any
    top_samples: TopSamples
    top_anchors: TopAnchors
    hazards: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as numbers, strings, lists and dictionaries, ready for ``json.dumps``.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> analysis = sm.LossAnalysis(background=0, ratios=[1, 3])
        >>> _ = analysis.update([[9.0, 0.1, 0.3, 0.2, 0.4]], [[1, 0, 0, 0, 0]])
        >>> analysis.result().to_dict()["ratio_sweep"]["num_kept"]
        [1, 3]
        """
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        tables = {name: value.lists() for name, value in plain.items() if isinstance(value, Table)}
        distributions = {name: losses.to_dict() for name, losses in self.distributions.items()}
        return plain | tables | {"distributions": distributions}
