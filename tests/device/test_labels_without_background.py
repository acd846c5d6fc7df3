"""Scores without a column for background that lie on a device, or in the memory of its simulator."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.device import to_device, to_host

pytestmark = pytest.mark.cuda

B, A, C = 2, 70, 4
RNG = np.random.default_rng(5)
CLASSES = np.full((B, A), C)
CLASSES[:, ::7] = RNG.integers(0, C, (B, 10))
CLASSES[0, :2] = C - 1
TARGETS = np.eye(C + 1, dtype=np.float32)[CLASSES][..., :C]
LOSS = RNG.random((B, A)).astype(np.float32)
WAYS = [{"background": C}, {"all_zero": "negative"}, {"background": C, "all_zero": "negative"}]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize(
    "scores", [TARGETS, TARGETS.astype(np.uint8), TARGETS * np.float32(0.3)], ids=["1", "u1", "0.3"]
)
def test_such_scores_are_mined_as_on_the_host(way, scores):
    got = sm.mine_hard_negatives(to_device(LOSS), to_device(scores), **way)
    expected = sm.mine_hard_negatives(LOSS, CLASSES, background=C, backend="reference")
    np.testing.assert_array_equal(to_host(got.pos_mask), expected.pos_mask)
    np.testing.assert_array_equal(to_host(got.hard_negative_mask), expected.hard_negative_mask)


def test_zero_rows_beside_a_column_can_be_negatives():
    scores = np.eye(C + 1, dtype=np.float32)[CLASSES]
    scores[:, 5] = 0
    got = sm.mine_hard_negatives(to_device(LOSS), to_device(scores), background=C, all_zero="negative")
    expected = sm.mine_hard_negatives(LOSS, scores, background=C, all_zero="negative", backend="reference")
    np.testing.assert_array_equal(to_host(got.hard_negative_mask), expected.hard_negative_mask)


@pytest.mark.parametrize("bad", [1.5, -0.25, np.nan])
def test_a_score_that_is_no_target_is_refused(bad):
    wrong = TARGETS.copy()
    wrong[1, 4, 2] = bad
    with pytest.raises(ValueError, match=r"labels: expected a target from 0 to 1 .* at \(sample 1, anchor 4\)"):
        sm.confidence_loss(to_device(LOSS), to_device(wrong), background=C)
    with pytest.raises(ValueError, match=r"labels: expected a target above 0 for a class"):
        sm.confidence_loss(to_device(LOSS), to_device(TARGETS), background=C, all_zero="raise")


def test_scores_beside_logits_are_named_as_not_there_yet():
    logits = to_device(np.zeros((B, A, C), np.float32))
    with pytest.raises(NotImplementedError, match=r"^labels: backend 'cuda' does not support one-hot scores"):
        sm.multibox_loss(logits, to_device(TARGETS), background=C, classification=sm.Sigmoid())


@pytest.mark.parametrize(
    ("ratio", "num_pos", "rounding", "kept"), [(0.29, 100, "floor", 29), (0.7 / 0.3, 27, "ceil", 63)]
)
def test_a_quota_is_the_number_that_was_meant(ratio, num_pos, rounding, kept):
    labels = (np.arange(200) < num_pos).astype(np.uint8)[None]
    call = {"background": 0, "neg_pos_ratio": ratio, "rounding": rounding}
    loss = np.ones((1, 200), np.float32)
    assert to_host(sm.confidence_loss(to_device(loss), to_device(labels), **call).num_kept).tolist() == [kept]
    assert sm.confidence_loss(loss, labels, **call, backend="cuda").num_kept.tolist() == [kept]
