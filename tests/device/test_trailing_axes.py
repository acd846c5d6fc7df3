"""Maps on a device: trailing axes that lie one after the other are one axis of anchors; others are refused by name."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.device import Interface, needs_simulator, to_device, to_host

pytestmark = [pytest.mark.cuda, needs_simulator]

RNG = np.random.default_rng(3)
SHAPE = (2, 4, 6)
LOSS = RNG.gamma(0.3, 1.0, SHAPE).astype(np.float32)
LABELS = (RNG.random(SHAPE) < 0.15).astype(np.int64)
LOGITS = RNG.normal(0, 2, (2, 3, 4, 6)).astype(np.float32)
LOC = RNG.normal(0, 1, (*SHAPE, 4)).astype(np.float32)
VALID = RNG.random(SHAPE) < 0.8


def assert_same(got, expected, names):
    for name in names.split():
        ours, theirs = to_host(getattr(got, name)), getattr(expected, name)
        assert np.shape(ours) == np.shape(theirs), name
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-36, err_msg=name)


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_maps_of_losses_are_mined_in_their_shape(scope):
    keywords = {"background": 0, "scope": scope}
    got = sm.mine_hard_negatives(to_device(LOSS), to_device(LABELS), valid=to_device(VALID), **keywords)
    expected = sm.mine_hard_negatives(LOSS, LABELS, valid=VALID, backend="reference", **keywords)
    assert_same(got, expected, "hard_negative_mask pos_mask num_kept negative_sum threshold")
    out = sm.confidence_loss(to_device(LOSS), to_device(np.eye(2)[LABELS]), **keywords)
    assert_same(out, sm.confidence_loss(LOSS, LABELS, backend="reference", **keywords), "loss per_sample")


@pytest.mark.parametrize("class_axis", [-1, 1])
def test_maps_of_logits_give_losses_and_gradients_in_their_shape(class_axis):
    logits = LOGITS if class_axis == 1 else np.ascontiguousarray(np.moveaxis(LOGITS, 1, -1))
    losses = sm.softmax_cross_entropy(to_device(logits), to_device(LABELS), class_axis=class_axis)
    expected = sm.softmax_cross_entropy(logits, LABELS, class_axis=class_axis)
    assert losses.shape == SHAPE
    np.testing.assert_allclose(to_host(losses), expected, rtol=1e-6)
    keywords = {"background": 0, "class_axis": class_axis, "with_gradients": True}
    arrays = logits, LABELS, LOC, np.zeros_like(LOC)
    out = sm.multibox_loss(*map(to_device, arrays), **keywords)
    judge = sm.multibox_loss(*arrays, **keywords)
    assert_same(out, judge, "loss conf_loss loc_loss num_kept logits_gradient loc_gradient")
    mined = sm.mine_logits(to_device(logits), to_device(LABELS), background=0, class_axis=class_axis)
    np.testing.assert_array_equal(
        to_host(mined.hard_negative_mask),
        sm.mine_logits(logits, LABELS, background=0, class_axis=class_axis).hard_negative_mask,
    )


def test_maps_without_gaps_between_their_rows_need_not_be_contiguous():
    wide = np.zeros((2, 2, *SHAPE[1:]), np.float32)
    wide[:, 1] = LOSS
    got = sm.hard_negative_mask(Interface(wide[:, 1]), Interface(LABELS), background=0)
    np.testing.assert_array_equal(to_host(got), sm.hard_negative_mask(LOSS, LABELS, background=0))
    for shape in ((2, 1, 6), (2, 4, 1)):  # an axis of one element has no stride
        rows, columns = shape[1:]
        part = wide[:, 1, :rows, :columns], np.ascontiguousarray(LABELS[:, :rows, :columns])
        got = sm.hard_negative_mask(*map(Interface, part), background=0)
        np.testing.assert_array_equal(to_host(got), sm.hard_negative_mask(*part, background=0))


def test_maps_with_gaps_are_refused_by_name():
    message = r"conf_loss: expected trailing axes that lie one after the other on a device, got strides \(24, 1, 4\)"
    turned = np.ascontiguousarray(LOSS.swapaxes(1, 2)).swapaxes(1, 2)
    with pytest.raises(ValueError, match=message):
        sm.hard_negative_mask(Interface(turned), Interface(LABELS), background=0)
    last = np.ascontiguousarray(np.moveaxis(LOGITS, 1, -1))[:, :, :4]
    with pytest.raises(
        ValueError, match=r"logits: expected trailing axes .* got strides \(72, 18, 3, 1\) .* a contig"
    ):
        sm.softmax_cross_entropy(Interface(last), Interface(LABELS[:, :, :4].copy()))


def test_a_wrong_value_in_a_map_is_named_as_on_the_host():
    labels = LABELS.copy()
    labels[1, 2, 3] = -7
    with pytest.raises(ValueError, match=r"labels: .* got -7 at \(sample 1, anchor 15\)"):
        sm.hard_negative_mask(to_device(LOSS), to_device(labels), background=0)
