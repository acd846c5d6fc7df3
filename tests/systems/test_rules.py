"""The oracles themselves: by hand, against each other, and against `sm.confidence_loss` where it has the words."""

import ast
import math

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import ROOT, examples
from tests.support.systems import per_sample, whole_batch
from tests.support.systems.cases import CASES
from tests.support.systems.draws import KINDS, draw
from tests.support.systems.parts import bits, cross_entropy, smooth_l1, softmax

pytestmark = pytest.mark.generated
ROUNDS = examples(26)


# Losses in bits. Sample 0: a positive of 1 bit, negatives of 4, 3, 2, 1. Sample 1: negatives of 5, 1, 1, 1, 1.
LOGITS = np.stack([bits(1, 2, 4, 1, 3), bits(1, 5, 1, 1, 1)])
LABELS = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
LOC_TARGET = np.zeros((2, 5, 4))
LOC_PRED = np.full((2, 5, 4), 0.5)  # smooth L1: 4 * 0.125 = 0.5; L1: 4 * 0.5 = 2

BY_HAND = {  # name: (confidence loss in bits, localization loss)
    "seed": ((1 + 9) / 2, 0),
    "ljanyst": ((1 + 9) / 1 / 2, 0.5 / 2),
    "nvidia": ((1 + 9) / 1 / 2, 0.5 / 2),
    "mlperf": ((1 + 9) / 1 / 2, 0.5 / 2),
    "caffe": ((1 + 9) / 1, 0.5),
    "amdegroot": ((1 + 9) / 1, 0.5),
    "sgrvinod": ((1 + 9) / 1, 2 / 4),
    "torchcv": ((1 + 9) / 1, 0.5),
    "lufficc": ((1 + 9) / 1, 0.5),
    "qfgaohao": ((1 + 9) / 1, 0.5),
    "torchvision": ((1 + 9) / 1, 0.5),
    "chainercv": ((1 + 9) / 1, 0.5),
    "mmdetection": ((1 + 9) / (1 + 1), 0.5 / 2),
    "gluoncv": ((1 + 9) / 1, 0.5),
    "ssd_keras": ((1 + 5 + 4 + 3) / 1, 0.5),
    "keras-cv": (1 + 5 + 4 + 3, 0),
    "balancap": ((1 + 5 + 4 + 3 + 2) / 2, 0.5 / 2),  # the 3 + 2 = 5th is one of the 1s; only what beats it stays
    "rykov8": (((1 + 9) / (1 + 3) + (5 + 1 + 1) / (0 + 3)) / 2, (0.5 / 1 + 0) / 2),
    "bubbliiiing": ((1 + 5 + 4 + 3) / (1 + 1), 0.5 / 2),
    "tf_object_detection": (1 + 9, 0.5),
    "db": ((1 + 5 + 4 + 3) / (1 + 3), 0),
    "mmocr": ((1 + 5 + 4 + 3) / (1 + 3), 0),
    "paddledetection": ((1 + 9 + 5) / 1, 0.5),  # 1 % of 5 anchors, rounded up: one negative of sample 1
}


def mirrored(case, logits, labels):
    """Put background where the system has it."""
    return (logits[..., ::-1], logits.shape[-1] - 1 - labels) if case.last else (logits, labels)


@pytest.mark.parametrize("name", CASES)
def test_a_batch_computed_by_hand(name):
    case = CASES[name]
    logits, labels = mirrored(case, LOGITS, LABELS)
    extras = {"caffe": {"overlaps": np.zeros((2, 5))}, "mmdetection": {"label_weights": np.ones((2, 5))}}
    got = case.rule(logits, labels, LOC_PRED, LOC_TARGET, **extras.get(name, {}))
    conf, loc = BY_HAND[name]
    assert got.conf_loss / math.log(2) == pytest.approx(conf, rel=1e-12)
    assert got.loc_loss == pytest.approx(loc, rel=1e-12)
    assert got.loss == got.conf_loss + got.loc_loss


def test_the_optional_minimum_by_hand():
    arrays = (LOGITS, LABELS, LOC_PRED, LOC_TARGET)
    unit = math.log(2)
    assert per_sample.gluoncv(*arrays, min_hard_negatives=2).conf_loss / unit == pytest.approx(1 + 9 + 5 + 1)
    assert per_sample.tf_object_detection(*arrays, min_negatives=2).conf_loss / unit == pytest.approx(1 + 9 + 5 + 1)
    assert whole_batch.ssd_keras(*arrays, n_neg_min=4).conf_loss / unit == pytest.approx(1 + 5 + 4 + 3 + 2)
    assert whole_batch.keras_cv(*arrays, min_negatives=4).conf_loss / unit == pytest.approx(1 + 5 + 4 + 3 + 2)
    empty = (LOGITS[1:], LABELS[1:], LOC_PRED[1:], LOC_TARGET[1:])
    assert per_sample.gluoncv(*empty, min_hard_negatives=1).conf_loss / unit == pytest.approx(5)
    assert whole_batch.db(*empty, fallback=2).conf_loss / unit == pytest.approx((5 + 1) / 2)
    assert whole_batch.db(*empty).conf_loss == 0
    assert whole_batch.bubbliiiing(*empty).conf_loss / unit == pytest.approx(5 + 4 * 1)
    assert whole_batch.rykov8(*empty).conf_loss / unit == pytest.approx((5 + 4 * 1) / 5)


