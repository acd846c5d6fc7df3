"""SSD hard-negative mining and the SSD confidence loss on NumPy arrays.

The public functions of mining and losses lie in modules beside the folders. Below them, ``inputs`` checks arguments,
``engine`` decides where and how often a kernel runs, ``kernels`` computes, and ``reference`` is what tests judge it by.
Above them, ``analysis`` looks at a data set, and ``report`` and ``cli`` show it. Start with the diagram in
``engine/__init__.py``: the life of a call.

Every public name is loaded on first use, so that ``import ssd_mining`` loads neither NumPy nor Numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors
    from ssd_mining import reference as reference
    from ssd_mining.analysis.histogram import LossHistogram as LossHistogram
    from ssd_mining.analysis.loss_analysis import LossAnalysis as LossAnalysis
    from ssd_mining.analysis.one_batch import RatioSweep as RatioSweep
    from ssd_mining.analysis.one_batch import class_table as class_table
    from ssd_mining.analysis.one_batch import level_table as level_table
    from ssd_mining.analysis.one_batch import ratio_sweep as ratio_sweep
    from ssd_mining.analysis.one_batch import top_losses as top_losses
    from ssd_mining.analysis.recipe_comparison import RecipeComparison as RecipeComparison
    from ssd_mining.analysis.recipe_comparison import compare_recipes as compare_recipes
    from ssd_mining.analysis.result import AnalysisResult as AnalysisResult
    from ssd_mining.checks import HazardWarning as HazardWarning
    from ssd_mining.checks import InputError as InputError
    from ssd_mining.checks import InputTypeError as InputTypeError
    from ssd_mining.classification import Focal as Focal
    from ssd_mining.classification import Sigmoid as Sigmoid
    from ssd_mining.classification import Softmax as Softmax
    from ssd_mining.compile_ahead import Warmup as Warmup
    from ssd_mining.compile_ahead import warmup as warmup
    from ssd_mining.cross_entropy import focal_loss as focal_loss
    from ssd_mining.cross_entropy import sigmoid_cross_entropy as sigmoid_cross_entropy
    from ssd_mining.cross_entropy import softmax_cross_entropy as softmax_cross_entropy
    from ssd_mining.files.blocks import read_blocks as read_blocks
    from ssd_mining.hard_examples import HardExamples as HardExamples
    from ssd_mining.hard_examples import ohem as ohem
    from ssd_mining.localization import smooth_l1 as smooth_l1
    from ssd_mining.losses import ConfidenceLoss as ConfidenceLoss
    from ssd_mining.losses import confidence_loss as confidence_loss
    from ssd_mining.matching.anchors import anchor_grid as anchor_grid
    from ssd_mining.matching.anchors import default_boxes as default_boxes
    from ssd_mining.matching.match import MatchResult as MatchResult
    from ssd_mining.matching.match import match_anchors as match_anchors
    from ssd_mining.matching.offsets import decode_boxes as decode_boxes
    from ssd_mining.matching.offsets import encode_boxes as encode_boxes
    from ssd_mining.matching.rule import Matching as Matching
    from ssd_mining.matching.rule import matching_rules as matching_rules
    from ssd_mining.mining import MiningResult as MiningResult
    from ssd_mining.mining import hard_negative_mask as hard_negative_mask
    from ssd_mining.mining import mine_hard_negatives as mine_hard_negatives
    from ssd_mining.mining import mine_logits as mine_logits
    from ssd_mining.mining import negative_quota as negative_quota
    from ssd_mining.mining_rule import Mining as Mining
    from ssd_mining.multibox import MultiboxLoss as MultiboxLoss
    from ssd_mining.multibox import multibox_loss as multibox_loss
    from ssd_mining.recipe import Recipe as Recipe
    from ssd_mining.recipe import recipes as recipes
    from ssd_mining.report.loss_report import LossReport as LossReport

_NAMES = {
    "analysis.histogram": "LossHistogram",
    "analysis.loss_analysis": "LossAnalysis",
    "analysis.one_batch": "RatioSweep class_table level_table ratio_sweep top_losses",
    "analysis.recipe_comparison": "RecipeComparison compare_recipes",
    "analysis.result": "AnalysisResult",
    "checks": "HazardWarning InputError InputTypeError",
    "classification": "Focal Sigmoid Softmax",
    "compile_ahead": "Warmup warmup",
    "cross_entropy": "focal_loss sigmoid_cross_entropy softmax_cross_entropy",
    "files.blocks": "read_blocks",
    "hard_examples": "HardExamples ohem",
    "localization": "smooth_l1",
    "losses": "ConfidenceLoss confidence_loss",
    "matching.anchors": "anchor_grid default_boxes",
    "matching.match": "MatchResult match_anchors",
    "matching.offsets": "decode_boxes encode_boxes",
    "matching.rule": "Matching matching_rules",
    "mining": "MiningResult hard_negative_mask mine_hard_negatives mine_logits negative_quota",
    "mining_rule": "Mining",
    "multibox": "MultiboxLoss multibox_loss",
    "recipe": "Recipe recipes",
    "reference": "reference",
    "report.loss_report": "LossReport",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_MODULES)  # noqa: PLE0605 - type checkers see the imports above


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ssd_mining")
    if name not in _MODULES:
        msg = f"module 'ssd_mining' has no attribute {name!r}"
        raise AttributeError(msg)
    module = importlib.import_module(f"ssd_mining.{_MODULES[name]}")
    value = module if name == "reference" else getattr(module, name)
    globals()[name] = value  # the next look finds it here
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
