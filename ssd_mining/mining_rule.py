"""The selection rule as one frozen value, `Mining`, and the keywords that can replace it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ssd_mining.checks import check_choice, check_int, check_number, refuse, set_fields
from ssd_mining.choices import (
    CHOICES,
    AllZeroRows,
    MinNegativesWhen,
    NanPolicy,
    RankBy,
    Rounding,
    Scope,
    TiePolicy,
    nearest_of,
)
from ssd_mining.kernels.records import Rule
from ssd_mining.kernels.rules import whole_number

Rng = np.random.Generator | int
F = TypeVar("F", bound=Callable[..., Any])


def named_keywords(spec: type) -> Callable[[F], F]:
    """Show the keywords of a function's ``**keywords: Unpack[...]`` by name to `help`, `inspect` and completion.

    They have the defaults of the frozen dataclass `spec`; None where it has no such field.
    """

    def show(function: F) -> F:
        signature = inspect.signature(function)
        *named, rest = signature.parameters.values()
        known = function.__globals__[rest.annotation.removeprefix("Unpack[").removesuffix("]")]
        defaults = {field.name: field.default for field in fields(spec)}
        for name, kind in known.__annotations__.items():
            annotation = getattr(kind, "__forward_arg__", kind)  # as it is written
            named.append(rest.replace(name=name, kind=rest.KEYWORD_ONLY, annotation=annotation))
            named[-1] = named[-1].replace(default=defaults.get(name))
        function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
        return function

    return show


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which anchors are negatives, how many of them are kept, and what to do with NaN.

    Every function accepts this frozen, hashable value as ``mining=``, or its fields as keywords. A sample keeps
    ``num_kept = min(num_neg, floor(neg_pos_ratio * num_pos) + extra_negatives)`` negatives, but at least
    `min_negatives`, at most `max_negatives`, and never more than ``num_neg``.

    Parameters
    ----------
    background : int, optional
        The background class. Integer labels require it, because no default would be safe. For one-hot labels the
        default is -1, the last class; C says that they have no column for background, whose rows are all zero. A bool
        ``pos_mask`` has none.
    neg_pos_ratio : float
        Negatives kept per positive. A product with ``num_pos`` that all but is a whole number is that number
        (docs/semantics.md). A float of NumPy's means the decimal that it prints as: ``np.float32(0.29)`` is 0.29.
    rounding : {"floor", "ceil"}
        How that product becomes a whole number.
    extra_negatives : int
        Negatives kept beyond that product, per sample.
    min_negatives : int or float
        Keep at least this many negatives, if the sample has them. A float below 1 is a share of the anchors of the
        sample, rounded like the product (with another `scope`, of the batch or of its longest sample).
    min_negatives_when : {"always", "no_positives"}
        Whether `min_negatives` holds always or only without positives.
    max_negatives : int, optional
        Keep at most this many negatives.
    scope : {"sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota"}
        ``"sample"``: every sample keeps its own hardest negatives. ``"batch"``: the batch is mined like one sample.
        ``"batch_of_sample_quotas"``: the same, but the quota is the sum of the quotas of the samples.
        ``"smallest_sample_quota"``: every sample keeps the same number, the smallest quota of any sample that has
        both positives and negatives. `min_negatives` and `max_negatives` then bound the quota of the batch, or that
        one quota. If no sample has both, the last two scopes count as without positives.
    rank_by : {"loss", "background", "foreground_max", "foreground_sum"}
        What makes a negative hard: its loss; or, with logits only, a low probability of background, the largest
        foreground probability, or the sum of the foreground probabilities (`Softmax` only, where it sorts like
        ``"background"``).
    tie_policy : {"index", "strict", "all"}
        Of equal ranks at the threshold, keep those with the lower anchor indices, none, or all.
    skip_hardest : int
        Skip this many of the hardest negatives, which may be unlabelled objects.
    pool_size : float
        Draw the kept negatives at random from a pool of the hardest, this many times as large as the quota.
    neg_overlap : float
        With ``overlaps``: background anchors that overlap an object by at least this much are ignored.
    ignore_index : int, optional
        Integer label of anchors that are neither positive nor negative.
    nan_policy : {"raise", "propagate", "omit"}
        ``"raise"``: NaN is an error that names the first sample and anchor. ``"propagate"``: a rank of NaN is the
        hardest, and a sample that keeps a loss of NaN has the loss NaN. ``"omit"``: an anchor whose loss or rank is
        NaN is ignored.
    all_zero : {"positive", "negative", "ignore", "raise"}
        The role of an anchor whose one-hot row is all zero. In the notebook it is a positive; it is a negative if
        `background` is C. With ``"negative"``, `background` is C unless it is given.

    Raises
    ------
    TypeError
        If a field has the wrong type.
    ValueError
        If a field has a wrong value.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> mining = sm.Mining(background=0, neg_pos_ratio=2)
    >>> sm.confidence_loss([[1.0, 0.5, 0.25, 0.125]], [[1, 0, 0, 0]], mining=mining).loss
    1.75
    """

    background: int | None = None
    neg_pos_ratio: float = 3.0
    rounding: Rounding = "floor"
    extra_negatives: int = 0
    min_negatives: float = 0
    min_negatives_when: MinNegativesWhen = "always"
    max_negatives: int | None = None
    scope: Scope = "sample"
    rank_by: RankBy = "loss"
    tie_policy: TiePolicy = "index"
    skip_hardest: int = 0
    pool_size: float = 1.0
    neg_overlap: float = 0.5
    ignore_index: int | None = None
    nan_policy: NanPolicy = "raise"
    all_zero: AllZeroRows = "positive"

    def __post_init__(self) -> None:
        fields: dict[str, Any] = {}
        for name in ("background", "ignore_index"):
            fields[name] = check_int(name, getattr(self, name), optional=True)
        for name in ("extra_negatives", "skip_hardest"):
            fields[name] = check_int(name, getattr(self, name), lowest=0)
        for name in ("neg_pos_ratio", "neg_overlap"):
            fields[name] = check_number(name, getattr(self, name))
        fields["min_negatives"] = _count_or_share("min_negatives", self.min_negatives)
        fields["max_negatives"] = check_int("max_negatives", self.max_negatives, optional=True, lowest=0)
        fields["pool_size"] = check_number("pool_size", self.pool_size, lowest=1)
        for name, choices in CHOICES.items():
            fields[name] = check_choice(name, getattr(self, name), choices)
        set_fields(self, **fields)
        if self.max_negatives is not None and self.min_negatives > self.max_negatives:
            refuse("min_negatives", f"at most max_negatives ({self.max_negatives})", f"{self.min_negatives}")
        if self.ignore_index is not None and self.ignore_index == self.background:
            refuse("ignore_index", "a label other than background", f"{self.ignore_index} for both")
        if self.pool_size > 1 and self.tie_policy != "index":
            refuse("pool_size", f"1 with tie_policy={self.tie_policy!r}", f"{self.pool_size}")

    @functools.cached_property
    def rule(self) -> Rule:
        """The numbers that a kernel needs, with a `min_negatives` of 0 if it is a share of the anchors."""
        return self.rule_for(0)

    def rule_for(self, num_anchors: int) -> Rule:
        """Return the numbers that a kernel needs for a sample of `num_anchors`."""
        most, round_up = np.iinfo(np.int64).max, self.rounding == "ceil"
        share = whole_number(self.min_negatives, num_anchors, round_up) if self.is_share else self.min_negatives
        return Rule(
            ratio=float(self.neg_pos_ratio),
            round_up=round_up,
            extra=min(self.extra_negatives, most),
            min_negatives=min(int(share), most),
            min_always=self.min_negatives_when == "always",
            max_negatives=most if self.max_negatives is None else min(self.max_negatives, most),
            omit_nan=self.nan_policy == "omit",
        )

    @property
    def is_share(self) -> bool:
        """Whether `min_negatives` is a share of the anchors."""
        return 0 < self.min_negatives < 1

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether one pass of a kernel is enough; `engine.multi_pass` composes several for the other rules."""
        selects = self.tie_policy == "index" and not self.skip_hardest and self.pool_size == 1
        return selects and self.scope == "sample" and not self.is_share


class Selection(TypedDict, total=False):
    """The fields of `Mining`, as keywords of the public functions."""

    background: int | None
    neg_pos_ratio: float
    rounding: Rounding
    extra_negatives: int
    min_negatives: float
    min_negatives_when: MinNegativesWhen
    max_negatives: int | None
    scope: Scope
    rank_by: RankBy | ArrayLike | None  # an array belongs to the batch, not to the rule
    tie_policy: TiePolicy
    skip_hardest: int
    pool_size: float
    neg_overlap: float
    ignore_index: int | None
    nan_policy: NanPolicy
    all_zero: AllZeroRows


class BatchKeywords(TypedDict, total=False):
    """The optional arrays of a batch, which `mine_hard_negatives` describes."""

    valid: ArrayLike | None
    overlaps: ArrayLike | None
    anchor_weights: ArrayLike | None
    num_negatives: ArrayLike | None
    sample_offsets: ArrayLike | None
    rng: Rng | None


class Keywords(Selection, BatchKeywords, total=False):
    """Every keyword that the mining functions share."""


class Extras(NamedTuple):
    """The optional arrays of a batch as the caller gave them: `BatchKeywords`, and ``rank_by`` if it is an array."""

    valid: ArrayLike | None = None
    overlaps: ArrayLike | None = None
    anchor_weights: ArrayLike | None = None
    num_negatives: ArrayLike | None = None
    sample_offsets: ArrayLike | None = None
    rng: Rng | None = None
    rank_by: ArrayLike | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not None, by name."""
        return {name: value for name, value in zip(self._fields, self, strict=True) if value is not None}


