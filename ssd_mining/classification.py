"""The classification losses as frozen values: `Softmax`, `Sigmoid` and `Focal`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssd_mining.checks import check_number, refuse, set_fields
from ssd_mining.kernels.records import SigmoidRule, SoftmaxRule


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """The softmax cross-entropy of `softmax_cross_entropy`, as one frozen, hashable value.

    Parameters
    ----------
    class_weights : sequence of float, (C,), optional
        Weight of every class, finite and at least 0; kept as a tuple. A class of weight 0 adds 0.
    label_smoothing : float
        Share of the target, 0 to 1, that is spread evenly over all classes.
    prob_floor : float
        Smaller probabilities count as this one, 0 to below 1: no class costs more than ``-log(prob_floor)`` nats.

    Raises
    ------
    TypeError
        If a field has the wrong type.
    ValueError
        If a field has a wrong value.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.Softmax(class_weights=[1, 2.5])
    Softmax(class_weights=(1.0, 2.5), label_smoothing=0.0, prob_floor=0.0)
    """

    class_weights: Sequence[float] | None = None
    label_smoothing: float = 0.0
    prob_floor: float = 0.0

    def __post_init__(self) -> None:
        set_fields(
            self,
            label_smoothing=check_number("label_smoothing", self.label_smoothing, highest=1, words="from 0 to 1"),
            prob_floor=check_number("prob_floor", self.prob_floor, below=1, words="of at least 0 and below 1"),
            class_weights=_weights(self.class_weights),
        )

    @functools.cached_property
    def rule(self) -> SoftmaxRule:
        """The numbers that a kernel needs."""
        most = -math.log(self.prob_floor) if self.prob_floor > 0 else math.inf
        return SoftmaxRule(smoothing=float(self.label_smoothing), most=most, excluded=-1)


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """The sigmoid cross-entropy of `sigmoid_cross_entropy`, summed over the classes, as one frozen value.

    Parameters
    ----------
    class_weights : sequence of float, (C,), optional
        Weight of every class, finite and at least 0; kept as a tuple. A class of weight 0 adds 0.

    Raises
    ------
    TypeError
        If the weights are not numbers.
    ValueError
        If a weight is negative or not finite.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.Sigmoid() == sm.Sigmoid(class_weights=None)
    True
    """

    class_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        set_fields(self, class_weights=_weights(self.class_weights))

    @functools.cached_property
    def rule(self) -> SigmoidRule:
        """The numbers that a kernel needs."""
        return SigmoidRule(positive=1.0, negative=1.0, gamma=0.0, excluded=-1)


@dataclass(frozen=True, kw_only=True)
class Focal:
    """The focal loss of `focal_loss`, summed over the classes, as one frozen value.

    Parameters
    ----------
    alpha : float, optional
        Weight of a positive target, 0 to 1; a negative one has ``1 - alpha``. None: both have 1.
    gamma : float
        Focusing exponent, finite and at least 0; with 0 and no `alpha` the loss is sigmoid cross-entropy.

    Raises
    ------
    TypeError
        If a field has the wrong type.
    ValueError
        If a field has a wrong value.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.Focal()
    Focal(alpha=0.25, gamma=2.0)
    """

    alpha: float | None = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.alpha is not None:
            alpha = check_number("alpha", self.alpha, highest=1, words="from 0 to 1, or None")
            set_fields(self, alpha=alpha)
        set_fields(self, gamma=check_number("gamma", self.gamma, words="of at least 0, finite"))

    @functools.cached_property
    def rule(self) -> SigmoidRule:
        """The numbers that a kernel needs."""
        positive, negative = (1.0, 1.0) if self.alpha is None else (float(self.alpha), 1.0 - self.alpha)
        return SigmoidRule(positive=positive, negative=negative, gamma=float(self.gamma), excluded=-1)


Classification = Softmax | Sigmoid | Focal


def _weights(weights: Any) -> tuple[float, ...] | None:
    if weights is None:
        return None
    try:
        values = tuple(weights)
    except TypeError:
        refuse("class_weights", "one number per class or None", f"{weights!r}", TypeError)
    for number, value in enumerate(values):
        check_number(f"class_weights[{number}]", value, words="of at least 0, finite")
    return tuple(float(value) for value in values)
