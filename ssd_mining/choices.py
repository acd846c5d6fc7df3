"""The words that an option can be: each list is written here once, without NumPy, so that ``--help`` is quick."""

import difflib
from collections.abc import Iterable
from typing import Literal, get_args

Scope = Literal["sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota"]
Rounding = Literal["floor", "ceil"]
TiePolicy = Literal["index", "strict", "all"]
RankBy = Literal["loss", "background", "foreground_max", "foreground_sum"]
NanPolicy = Literal["raise", "propagate", "omit"]
MinNegativesWhen = Literal["always", "no_positives"]
AllZeroRows = Literal["positive", "negative", "ignore", "raise"]

# Of the fields of `Mining`, by their names.
CHOICES: dict[str, tuple[str, ...]] = {
    "rounding": get_args(Rounding),
    "min_negatives_when": get_args(MinNegativesWhen),
    "scope": get_args(Scope),
    "rank_by": get_args(RankBy),
    "tie_policy": get_args(TiePolicy),
    "nan_policy": get_args(NanPolicy),
    "all_zero": get_args(AllZeroRows),
}

Normalize = Literal[
    "none",
    "batch",
    "anchors",
    "positives",
    "sample_positives",
    "clamped_sample_positives",
    "selected",
    "sample_selected",
]
ZeroPositives = Literal["clamp", "zero", "nan", "raise"]
NORMALIZE, ZERO_POSITIVES = get_args(Normalize), get_args(ZeroPositives)

Force = Literal["bipartite", "argmax", "argmax_all", "own_best", "none"]
Contested = Literal["last", "first"]
BoxFormat = Literal["xyxy", "cxcywh", "xywh"]
FORCE, CONTESTED, BOX_FORMATS = get_args(Force), get_args(Contested), get_args(BoxFormat)

# The geometries of `default_boxes` and the rules of `match_anchors`, by their names.
GEOMETRIES = ("ssd300", "ssd300_coco", "ssd512", "ssd512_coco", "torchvision_ssd300", "ssdlite320", "retinanet")
MATCHING_RULES = (
    "caffe",
    "torchvision",
    "torchvision_retinanet",
    "amdegroot",
    "mmdetection",
    "mmdetection_retinanet",
    "tf_object_detection",
)


def nearest_of(word: str, names: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean ...?" for a mistyped name; nothing where none of `names` is near."""
    known = sorted(names)
    near = difflib.get_close_matches(word, known) or [name for name in known if word in name]
    return f"; did you mean {prefix}{near[0]}?" if near else ""
