"""SSD hard-negative mining and the SSD confidence loss on NumPy arrays.

The public names are loaded on first use, so that ``import ssd_mining`` costs nothing but this page: no Numba, no
optional package.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd_mining import reference
    from ssd_mining.analysis.histogram import LossHistogram
    from ssd_mining.analysis.loss_analysis import LossAnalysis
    from ssd_mining.analysis.one_batch import RatioSweep, class_table, level_table, ratio_sweep, top_losses
    from ssd_mining.analysis.recipe_comparison import RecipeComparison, compare_recipes
    from ssd_mining.analysis.result import AnalysisResult
    from ssd_mining.classification import Focal, Sigmoid, Softmax
    from ssd_mining.compile_ahead import Warmup, warmup
    from ssd_mining.cross_entropy import focal_loss, sigmoid_cross_entropy, softmax_cross_entropy
    from ssd_mining.files.blocks import read_blocks
    from ssd_mining.hard_examples import HardExamples, ohem
    from ssd_mining.localization import smooth_l1
    from ssd_mining.losses import ConfidenceLoss, confidence_loss
    from ssd_mining.mining import MiningResult, hard_negative_mask, mine_hard_negatives, mine_logits, negative_quota
    from ssd_mining.mining_rule import Mining
    from ssd_mining.multibox import MultiboxLoss, multibox_loss
    from ssd_mining.recipe import Recipe, recipes

__all__ = [
    "AnalysisResult",
    "ConfidenceLoss",
    "Focal",
    "HardExamples",
    "LossAnalysis",
    "LossHistogram",
    "Mining",
    "MiningResult",
    "MultiboxLoss",
    "RatioSweep",
    "Recipe",
    "RecipeComparison",
    "Sigmoid",
    "Softmax",
    "Warmup",
    "class_table",
    "compare_recipes",
    "confidence_loss",
    "focal_loss",
    "hard_negative_mask",
    "level_table",
    "mine_hard_negatives",
    "mine_logits",
    "multibox_loss",
    "negative_quota",
    "ohem",
    "ratio_sweep",
    "read_blocks",
    "recipes",
    "reference",
    "sigmoid_cross_entropy",
    "smooth_l1",
    "softmax_cross_entropy",
    "top_losses",
    "warmup",
]

_ROOMS = {
    "AnalysisResult": "analysis.result",
    "ConfidenceLoss": "losses",
    "Focal": "classification",
    "HardExamples": "hard_examples",
    "LossAnalysis": "analysis.loss_analysis",
    "LossHistogram": "analysis.histogram",
    "Mining": "mining_rule",
    "MiningResult": "mining",
    "MultiboxLoss": "multibox",
    "RatioSweep": "analysis.one_batch",
    "Recipe": "recipe",
    "RecipeComparison": "analysis.recipe_comparison",
    "Sigmoid": "classification",
    "Softmax": "classification",
    "Warmup": "compile_ahead",
    "class_table": "analysis.one_batch",
    "compare_recipes": "analysis.recipe_comparison",
    "confidence_loss": "losses",
    "focal_loss": "cross_entropy",
    "hard_negative_mask": "mining",
    "level_table": "analysis.one_batch",
    "mine_hard_negatives": "mining",
    "mine_logits": "mining",
    "multibox_loss": "multibox",
    "negative_quota": "mining",
    "ohem": "hard_examples",
    "ratio_sweep": "analysis.one_batch",
    "read_blocks": "files.blocks",
    "recipes": "recipe",
    "sigmoid_cross_entropy": "cross_entropy",
    "smooth_l1": "localization",
    "softmax_cross_entropy": "cross_entropy",
    "top_losses": "analysis.one_batch",
    "warmup": "compile_ahead",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ssd_mining")
    if name == "reference":
        return importlib.import_module("ssd_mining.reference")
    if name not in _ROOMS:
        msg = f"module 'ssd_mining' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"ssd_mining.{_ROOMS[name]}"), name)
    globals()[name] = value  # the next look finds it here
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
