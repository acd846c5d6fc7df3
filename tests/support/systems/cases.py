"""Which oracle stands beside which recipe, in the oracle's words and in ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.systems import per_sample, whole_batch
from tests.support.systems.draws import Batch
from tests.support.systems.parts import Result

Keywords = dict[str, Any]
Draw = Callable[[np.random.Generator, Batch], tuple[Keywords, Keywords]]


def nothing(rng: np.random.Generator, batch: Batch) -> tuple[Keywords, Keywords]:
    """Leave the system at its defaults and the recipe as it is."""
    del rng, batch
    return {}, {}


def ratio(*choices: float) -> Draw:
    """Set the ratio of both in three draws of four; in the fourth, both have their own."""

    def pick(rng: np.random.Generator, batch: Batch) -> tuple[Keywords, Keywords]:
        del batch
        if rng.random() < 0.25:
            return {}, {}
        chosen = choices[rng.integers(len(choices))]
        return {"ratio": chosen}, {"neg_pos_ratio": chosen}

    return pick


def minimum(theirs: str, then: Draw) -> Draw:
    """Set the least number of negatives of both as well, in three draws of four."""

    def pick(rng: np.random.Generator, batch: Batch) -> tuple[Keywords, Keywords]:
        rule, ours = then(rng, batch)
        if rng.random() < 0.25:
            return rule, ours
        least = int(rng.integers(0, 9))
        return {**rule, theirs: least}, {**ours, "min_negatives": least}

    return pick


def overlaps(rng: np.random.Generator, batch: Batch) -> tuple[Keywords, Keywords]:
    """Draw how much every anchor overlaps its best object, for Caffe."""
    rule, ours = FRACTIONS(rng, batch)
    best = rng.random(batch.labels.shape)
    return {**rule, "overlaps": best}, {**ours, "overlaps": best}


def label_weights(rng: np.random.Generator, batch: Batch) -> tuple[Keywords, Keywords]:
    """Draw mmdetection's weights: 1 for positives, 1 or, outside of the image, 0 for negatives."""
    rule, ours = WHOLE(rng, batch)
    weights = np.where((batch.labels == batch.background) & (rng.random(batch.labels.shape) < 0.2), 0.0, 1.0)
    return {**rule, "label_weights": weights}, {**ours, "anchor_weights": weights}


WHOLE = ratio(1, 2, 3, 5)
FRACTIONS = ratio(0.5, 1.5, 2.75, 3)


@dataclass(frozen=True)
class Case:
    """An oracle, and how to ask it and our recipe the same question."""

    rule: Callable[..., Result]
    extras: Draw = nothing
    last: bool = False  # background is the last class
    num_classes: int | None = None
    localization: bool = True


CASES: dict[str, Case] = {
    "seed": Case(per_sample.seed, last=True, localization=False),
    "ljanyst": Case(per_sample.ljanyst, last=True),
    "nvidia": Case(per_sample.mlperf),
    "mlperf": Case(per_sample.mlperf),
    "caffe": Case(per_sample.caffe, overlaps),
    "amdegroot": Case(per_sample.amdegroot, FRACTIONS),
    "sgrvinod": Case(per_sample.sgrvinod, FRACTIONS),
    "torchcv": Case(per_sample.torchcv, FRACTIONS),
    "lufficc": Case(per_sample.lufficc, FRACTIONS),
    "qfgaohao": Case(per_sample.lufficc, FRACTIONS),
    "torchvision": Case(per_sample.torchvision, FRACTIONS),
    "chainercv": Case(per_sample.chainercv, FRACTIONS),
    "mmdetection": Case(per_sample.mmdetection, label_weights, last=True),
    "gluoncv": Case(per_sample.gluoncv, minimum("min_hard_negatives", FRACTIONS)),
    "ssd_keras": Case(whole_batch.ssd_keras, minimum("n_neg_min", WHOLE)),
    "keras-cv": Case(whole_batch.keras_cv, minimum("min_negatives", FRACTIONS), localization=False),
    "balancap": Case(whole_batch.balancap, FRACTIONS),
    "rykov8": Case(whole_batch.rykov8, FRACTIONS),
    "bubbliiiing": Case(whole_batch.bubbliiiing, WHOLE),
    "tf_object_detection": Case(per_sample.tf_object_detection, minimum("min_negatives", FRACTIONS)),
    "db": Case(whole_batch.db, FRACTIONS, num_classes=2, localization=False),
    "mmocr": Case(whole_batch.db, FRACTIONS, num_classes=2, localization=False),
    "paddledetection": Case(per_sample.paddledetection, FRACTIONS, last=True),
}
SAMPLERS = ("monai", "nndetection")  # they draw at random: `test_samplers` has them


def selection(keywords: Keywords) -> Keywords:
    """Return what mining takes of the keywords of a loss."""
    of_the_loss = ("normalize", "zero_positives", "beta")
    return {key: value for key, value in keywords.items() if key not in of_the_loss and not key.startswith("loc_")}
