"""The bugs of the field: each oracle has its own, shown on a batch made for it, and our recipes have none of them."""

import math

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.systems import per_sample, whole_batch
from tests.support.systems.parts import bits

UNIT = math.log(2)


def batch(losses, labels):
    """Return logits whose background losses are these bits, the labels, and offsets without a loss."""
    labels = np.array(labels)
    still = np.zeros((*labels.shape, 4))
    return np.stack([bits(*row) for row in losses]), labels, still, still


def ours(name, arrays, **keywords):
    return sm.multibox_loss(*arrays, **{**sm.recipes[name], **keywords})


# Two positives, one negative: the quota of six is more than there is. Class 1 has half the probability: 1 bit.
FEW_NEGATIVES = batch([[1, 1, 3]], [[1, 1, 0]])


@pytest.mark.parametrize(("name", "divisor"), [("torchvision", 2), ("mlperf", 2)])
def test_positives_count_twice_where_the_quota_exceeds_the_negatives(name, divisor):
    rule = getattr(per_sample, name)
    meant = (1 + 1 + 3) / divisor * UNIT
    assert rule(*FEW_NEGATIVES).conf_loss == pytest.approx(meant)
    assert rule(*FEW_NEGATIVES, quirk=True).conf_loss == pytest.approx((1 + 1 + 3 + 1 + 1) / divisor * UNIT)
    assert ours(name, FEW_NEGATIVES).conf_loss == pytest.approx(meant)


def test_nvidia_joins_the_masks_instead_of_adding_them():
    assert ours("nvidia", FEW_NEGATIVES).conf_loss == pytest.approx((1 + 1 + 3) / 2 * UNIT)


def test_zeroed_positives_fill_the_shared_quota_of_rykov8():
    # Sample 0 has a quota of 3; sample 1 is all positives, so that its three "negatives" are positives of 1 bit.
    arrays = batch([[1, 2, 4, 3], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 1, 1]])
    first, second = (1 + 9) / 4, 4 / 4
    assert whole_batch.rykov8(*arrays).conf_loss == pytest.approx((first + second) / 2 * UNIT)
    doubled = whole_batch.rykov8(*arrays, quirk=True).conf_loss
    assert doubled == pytest.approx((first + (4 + 3) / (4 + 3)) / 2 * UNIT)
    assert whole_batch.rykov8(*arrays, quirk=True).hard_negatives[1].sum() == 3
    assert ours("rykov8", arrays).conf_loss == pytest.approx((first + second) / 2 * UNIT)


def test_zeroed_positives_fill_the_hundred_of_bubbliiiing():
    # All anchors are positives: there is no quota, 100 are wanted, and only positives are left to take.
    labels = np.ones((1, 120), np.int64)
    arrays = batch([[1] * 120], labels)
    assert whole_batch.bubbliiiing(*arrays).conf_loss == pytest.approx(120 / 120 * UNIT)
    assert whole_batch.bubbliiiing(*arrays, quirk=True).conf_loss == pytest.approx((120 + 100) / 120 * UNIT)
    assert ours("bubbliiiing", arrays).conf_loss == pytest.approx(UNIT)


@pytest.mark.parametrize(("name", "rule"), [("gluoncv", per_sample.gluoncv), ("lufficc", per_sample.lufficc)])
def test_ignored_anchors_are_mined_as_background(name, rule):
    arrays = batch([[1, 9, 4, 3, 2, 1]], [[1, -1, 0, 0, 0, 0]])
    assert rule(*arrays).conf_loss == pytest.approx((1 + 4 + 3 + 2) * UNIT)
    assert rule(*arrays, quirk=True).conf_loss == pytest.approx((1 + 9 + 4 + 3) * UNIT)
    assert ours(name, arrays, ignore_index=-1).conf_loss == pytest.approx((1 + 4 + 3 + 2) * UNIT)


def test_an_all_zero_row_of_ssd_keras_and_an_ignored_label_of_torchcv_are_neither():
    arrays = batch([[1, 9, 4, 3, 2, 1]], [[1, -1, 0, 0, 0, 0]])
    too_few = batch([[1, 9, 4]], [[1, -1, 0]])
    for rule, name in ((whole_batch.ssd_keras, "ssd_keras"), (per_sample.torchcv, "torchcv")):
        assert rule(*arrays).conf_loss == pytest.approx((1 + 4 + 3 + 2) * UNIT)
        assert rule(*too_few).conf_loss == pytest.approx((1 + 4) * UNIT)
        assert ours(name, arrays, ignore_index=-1).conf_loss == pytest.approx((1 + 4 + 3 + 2) * UNIT)
        assert ours(name, too_few, ignore_index=-1).conf_loss == pytest.approx((1 + 4) * UNIT)


def test_a_global_maximum_hides_the_hardest_negative_from_amdegroot():
    logits, labels, *offsets = batch([[1, 5, 4, 3, 2]], [[1, 0, 0, 0, 0]])
    logits[0, 0] += 1000.0  # the positive's row: its own loss does not change, the others' exponents underflow
    arrays = (logits, labels, *offsets)
    assert per_sample.amdegroot(*arrays).conf_loss == pytest.approx((1 + 5 + 4 + 3) * UNIT)
    hidden = per_sample.amdegroot(*arrays, quirk=True)
    assert hidden.conf_loss != pytest.approx((1 + 5 + 4 + 3) * UNIT)
    assert hidden.hard_negatives[0].tolist() == [True, True, True, False, False]  # the sentinel 0 beats -inf
    assert ours("amdegroot", arrays).conf_loss == pytest.approx((1 + 5 + 4 + 3) * UNIT)


@pytest.mark.parametrize("name", ["amdegroot", "sgrvinod", "torchcv", "lufficc", "qfgaohao"])
def test_nan_without_positives_is_what_they_mean(name):
    arrays = batch([[1, 2, 3]], [[0, 0, 0]])
    assert math.isnan(ours(name, arrays).loss)


def test_balancap_drops_the_negative_that_is_the_threshold_and_all_that_tie_with_it():
    # One positive and one sample: 3 + 1 = 4 places; the fourth value is 2 bits, held by two anchors.
    arrays = batch([[1, 5, 4, 3, 2, 2, 1]], [[1, 0, 0, 0, 0, 0, 0]])
    assert whole_batch.balancap(*arrays).conf_loss == pytest.approx((1 + 5 + 4 + 3) * UNIT)
    assert ours("balancap", arrays).conf_loss == pytest.approx((1 + 5 + 4 + 3) * UNIT)
    # Two positives and two negatives: the two places that there are hold the threshold; one negative stays.
    arrays = batch([[1, 1, 5, 4]], [[1, 1, 0, 0]])
    assert whole_batch.balancap(*arrays).conf_loss == pytest.approx((1 + 1 + 5) * UNIT)
    assert ours("balancap", arrays).conf_loss == pytest.approx((1 + 1 + 5) * UNIT)


def test_an_epsilon_in_the_divisor_of_db_is_lost_in_single_precision():
    arrays = batch([[1, 5, 4, 3, 2]], [[1, 0, 0, 0, 0]])
    exact, theirs = whole_batch.db(*arrays).conf_loss, whole_batch.db(*arrays, eps=1e-6).conf_loss
    assert theirs == pytest.approx(exact, rel=3e-7)
    assert theirs < exact
    assert ours("db", arrays).conf_loss == pytest.approx(exact)
