"""The selection rule as one frozen value, and the plain records that carry it and the arrays to a kernel."""

import functools
import math
import numbers
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

NanPolicy = Literal["raise", "propagate", "omit"]
MinNegativesWhen = Literal["always", "no_positives"]
AllZeroRows = Literal["positive", "ignore", "raise"]


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which anchors are negatives, how many of them are kept, and what to do with NaN.

    One frozen, hashable value that every function accepts as ``mining=``; its fields are also the keywords of
    those functions. ``num_kept = min(num_neg, floor(neg_pos_ratio * num_pos))``, raised to `min_negatives` and
    capped by `max_negatives` where they are given, never above ``num_neg``.

    Parameters
    ----------
    background : int, optional
        The background class. Required for integer labels, which have no safe default; -1, the last class, for
        one-hot labels unless given; not allowed with a bool ``pos_mask``.
    neg_pos_ratio : float
        Negatives kept per positive. The product with ``num_pos`` is taken in float64 and rounded down.
    min_negatives : int
        Keep at least this many negatives, where the sample has them.
    min_negatives_when : {"always", "no_positives"}
        Whether `min_negatives` holds for every sample or only for those without positives.
    max_negatives : int, optional
        Keep at most this many negatives per sample.
    ignore_index : int, optional
        Integer label of anchors that are neither positive nor negative.
    nan_policy : {"raise", "propagate", "omit"}
        ``"raise"``: NaN is an error that names the first sample and anchor. ``"propagate"``: NaN ranks hardest,
        and a sample that keeps one has the loss NaN. ``"omit"``: an anchor with NaN is ignored.
    all_zero : {"positive", "ignore", "raise"}
        What an all-zero row of one-hot labels means. In the notebook it is a positive.

    Raises
    ------
    TypeError
        If a field has the wrong type.
    ValueError
        If a field has a value that it cannot have.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> mining = sm.Mining(background=0, neg_pos_ratio=2)
    >>> sm.confidence_loss([[1.0, 0.5, 0.25, 0.125]], [[1, 0, 0, 0]], mining=mining).loss
    1.75
    """

    background: int | None = None
    neg_pos_ratio: float = 3.0
    min_negatives: int = 0
    min_negatives_when: MinNegativesWhen = "always"
    max_negatives: int | None = None
    ignore_index: int | None = None
    nan_policy: NanPolicy = "raise"
    all_zero: AllZeroRows = "positive"

    def __post_init__(self) -> None:
        _check_int("background", self.background, optional=True)
        _check_ratio(self.neg_pos_ratio)
        _check_int("min_negatives", self.min_negatives, lowest=0)
        check_choice("min_negatives_when", self.min_negatives_when, get_args(MinNegativesWhen))
        _check_int("max_negatives", self.max_negatives, optional=True, lowest=0)
        _check_int("ignore_index", self.ignore_index, optional=True)
        check_choice("nan_policy", self.nan_policy, get_args(NanPolicy))
        check_choice("all_zero", self.all_zero, get_args(AllZeroRows))
        if self.max_negatives is not None and self.min_negatives > self.max_negatives:
            msg = f"min_negatives: expected at most max_negatives ({self.max_negatives}), got {self.min_negatives}"
            raise ValueError(msg)
        if self.ignore_index is not None and self.ignore_index == self.background:
            msg = f"ignore_index: expected a label other than background, got {self.ignore_index} for both"
            raise ValueError(msg)

    @functools.cached_property
    def rule(self) -> "Rule":
        """The numbers of this spec that a kernel needs."""
        most = np.iinfo(np.int64).max
        return Rule(
            ratio=float(self.neg_pos_ratio),
            min_negatives=min(self.min_negatives, most) if self.min_negatives_when == "always" else 0,
            min_negatives_without_positives=min(self.min_negatives, most),
            max_negatives=most if self.max_negatives is None else min(self.max_negatives, most),
            omit_nan=self.nan_policy == "omit",
        )


class Selection(TypedDict, total=False):
    """The fields of `Mining`, as keywords of the public functions."""

    background: int | None
    neg_pos_ratio: float
    min_negatives: int
    min_negatives_when: MinNegativesWhen
    max_negatives: int | None
    ignore_index: int | None
    nan_policy: NanPolicy
    all_zero: AllZeroRows


class Rule(NamedTuple):
    """`Mining` as machine numbers: what decides how many negatives a sample keeps."""

    ratio: float
    min_negatives: int
    min_negatives_without_positives: int
    max_negatives: int
    omit_nan: bool


class Rows(NamedTuple):
    """Checked, C-contiguous, read-only rows of b samples with n anchors in all, as every kernel takes them."""

    loss: NDArray[Any]  # (n,) float32 or float64, sample after sample
    rank: NDArray[Any]  # (n,), the dtype of loss; (0,): the loss itself
    labels: NDArray[Any]  # (n,) unsigned: the bits of the labels
    codes: NDArray[Any]  # (3,), the dtype of labels: background, ignored, highest legal label
    quotas: NDArray[np.int64]  # (b,) explicit quotas; (0,): the rule decides
    offsets: NDArray[np.int64]  # (b + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    shortest: int  # anchors of the shortest sample
    longest: int  # anchors of the longest sample


class Mined(NamedTuple):
    """What a kernel writes: per sample, and per anchor where a mask is asked for."""

    num_pos: NDArray[np.int64]  # (b,)
    num_neg: NDArray[np.int64]  # (b,)
    num_kept: NDArray[np.int64]  # (b,)
    num_nan: NDArray[np.int64]  # (b,) anchors with NaN that are not ignored by their label
    num_bad: NDArray[np.int64]  # (b,) labels out of range
    done: NDArray[np.int64]  # (b,) 1 once the sample is written
    positive_sum: NDArray[np.float64]  # (b,)
    negative_sum: NDArray[np.float64]  # (b,)
    threshold: NDArray[np.float64]  # (b,) NaN where nothing is kept
    pos_mask: NDArray[np.bool_]  # (n,), or (0,): not asked for
    hard_negative_mask: NDArray[np.bool_]  # (n,), or (0,): not asked for

    def block(self, samples: slice, anchors: slice) -> "Mined":
        """Return views of the results of some samples, which own those anchors."""
        return Mined(*(array[samples] for array in self[:-2]), *(mask[anchors] for mask in self[-2:]))  # type: ignore[arg-type]


def resolve(mining: Mining | None, selection: Selection) -> Mining:
    """Return the spec that the caller means: ``mining=``, or its fields as keywords, not both."""
    if mining is None:
        try:
            return _from_keywords(**selection)
        except TypeError as error:
            if "unhashable" not in str(error) and "unexpected keyword" not in str(error):
                raise
        unknown = sorted(set(selection) - _FIELDS)
        if unknown:
            msg = f"{unknown[0]}: no such keyword; the selection keywords are {', '.join(sorted(_FIELDS))}"
            raise TypeError(msg)
        return Mining(**selection)
    if not isinstance(mining, Mining):
        msg = f"mining: expected a Mining, got {type(mining).__name__}"
        raise TypeError(msg)
    if selection:
        msg = f"mining: expected either mining= or keywords, got both mining= and {', '.join(sorted(selection))}"
        raise TypeError(msg)
    return mining


# A call in a loop gives the same keywords every time: building and checking the spec once saves 6 microseconds.
@functools.lru_cache(maxsize=128, typed=True)
def _from_keywords(**selection: Any) -> Mining:
    return Mining(**selection)


def _check_int(name: str, value: object, *, optional: bool = False, lowest: int | None = None) -> None:
    if value is None and optional:
        return
    kind = "a whole number" if lowest is None else f"a whole number of at least {lowest}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        msg = f"{name}: expected {kind}{' or None' if optional else ''}, got {value!r}"
        raise TypeError(msg)
    if lowest is not None and value < lowest:
        msg = f"{name}: expected {kind}, got {value}"
        raise ValueError(msg)


def _check_ratio(value: object) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        msg = f"neg_pos_ratio: expected a number, got {value!r}"
        raise TypeError(msg)
    if not math.isfinite(value) or value < 0:
        msg = f"neg_pos_ratio: expected a finite number of at least 0, got {value}"
        raise ValueError(msg)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        msg = f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}"
        raise ValueError(msg)


_FIELDS = frozenset(field.name for field in fields(Mining))