def test_the_overlap_and_the_normalization_of_caffe_by_hand():
    arrays = (LOGITS, LABELS, LOC_PRED, LOC_TARGET)
    near = np.array([[0.9, 0.1, 0.5, 0.1, 0.1], [0.1] * 5])  # the negative of 4 bits overlaps an object
    modes = {"VALID": 1, "BATCH_SIZE": 2, "FULL": 10, "NONE": 1}
    for mode, divisor in modes.items():
        got = per_sample.caffe(*arrays, overlaps=near, normalization=mode)
        assert got.conf_loss / math.log(2) == pytest.approx((1 + 3 + 2 + 1) / divisor)
        assert got.loc_loss == pytest.approx(0.5 / divisor)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("caffe", 2), ("amdegroot", 3), ("lufficc", 3), ("torchvision", 3), ("paddledetection", 3), ("balancap", 3)],
)
def test_two_and_a_half_negatives_are_two_or_three(name, kept):
    case = CASES[name]
    logits, labels = mirrored(case, LOGITS[:1], LABELS[:1])
    extras = {"overlaps": np.zeros((1, 5))} if name == "caffe" else {}
    ratio = 3.5 if name == "balancap" else 2.5  # int(3.5) + 1, less the one that is the threshold
    got = case.rule(logits, labels, LOC_PRED[:1], LOC_TARGET[:1], ratio=ratio, **extras)
    assert got.hard_negatives.sum() == kept


ROWS = {  # what `sm.confidence_loss` calls the same thing, where one row of anchors is one sample
    "seed": {"normalize": "batch"},
    "ljanyst": {"normalize": "sample_positives"},
    "nvidia": {"normalize": "sample_positives"},
    "mlperf": {"normalize": "sample_positives"},
    "caffe": {"normalize": "positives"},
    "amdegroot": {"normalize": "positives", "zero_positives": "nan"},
    "sgrvinod": {"normalize": "positives", "zero_positives": "nan"},
    "torchcv": {"normalize": "positives", "zero_positives": "nan"},
    "lufficc": {"normalize": "positives", "zero_positives": "nan"},
    "qfgaohao": {"normalize": "positives", "zero_positives": "nan"},
    "torchvision": {"normalize": "positives"},
    "chainercv": {"normalize": "positives", "zero_positives": "zero"},
    "mmdetection": {"normalize": "clamped_sample_positives"},
    "gluoncv": {"normalize": "positives"},
    "tf_object_detection": {"normalize": "none"},
}
FLATTENED = {  # where the whole batch is one sample
    "ssd_keras": {"normalize": "positives"},
    "keras-cv": {"normalize": "none"},
    "db": {"normalize": "selected"},
    "mmocr": {"normalize": "selected"},
}
LITERAL = ("seed", "ljanyst", "nvidia", "mlperf")  # their ratio is a 3 in the code


def drawn(name, kind, number, ratio):
    """Draw a batch with whole ratios: the roundings then agree."""
    rng = np.random.default_rng([list(KINDS).index(kind), list(CASES).index(name), number])
    case = CASES[name]
    batch = draw(kind, rng, last=case.last, num_classes=case.num_classes)
    rule, ours = case.extras(rng, batch)
    if name not in LITERAL:
        rule, ours = {**rule, "ratio": ratio}, {**ours, "neg_pos_ratio": ratio}
    return batch, case.rule(*batch.arrays, **rule), ours


def counted(name, batch, ours):
    """Return the losses and the keywords of `sm.confidence_loss` that say what the recipe will."""
    losses = cross_entropy(batch.logits, batch.labels)
    keywords = {**ours, "background": batch.background}
    if name == "caffe":
        near = keywords.pop("overlaps") >= 0.5
        keywords["valid"] = (batch.labels > 0) | ~near
    if name == "mmdetection":
        losses = losses * keywords.pop("anchor_weights")
    if name == "ssd_keras":
        losses = np.minimum(losses, -np.log(1e-15))
    return losses, keywords


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ROWS)
def test_the_oracles_that_mine_by_sample_agree_with_confidence_loss(name, kind):
    for number in range(ROUNDS):
        batch, theirs, ours = drawn(name, kind, number, 1 + number % 4)
        losses, keywords = counted(name, batch, ours)
        got = sm.confidence_loss(losses, batch.labels, **keywords, **ROWS[name])
        np.testing.assert_allclose(got.loss, theirs.conf_loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FLATTENED)
