"""The matching rule as one frozen value, `Matching`, and the rules of other systems by name, `matching_rules`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, TypedDict

from ssd_mining.checks import check_choice, check_int, check_number, refuse, set_fields
from ssd_mining.choices import CONTESTED, FORCE, MATCHING_RULES, Contested, Force
from ssd_mining.kernels.records import MatchRule


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which anchors are positive, background and ignored, given the boxes of the objects.

    `match_anchors` takes this frozen, hashable value as ``rule=``, or its fields as keywords. Every anchor first takes
    the object that it overlaps most (the first of equal ones), if their intersection over union reaches `pos_iou`.
    Then objects are forced onto anchors, by `force`. The other anchors are background where their largest overlap is
    below `neg_iou`, and ignored elsewhere.

    Parameters
    ----------
    pos_iou : float
        The overlap from which an anchor is positive, above 0 and at most 1.
    neg_iou : float or (float, float), optional
        The overlap below which an anchor is background, at most `pos_iou`, which is the default: nothing is ignored.
        A pair: background from the first to below the second; what is below the first is ignored.
    force : {"bipartite", "argmax", "argmax_all", "own_best", "none"}
        Which anchors an object gets however small the overlap. ``"bipartite"``: each object gets an anchor of its
        own; the pair of a free object and a free anchor with the largest overlap comes first (of equal pairs, that with
        the first anchor, then the first object). ``"argmax"``: each object gets the first of its best anchors;
        ``"argmax_all"``: all of its best anchors. ``"own_best"``: every best anchor of any object is positive, with
        the object that the anchor overlaps most.
    contested : {"last", "first"}
        Which of several objects gets the one anchor that ``"argmax"`` and ``"argmax_all"`` give to all of them. The
        others may stay without any.
    force_iou : float
        The least overlap for `force`. It must also be above 0: nothing is forced onto an anchor that it does not touch.
    ignore_ioa : float
        An anchor is in a crowd if more than this share of its area is inside one box of ``crowd``.
    crowd_first : bool
        False: an anchor in a crowd is ignored if it would be background. True: it is ignored before objects look for
        anchors.
    background : int
        The label of background, at least 0.
    ignore_index : int
        The label of ignored anchors.

    Raises
    ------
    TypeError
        If a field has the wrong type.
    ValueError
        If a field has a wrong value.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> sm.Matching(neg_iou=0.4, force="own_best") == sm.matching_rules["torchvision_retinanet"]
    True
    """

    pos_iou: float = 0.5
    neg_iou: float | tuple[float, float] | None = None
    force: Force = "bipartite"
    contested: Contested = "last"
    force_iou: float = 0.0
    ignore_ioa: float = 0.5
    crowd_first: bool = False
    background: int = 0
    ignore_index: int = -1

    def __post_init__(self) -> None:
        pos_iou = check_number("pos_iou", self.pos_iou, lowest=math.ulp(0), highest=1, words="above 0 and at most 1")
        words = f"from 0 to pos_iou ({pos_iou})"
        low, high = [check_number("neg_iou", bound, highest=pos_iou, words=words) for bound in self._neg_bounds()]
        if low >= high:
            refuse("neg_iou", "a number above 0, or two of which the second is larger", f"{self.neg_iou}")
        checked: dict[str, Any] = {"pos_iou": pos_iou}
        if self.neg_iou is not None:
            checked["neg_iou"] = (low, high) if isinstance(self.neg_iou, tuple | list) else high
        for name, choices in (("force", FORCE), ("contested", CONTESTED)):
            checked[name] = check_choice(name, getattr(self, name), choices)
        for name in ("force_iou", "ignore_ioa"):
            checked[name] = check_number(name, getattr(self, name), highest=1, words="from 0 to 1")
        if not isinstance(self.crowd_first, bool):
            refuse("crowd_first", "True or False", f"{self.crowd_first!r}", TypeError)
        checked["background"] = check_int("background", self.background, lowest=0)
        checked["ignore_index"] = check_int("ignore_index", self.ignore_index)
        set_fields(self, **checked)
        if self.ignore_index == self.background:
            refuse("ignore_index", "a label other than background", f"{self.ignore_index} for both")

    def _neg_bounds(self) -> tuple[Any, Any]:
        if self.neg_iou is None:
            return 0.0, self.pos_iou
        if not isinstance(self.neg_iou, tuple | list):
            return 0.0, self.neg_iou
        if len(self.neg_iou) != 2:
            refuse("neg_iou", "a number, or two", f"{self.neg_iou}")
        low, high = self.neg_iou
        return low, high

    @functools.cached_property
    def rule(self) -> MatchRule:
        """The numbers that a kernel needs."""
        low, high = self._neg_bounds()
        return MatchRule(
            pos_iou=float(self.pos_iou),
            neg_low=float(low),
            neg_high=float(high),
            force=FORCE.index(self.force),
            first=self.contested == "first",
            force_iou=float(self.force_iou),
            ignore_ioa=float(self.ignore_ioa),
            crowd_first=self.crowd_first,
            background=self.background,
            ignore_index=self.ignore_index,
        )


class MatchingFields(TypedDict, total=False):
    """The fields of `Matching`, as keywords of `match_anchors`."""

    pos_iou: float
    neg_iou: float | tuple[float, float] | None
    force: Force
    contested: Contested
    force_iou: float
    ignore_ioa: float
    crowd_first: bool
    background: int
    ignore_index: int


_RETINANET = Matching(neg_iou=0.4, force="own_best")

# What docs/matching.md says of each; ``tests/systems`` compares each with a transliteration of its system.
matching_rules: Mapping[str, Matching] = MappingProxyType(
    {
        "caffe": Matching(force="bipartite", force_iou=1e-6),
        "torchvision": Matching(force="argmax"),
        "torchvision_retinanet": _RETINANET,
        "amdegroot": Matching(force="argmax"),
        "mmdetection": Matching(force="argmax", crowd_first=True),
        "mmdetection_retinanet": replace(_RETINANET, force="argmax_all", crowd_first=True),
        "tf_object_detection": Matching(force="argmax", contested="first"),
    }
)


def resolve_matching(rule: Matching | str | None, keywords: MatchingFields) -> Matching:
    """Return the rule that is meant: a `Matching`, the name of one or None for the default, changed by keywords."""
    if rule is None:
        base = _DEFAULT
    elif isinstance(rule, str):
        check_choice("rule", rule, MATCHING_RULES)
        base = matching_rules[rule]
    elif isinstance(rule, Matching):
        base = rule
    else:
        refuse("rule", "a Matching, the name of one, or None", type(rule).__name__, TypeError)
    if not keywords:
        return base
    if not keywords.keys() <= _FIELDS:
        unknown = min(keywords.keys() - _FIELDS)
        msg = f"{unknown}: no such keyword; the fields of Matching are {', '.join(sorted(_FIELDS))}"
        raise TypeError(msg)
    return replace(base, **keywords)


_DEFAULT = Matching()
_FIELDS = frozenset(field.name for field in fields(Matching))