NO_EXTRAS = Extras()


def resolve(mining: Mining | None, keywords: Keywords | Selection | BatchKeywords) -> tuple[Mining, Extras]:
    """Return the rule, given as ``mining=`` or as keywords, and the other keywords."""
    selection: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in keywords.items():
        is_spec = name in _FIELDS and (name != "rank_by" or isinstance(value, str))
        (selection if is_spec else others)[name] = value
    if not others.keys() <= _EXTRAS:
        unknown = min(others.keys() - _EXTRAS)
        caller = sys._getframe(1).f_code  # noqa: SLF001 - the parameters that it names are keywords too
        named = caller.co_varnames[: caller.co_argcount + caller.co_kwonlyargcount]
        msg = f"{unknown}: no such keyword{nearest_of(unknown, _FIELDS.union(_EXTRAS, named))}"
        raise TypeError(msg)
    extras = Extras(**others) if others else NO_EXTRAS
    if mining is None:
        try:
            return _remembered(**selection), extras
        except TypeError:  # a value that cannot be hashed: the constructor refuses it
            return Mining(**selection), extras
    if not isinstance(mining, Mining):
        refuse("mining", "a Mining", type(mining).__name__, TypeError)
    if selection:
        both = f"both mining= and {', '.join(sorted(selection))}"
        refuse("mining", "either mining= or keywords", both, TypeError)
    return mining, extras


# Calls in a loop pass the same keywords: building and checking the rule once saves 6 microseconds.
@functools.lru_cache(maxsize=128, typed=True)
def _remembered(**selection: Any) -> Mining:
    return Mining(**selection)


def _count_or_share(name: str, value: object) -> float:
    if not isinstance(value, float | np.floating):
        return check_int(name, value, lowest=0)  # type: ignore[no-any-return]
    if not 0 <= value < 1:
        refuse(name, "a whole number of at least 0, or a share of the anchors below 1", f"{value!r}")
    return check_number(name, value)


_FIELDS = frozenset(field.name for field in fields(Mining))
_EXTRAS = frozenset(Extras._fields)
