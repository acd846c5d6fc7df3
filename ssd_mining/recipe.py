"""The losses of other systems as keywords: `recipes`.

``docs/recipes.md`` explains their differences; ``tests/systems`` compares each with a transliteration of its system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssd_mining.classification import Softmax


@dataclass(frozen=True, eq=False, repr=False)
class Recipe(Mapping[str, Any]):
    """The keywords with which `multibox_loss` computes the loss of another system, as a read-only mapping.

    Attributes
    ----------
    name : str
        Its name in `recipes`.
    system : str
        Its source: the repository, the file, the version or variant.
    quirks : str
        What it does not reproduce of that system.
    matching : str or None
        The rule in `matching_rules` by which that system matches anchors; None: another one, or it is given labels.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> recipe = sm.recipes["torchvision"]
    >>> dict(recipe)
    {'background': 0, 'normalize': 'positives', 'rounding': 'ceil'}
    >>> recipe.matching
    'torchvision'
    >>> print(recipe.quirks)
    Where the quota exceeds the negatives, positives are summed twice there.
    >>> out = sm.multibox_loss([[[0.0, 3.0], [1.0, 0.0]]], [[1, 0]], **dict(recipe, neg_pos_ratio=1))
    >>> round(out.loss, 4)
    0.3618
    """

    name: str
    system: str
    quirks: str
    _keywords: Mapping[str, Any]
    matching: str | None = None

    def __post_init__(self) -> None:
        described = f"{self.system}\n\nNot reproduced: {self.quirks or 'nothing is known.'}"
        object.__setattr__(self, "__doc__", described)  # `help` shows it

    def __getitem__(self, keyword: str) -> Any:
        return self._keywords[keyword]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keywords)

    def __len__(self) -> int:
        return len(self._keywords)

    def __repr__(self) -> str:
        keywords = ", ".join(f"{keyword}={value!r}" for keyword, value in self.items())
        return f"<recipe {self.name}: {keywords}>"


_FIRST = {"background": 0, "normalize": "positives"}
_LAST = {"background": -1, "normalize": "positives"}
_HUNDRED = {"min_negatives": 100, "min_negatives_when": "no_positives"}
_DOUBLE_ADDITION = "Where the quota exceeds the negatives, positives are summed twice there."
_SAMPLED = "Positives are drawn at random too where there are many, and scores are sigmoids, there."

_ALL = (
    Recipe("seed", "The notebook that this package began with.", "", _LAST | {"normalize": "batch"}),
    Recipe(
        "ljanyst",
        "ljanyst/ssd-tensorflow, ssdvgg.py: where the notebook's loss went.",
        "",
        _LAST | {"normalize": "sample_positives"},
    ),
    Recipe(
        "nvidia",
        "NVIDIA/DeepLearningExamples, PyTorch/Detection/SSD, ssd/model.py, since its masks are joined (issue 948).",
        "",
        _FIRST | {"normalize": "sample_positives"},
    ),
    Recipe(
        "mlperf",
        "mlcommons/training, single_stage_detector, ssd/base_model.py.",
        _DOUBLE_ADDITION,
        _FIRST | {"normalize": "sample_positives"},
    ),
    Recipe(
        "caffe",
        "weiliu89/caffe, branch ssd, MAX_NEGATIVE with VALID normalization; give it `overlaps`.",
        "The probability is floored at the smallest normal float32 there.",
        {**_FIRST, "neg_overlap": 0.5},
        "caffe",
    ),
    Recipe(
        "amdegroot",
        "amdegroot/ssd.pytorch, layers/modules/multibox_loss.py, with the well-known fix of its masking.",
        "The log-sum-exp subtracts the maximum of the whole batch there, so that rows far below it are lost.",
        {**_FIRST, "rounding": "ceil", "zero_positives": "nan"},
        "amdegroot",
    ),
    Recipe(
        "sgrvinod",
        "sgrvinod/a-PyTorch-Tutorial-to-Object-Detection, model.py: localization is the mean absolute difference.",
        "",
        {**_FIRST, "rounding": "ceil", "zero_positives": "nan", "beta": 0.0, "loc_weight": 0.25},
        "amdegroot",
    ),
    Recipe(
        "torchcv",
        "kuangliu/torchcv, torchcv/loss/ssd_loss.py; labels below 0 are ignored: pass `ignore_index=-1`.",
        "",
        {**_FIRST, "rounding": "ceil", "zero_positives": "nan"},
        "caffe",
    ),
    Recipe(
        "lufficc",
        "lufficc/SSD, ssd/modeling/box_head/loss.py.",
        "Anchors labelled -1 are mined as background there, and the array of losses is overwritten.",
        {**_FIRST, "rank_by": "background", "rounding": "ceil", "zero_positives": "nan"},
        "amdegroot",
    ),
    Recipe(
        "qfgaohao",
        "qfgaohao/pytorch-ssd, vision/nn/multibox_loss.py.",
        "Anchors labelled -1 are mined as background there, and the array of losses is overwritten.",
        {**_FIRST, "rank_by": "background", "rounding": "ceil", "zero_positives": "nan"},
        "amdegroot",
    ),
    Recipe(
        "torchvision",
        "pytorch/vision, torchvision/models/detection/ssd.py, SSD.compute_loss.",
        _DOUBLE_ADDITION,
        {**_FIRST, "rounding": "ceil"},
        "torchvision",
    ),
    Recipe(
        "chainercv",
        "chainer/chainercv, links/model/ssd/multibox_loss.py.",
        "",
        {**_FIRST, "rounding": "ceil", "zero_positives": "zero"},
        "caffe",
    ),
    Recipe(
        "mmdetection",
        "open-mmlab/mmdetection, dense_heads/ssd_head.py; `anchor_weights` are its label_weights.",
        "",
        _LAST | {"normalize": "clamped_sample_positives"},
        "mmdetection",
    ),
    Recipe(
        "gluoncv",
        "dmlc/gluon-cv, gluoncv/loss.py, SSDMultiBoxLoss; `min_negatives` is its min_hard_negatives.",
        "Anchors labelled -1 are mined as background there.",
        {**_FIRST, "rounding": "ceil"},
    ),
    Recipe(
        "ssd_keras",
        "pierluigiferrari/ssd_keras, keras_loss_function/keras_ssd_loss.py; `min_negatives` is its n_neg_min.",
        "",
        {**_FIRST, "scope": "batch", "classification": Softmax(prob_floor=1e-15)},
    ),
    Recipe(
        "keras-cv",
        "keras-team/keras-cv, the layer of pull request 5, never merged.",
        "",
        {**_FIRST, "normalize": "none", "scope": "batch"},
    ),
    Recipe(
        "balancap",
        "balancap/SSD-Tensorflow, nets/ssd_vgg_300.py, the flattened ssd_losses.",
        "TensorFlow raises there where the batch has no negative.",
        {
            **(_FIRST | {"normalize": "batch"}),
            "scope": "batch",
            "rank_by": "background",
            "extra_negatives": 1,
            "tie_policy": "strict",
        },
    ),
    Recipe(
        "rykov8",
        "rykov8/ssd_keras, ssd_training.py, MultiboxLoss.",
        "Positives, with a probability of 0, fill up the quota of a sample that has fewer negatives there.",
        {
            **(_FIRST | {"normalize": "sample_selected"} | _HUNDRED),
            "loc_normalize": "sample_positives",
            "scope": "smallest_sample_quota",
            "rank_by": "foreground_max",
            "classification": Softmax(prob_floor=1e-15),
        },
    ),
    Recipe(
        "bubbliiiing",
        "bubbliiiing/ssd-pytorch, nets/ssd_training.py.",
        "Positives, with a probability of 0, fill up the 100 there.",
        {
            **(_FIRST | {"normalize": "clamped_sample_positives"} | _HUNDRED),
            "scope": "batch_of_sample_quotas",
            "rank_by": "foreground_sum",
            "classification": Softmax(prob_floor=1e-7),
        },
    ),
    Recipe(
        "tf_object_detection",
        "tensorflow/models, object_detection/core/losses.py, HardExampleMiner without suppression; else see `ohem`.",
        "",
        _FIRST | {"normalize": "none"},
        "tf_object_detection",
    ),
    Recipe(
        "monai",
        "Project-MONAI/MONAI, hard_negative_sampler.py, as its tutorial does: positive_fraction 0.3, min_neg 16.",
        _SAMPLED,
        {
            **_FIRST,
            "rank_by": "foreground_max",
            "neg_pos_ratio": abs(1 - 1 / 0.3),
            "min_negatives": 16,
            "pool_size": 20.0,
        },
    ),
    Recipe(
        "nndetection",
        "MIC-DKFZ/nnDetection, nndet/core/boxes/sampler.py, with positive_fraction 0.33 and pool_size 20.",
        _SAMPLED,
        {
            **_FIRST,
            "rank_by": "foreground_max",
            "neg_pos_ratio": abs(1 - 1 / 0.33),
            "min_negatives": 2,
            "pool_size": 20.0,
        },
    ),
    Recipe(
        "db",
        "MhLiao/DB, decoders/balance_cross_entropy_loss.py: text maps, as two classes.",
        "1e-6 is added to the divisor there.",
        {**_FIRST, "normalize": "selected", "scope": "batch"},
    ),
    Recipe(
        "mmocr",
        "open-mmlab/mmocr, MaskedBalancedBCELoss; its fallback_negative_num is `min_negatives` without positives.",
        "1e-6 is added to the divisor there.",
        {**_FIRST, "normalize": "selected", "scope": "batch", "min_negatives_when": "no_positives"},
    ),
    Recipe(
        "paddledetection",
        "PaddlePaddle/PaddleDetection, ppdet/modeling/losses/ssd_loss.py, with mine_neg_ratio 0.01.",
        "",
        {**_LAST, "rounding": "ceil", "min_negatives": 0.01, "min_negatives_when": "no_positives"},
    ),
)


class _Recipes(Mapping[str, Recipe]):
    """All recipes by name, in this order. A pickle, or a copy, of it is this very object."""

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self._by_name = {recipe.name: recipe for recipe in recipes}

    def __getitem__(self, name: str) -> Recipe:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<recipes: {', '.join(self)}>"

    def __reduce__(self) -> str:
        return "recipes"


recipes: Mapping[str, Recipe] = _Recipes(_ALL)
