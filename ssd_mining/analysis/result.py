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
    localization_sum : ndarray of float64, (C,)
        Sum of the localization losses of the positives; 0 without locations.
    """

    label: NDArray[np.int64] = field(metadata={"title": "Class"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positives"})
    positive_sum: NDArray[np.float64] = field(metadata={"title": "Their loss"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Negatives taken for it"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Loss of these"})
    localization_sum: NDArray[np.float64] = field(metadata={"title": "Localization loss"})


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
    localization_sum : ndarray of float64, (L,)
        Sum of the localization losses of the positives; 0 without locations.
    """

    first_anchor: NDArray[np.int64] = field(metadata={"title": "From"})
    num_anchors: NDArray[np.int64] = field(metadata={"title": "Anchors"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positives"})
    num_neg: NDArray[np.int64] = field(metadata={"title": "Negatives"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Kept"})
    positive_sum: NDArray[np.float64] = field(metadata={"title": "Positive loss"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Negative loss"})
    localization_sum: NDArray[np.float64] = field(metadata={"title": "Localization loss"})


@dataclass(frozen=True, eq=False, repr=False)
class ConfusionTable(Table):
    """Which classes the anchors are taken for that are wrong, the most frequent confusion first.

    Counted are positives, which may be taken for background, and kept negatives, by the foreground class with their
    largest logit.

    Attributes
    ----------
    label, taken_for : ndarray of int64, (n,)
        The class of the label, and the class with the largest probability; -1: not known.
    count : ndarray of int64, (n,)
        Anchors of the one that are taken for the other.
    loss_sum : ndarray of float64, (n,)
        Sum of their losses, in nats.
    """

    label: NDArray[np.int64]
    taken_for: NDArray[np.int64]
    count: NDArray[np.int64] = field(metadata={"title": "Anchors"})
    loss_sum: NDArray[np.float64] = field(metadata={"title": "Their loss"})


@dataclass(frozen=True, eq=False, repr=False)
class PositionTable(Table):
    """The positions on the anchor axis that are bad in more than one sample, the most frequent first.

    Attributes
    ----------
    anchor : ndarray of int64, (n,)
        The position.
    num_samples : ndarray of int64, (n,)
        Samples in which the anchor there has the largest loss of the positives, or one of the 5 largest of the
        negatives that overlap no object.
    share : ndarray of float64, (n,)
        `num_samples` as a share of all samples.
    num_pos, num_worst_pos, num_worst_neg : ndarray of int64, (n,)
        Samples in which it is positive; the worst positive; among the worst of these negatives.
    is_stuck : ndarray of bool, (n,)
        Whether so many samples are no chance: 15 % of them, 5 at least, and 10 times as many as at an average position.
    """

    anchor: NDArray[np.int64] = field(metadata={"title": "Anchor"})
    num_samples: NDArray[np.int64] = field(metadata={"title": "Samples among whose worst it is"})
    share: NDArray[np.float64] = field(metadata={"title": "Share of all samples"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positive in"})
    num_worst_pos: NDArray[np.int64] = field(metadata={"title": "Worst positive in"})
    num_worst_neg: NDArray[np.int64] = field(metadata={"title": "Among the worst negatives in"})
    is_stuck: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, repr=False)
class TopSamples(Table):
    """The samples with the largest losses, or the largest number by one cause, the worst first.

    Attributes
    ----------
    sample : ndarray of int64, (k,)
        Indices of the samples; of equal losses, the lower index comes first.
    id : ndarray, (k,)
        Names of the samples; without ids, their indices.
    confidence_loss : ndarray of float64, (k,)
        ``positive_sum + negative_sum``, in nats; NaN comes first.
    unrecognised : ndarray of float64, (k,)
        The mean loss of the anchors of the least recognised object; without `matched`, of all positives.
    false_alarm : ndarray of float64, (k,)
        The largest foreground probability among the hardest negatives that overlap no object.
    misplaced : ndarray of float64, (k,)
        Localization loss per positive; 0 without locations.
    positive_sum, negative_sum : ndarray of float64, (k,)
        Sum over the positives, and over the kept negatives.
    num_false_alarms : ndarray of int64, (k,)
        How many of these negatives, or regions of them, have a foreground probability of 0.5 or more.
    num_pos, num_kept : ndarray of int64, (k,)
        How many anchors are positive, and kept negatives.
    """

    sample: NDArray[np.int64]
    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    confidence_loss: NDArray[np.float64] = field(metadata={"title": "Loss"})
    unrecognised: NDArray[np.float64] = field(metadata={"title": "Unrecognised object"})
    false_alarm: NDArray[np.float64] = field(metadata={"title": "False alarm"})
    misplaced: NDArray[np.float64] = field(metadata={"title": "Misplaced boxes"})
    positive_sum: NDArray[np.float64] = field(metadata={"title": "Positive loss"})
    negative_sum: NDArray[np.float64] = field(metadata={"title": "Negative loss"})
    num_false_alarms: NDArray[np.int64] = field(metadata={"title": "False alarms"})
    num_pos: NDArray[np.int64] = field(metadata={"title": "Positives"})
    num_kept: NDArray[np.int64] = field(metadata={"title": "Kept"})


@dataclass(frozen=True, eq=False, repr=False)
class TopObjects(Table):
    """The objects with the largest losses, the worst first. Without `matched`, every positive is an object.

    Attributes
    ----------
    sample, id : ndarray, (k,)
        As in `TopSamples`.
    object : ndarray of int64, (k,)
        The number of the object in its sample; -1 without `matched`.
    anchor : ndarray of int64, (k,)
        The hardest of its anchors.
    loss : ndarray of float64, (k,)
        The mean loss of its anchors, in nats.
    num_anchors : ndarray of int64, (k,)
        How many they are.
    label, taken_for : ndarray of int64, (k,)
        Its class, and the class that the hardest anchor is taken for, which may be background; -1: not known.
    num_folded : ndarray of int64, (k,)
        How many further entries have the same hardest anchor, if its position is stuck: this one stands for them.
    """

    sample: NDArray[np.int64]
    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    object: NDArray[np.int64] = field(metadata={"title": "Object"})
    anchor: NDArray[np.int64] = field(metadata={"title": "Hardest anchor"})
    loss: NDArray[np.float64] = field(metadata={"title": "Mean loss"})
    num_anchors: NDArray[np.int64] = field(metadata={"title": "Anchors"})
    label: NDArray[np.int64]
    taken_for: NDArray[np.int64]
    num_folded: NDArray[np.int64] = field(metadata={"title": "More of this position"})


@dataclass(frozen=True, eq=False, repr=False)
class TopAlarms(Table):
    """The false alarms: negatives that overlap no object and look like one, the surest first, one of a region.

    Attributes
    ----------
    sample, id, anchor, num_folded : ndarray, (k,)
        As in `TopObjects`.
    probability : ndarray of float64, (k,)
        The foreground probability: of the class that it is taken for; without logits, of all classes together.
    loss : ndarray of float64, (k,)
        In nats.
    label : ndarray of int64, (k,)
        The class that it is taken for; -1 without logits.
    """

    sample: NDArray[np.int64]
    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    anchor: NDArray[np.int64] = field(metadata={"title": "Anchor"})
    probability: NDArray[np.float64] = field(metadata={"title": "Foreground probability"})
    loss: NDArray[np.float64] = field(metadata={"title": "Loss"})
    label: NDArray[np.int64]
    num_folded: NDArray[np.int64] = field(metadata={"title": "More of this position"})


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
    num_folded : ndarray of int64, (k,)
        As in `TopObjects`.
    """

    sample: NDArray[np.int64]
    id: NDArray[Any] = field(metadata={"title": "Sample", "is_number": False})
    anchor: NDArray[np.int64] = field(metadata={"title": "Anchor"})
    loss: NDArray[np.float64] = field(metadata={"title": "Loss"})
    is_positive: NDArray[np.bool_]
    label: NDArray[np.int64]
    num_folded: NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class AnalysisResult(Result):
    """The result of a `LossAnalysis`. Losses are in nats.

    Attributes
    ----------
    spec : mapping
        The settings of the analysis, ready for JSON.
    beside : str
        What was given beside losses and labels: ``"matched and locations and anchors and overlaps"``, a part of it, or
        ``"none"``.
    num_samples, num_anchors : int
        Samples, and anchors of all samples.
    num_pos, num_neg, num_kept : int
        Positives, negatives, kept negatives; the other anchors are ignored.
    num_without_pos : int
        Samples without positives.
    num_false_alarms : int
        Negatives, or regions, that overlap no object and have a foreground probability of 0.5 or more.
    loss : float
        The confidence loss: the mean of the sums of the samples, as with ``normalize="batch"``; 0 without samples.
    loss_sum, positive_sum, negative_sum : float
        The exact sum of the losses of all samples, and of its two parts, rounded once.
    localization_sum : float or None
        The sum of the localization losses of all positives; None without locations.
    distributions : mapping of str to LossHistogram
        The losses of ``"positives"``, of all ``"negatives"``, of ``"kept"`` negatives, and of ``"samples"``.
    ratio_sweep : RatioTable or None
        What other ratios would keep.
    classes : ClassTable or None
        Losses by class; None for a ``pos_mask`` without logits.
    levels : LevelTable or None
        Losses by feature map.
    confusions : ConfusionTable or None
        Which classes are taken for which; None without logits.
    positions : PositionTable
        The positions on the anchor axis that are bad in many samples.
    top_samples : TopSamples
        The samples with the largest loss, as trained.
    causes : mapping of str to TopSamples
        The worst samples by ``"unrecognised"``, ``"false_alarm"`` and, if locations were given, ``"misplaced"``.
    top_anchors : TopAnchors
        The worst positives and kept negatives in one list.
    top_objects : TopObjects
        The objects that are recognised least.
    top_boxes : TopObjects
        The objects whose boxes are placed worst: `loss` is their localization loss. Empty without locations.
    top_negatives : TopAnchors
        The worst kept negatives.
    top_false_alarms : TopAlarms
        The surest false alarms.
    hazards : tuple of str
        What is surely a mistake about the labels, with the number that shows it (docs/semantics.md).
    """

    spec: Mapping[str, Any]
    beside: str
    num_samples: int
    num_anchors: int
    num_pos: int
    num_neg: int
    num_kept: int
    num_without_pos: int
    num_false_alarms: int
    loss: float
    loss_sum: float
    positive_sum: float
    negative_sum: float
    localization_sum: float | None
    distributions: Mapping[str, LossHistogram]
    # Any, or a type checker would ask for a test of None after every analysis that makes these tables.
    ratio_sweep: RatioTable | Any
    classes: ClassTable | Any
    levels: LevelTable | Any
    confusions: ConfusionTable | Any
    positions: PositionTable
    top_samples: TopSamples
    causes: Mapping[str, TopSamples]
    top_anchors: TopAnchors
    top_objects: TopObjects
    top_boxes: TopObjects
    top_negatives: TopAnchors
    top_false_alarms: TopAlarms
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
        causes = {name: worst.lists() for name, worst in self.causes.items()}
        return plain | tables | {"distributions": distributions, "causes": causes}