def test_the_oracles_that_mine_by_batch_agree_with_confidence_loss(name, kind):
    for number in range(ROUNDS):
        batch, theirs, ours = drawn(name, kind, number, 1 + number % 4)
        losses, keywords = counted(name, batch, ours)
        one_row = losses.reshape(1, -1), batch.labels.reshape(1, -1)
        got = sm.confidence_loss(*one_row, **keywords, **FLATTENED[name])
        np.testing.assert_allclose(got.loss, theirs.conf_loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_odd_quotas_agree_with_confidence_loss_once_they_are_counted(kind):
    for number in range(ROUNDS):
        for name in ("rykov8", "bubbliiiing", "balancap", "paddledetection"):
            batch, theirs, _ = drawn(name, kind, number, 3)
            loss = cross_entropy(batch.logits, batch.labels)
            num_pos = (batch.labels != batch.background).sum(axis=1)
            num_neg = batch.labels.shape[1] - num_pos
            quotas = np.minimum(3 * num_pos, num_neg)
            arguments = {"labels": batch.labels, "background": batch.background}
            if name == "rykov8":
                loss = np.minimum(loss, -np.log(1e-15))
                shared = quotas[quotas > 0].min() if (quotas > 0).any() else 100
                rank = softmax(batch.logits)[:, :, 1:].max(axis=2)
                got = sm.confidence_loss(
                    loss, num_negatives=shared, rank_by=rank, normalize="sample_selected", **arguments
                ).loss
            elif name == "paddledetection":
                wanted = np.where(num_pos > 0, 3 * num_pos, 1)
                got = sm.confidence_loss(loss, num_negatives=wanted, normalize="positives", **arguments).loss
            else:
                total = quotas.sum() if quotas.any() else 100
                if name == "balancap":
                    total = max(min(3 * num_pos.sum() + num_pos.size, num_neg.sum()), 1)
                else:
                    loss = np.minimum(loss, -np.log(1e-7))
                arguments["labels"] = batch.labels.reshape(1, -1)
                rank = 1 - softmax(batch.logits)[:, :, :1].reshape(1, -1)
                out = sm.mine_hard_negatives(loss.reshape(1, -1), num_negatives=total, rank_by=rank, **arguments)
                kept = out.hard_negative_mask
                if name == "balancap":
                    kept = kept & (rank > out.threshold)
                    divisor = num_pos.size
                else:
                    divisor = np.maximum(1, num_pos).sum()
                got = (out.positive_sum.sum() + loss.reshape(1, -1)[kept].sum()) / divisor
            np.testing.assert_allclose(got, theirs.conf_loss, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_systems_that_say_the_same_give_the_same(kind):
    for number in range(ROUNDS):
        rng = np.random.default_rng([list(KINDS).index(kind), number])
        batch = draw(kind, rng)
        with_objects = (batch.labels > 0).any()
        flipped = batch.logits[..., ::-1], batch.logits.shape[2] - 1 - batch.labels, *batch.arrays[2:]
        same = [
            per_sample.caffe(*batch.arrays, overlaps=np.zeros(batch.labels.shape)),
            per_sample.torchvision(*batch.arrays),
            per_sample.chainercv(*batch.arrays),
            per_sample.gluoncv(*batch.arrays),
            per_sample.paddledetection(*flipped) if (batch.labels > 0).any(axis=1).all() else None,
        ]
        if with_objects:
            same += [per_sample.amdegroot(*batch.arrays), per_sample.torchcv(*batch.arrays)]
            same += [per_sample.lufficc(*batch.arrays)]
            assert per_sample.sgrvinod(*batch.arrays).conf_loss == pytest.approx(same[0].conf_loss, rel=1e-9)
        for other in same[1:]:
            if other is not None:
                np.testing.assert_allclose(other[:2], same[0][:2], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            per_sample.ljanyst(*flipped)[:2], per_sample.mlperf(*batch.arrays)[:2], rtol=1e-9, atol=1e-12
        )


def test_the_parts_by_hand():
    np.testing.assert_allclose(softmax(np.array([0.0, math.log(3)])), [0.25, 0.75])
    np.testing.assert_allclose(smooth_l1(np.array([0.5, -3.0, 1.0]), np.zeros(3)), [0.125, 2.5, 0.5])
    assert cross_entropy(np.zeros((1, 1, 4)), np.array([[-1]])) == pytest.approx(math.log(4))
    assert per_sample.monai_num_negatives(10, 0.25, 1) == 30
    assert per_sample.monai_num_negatives(0, 0.25, 5) == 5


@pytest.mark.parametrize("name", ["parts", "per_sample", "whole_batch", "hard_examples"])
def test_an_oracle_imports_numpy_only(name):
    tree = ast.parse((ROOT / "tests" / "support" / "systems" / f"{name}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"numpy", "numpy.typing", "typing", "tests.support.systems.parts"}
