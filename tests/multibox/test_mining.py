"""Mining logits is mining their losses, which never exist all at once."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.engine import lazy_losses
from tests.support.lazy import lazy
from tests.support.multibox import (
    CLASSIFICATIONS,
    NUM_CLASSES,
    anchor_losses,
    draw,
    ranks,
)

pytestmark = pytest.mark.full_size

SCOPES = ("sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota")


MODES = ("background", "foreground_max", "foreground_sum")


def same_bits(got, expected):
    for name in ("hard_negative_mask", "pos_mask", "num_pos", "num_neg", "num_kept"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    for name in ("positive_sum", "negative_sum", "threshold"):
        assert getattr(got, name).tobytes() == getattr(expected, name).tobytes(), name
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def ranked(logits, labels, keywords):
    """Replace a mode of `rank_by` by its very numbers."""
    if keywords["rank_by"] == "loss":
        return keywords
    kind = "foreground_max" if keywords["rank_by"] == "foreground_max" else "background"
    losses = lazy(logits, labels, sm.Softmax())
    return keywords | {"rank_by": losses.ranks(kind, keywords["background"])[:]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank_by", ["loss", *MODES])
@pytest.mark.parametrize("scope", SCOPES)
def test_mining_logits_is_mining_their_losses_bit_for_bit(scope, rank_by, dtype, monkeypatch):
    call = draw(6, positives=(3, 0, 1, 2, 5, 1, 2), scope=scope, rank_by=rank_by, min_negatives=1)
    call.logits = np.round(call.logits).astype(dtype)  # many ties
    losses = sm.softmax_cross_entropy(call.logits, call.labels)
    keywords = ranked(call.logits, call.labels, call.keywords)
    expected = sm.mine_hard_negatives(losses, call.labels, **keywords)
    same_bits(call.mined(), expected)
    same_bits(call.mined(num_threads=2), expected)
    flipped = sm.mine_logits(call.logits.transpose(0, 2, 1).copy(), call.labels, class_axis=1, **call.keywords)
    same_bits(flipped, expected)
    one_hot = np.eye(NUM_CLASSES)[call.labels]
    of_scores = sm.softmax_cross_entropy(call.logits, one_hot)  # another formula: equal to rounding
    expected_of_scores = sm.mine_hard_negatives(of_scores, call.labels, **keywords)
    same_bits(sm.mine_logits(call.logits, one_hot, **call.keywords), expected_of_scores)
    flat = sm.mine_logits(
        call.logits.reshape(-1, NUM_CLASSES),
        call.labels.reshape(-1),
        sample_offsets=np.arange(8) * 14,
        **call.keywords,
    )
    np.testing.assert_array_equal(flat.hard_negative_mask, expected.hard_negative_mask.reshape(-1))
    assert flat.negative_sum.tobytes() == expected.negative_sum.tobytes()
    assert flat.threshold.tobytes() == expected.threshold.tobytes()
    for elements in (1, 150, 300):
        monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
        same_bits(call.mined(), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_mining_ragged_logits_is_mining_their_losses_bit_for_bit(scope, monkeypatch):
    rng = np.random.default_rng(7)
    logits, labels = (
        rng.integers(-2, 3, (200, 3)).astype(np.float32),
        rng.integers(0, 2, 200) * (rng.random(200) < 0.2),
    )
    keywords = {
        "sample_offsets": [0, 5, 5, 80, 81, 150, 200],
        "background": 0,
        "scope": scope,
        "rank_by": "background",
    }
    keywords["valid"] = rng.random(200) < 0.9
    losses = sm.softmax_cross_entropy(logits[None], labels[None])[0]
    rank = sm.softmax_cross_entropy(logits[None], np.zeros((1, 200), int))[0]
    expected = sm.mine_hard_negatives(losses, labels, **keywords | {"rank_by": rank})
    for elements in (1, 100, 2_000_000):
        monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
        for num_threads in (1, 2):
            same_bits(sm.mine_logits(logits, labels, **keywords, num_threads=num_threads), expected)


def test_large_batches_give_the_same_bits_on_two_threads(monkeypatch):
    monkeypatch.setattr("ssd_mining.engine.lazy_losses.LOGITS_EACH", 1)
    monkeypatch.setattr("ssd_mining.engine.run.ANCHORS_EACH", 1)
    call = draw(8, positives=(9,) * 12, num_anchors=300, rank_by="foreground_max")
    call.logits, call.labels = call.logits.astype(np.float32), call.labels.astype(np.uint8)
    one, two = (call.loss(num_threads=threads, with_gradients=True) for threads in (1, 2))
    assert one.loss == two.loss
    np.testing.assert_array_equal(one.logits_gradient, two.logits_gradient)
    np.testing.assert_array_equal(one.loc_gradient, two.loc_gradient)
    same_bits(call.mined(num_threads=2), call.mined(num_threads=1))


@pytest.mark.parametrize("name", ["sigmoid", "focal", "weighted sigmoid"])
@pytest.mark.parametrize("background", [0, NUM_CLASSES])
@pytest.mark.parametrize("rank_by", ["background", "foreground_max"])
def test_sigmoids_are_ranked_by_their_own_probabilities(rank_by, background, name):
    for seed in range(10):
        call = draw(seed, classification=CLASSIFICATIONS[name], background=background, rank_by=rank_by)
        if background:
            call.labels = np.where(call.labels == 0, background, call.labels)
        p = 1 / (1 + np.exp(-call.logits))
        foreground = np.delete(p, background, axis=2) if background < NUM_CLASSES else p
        rank = foreground.max(axis=2)
        if rank_by == "background":  # of all classes at once, unweighted: background yes, every other no
            yes = -np.log(p[..., background]) if background < NUM_CLASSES else 0
            rank = yes - np.log1p(-foreground).sum(axis=2)
        losses = anchor_losses(call, CLASSIFICATIONS[name])
        expected = sm.mine_hard_negatives(losses, call.labels, background=background, rank_by=rank)
        got = call.mined()
        np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask)
        np.testing.assert_allclose(got.negative_sum, expected.negative_sum, rtol=1e-14)


@pytest.mark.parametrize("rank_by", MODES)
@pytest.mark.parametrize("form", ["classes", "one-hot"])
def test_a_mode_ranks_by_the_background_that_was_named(rank_by, form):
    for background in (0, 2, -1):
        call = draw(9, rank_by=rank_by, background=background)
        column = background % NUM_CLASSES
        call.labels = np.where(call.labels == 0, column, (call.labels + column) % NUM_CLASSES)
        rank = ranks(call, rank_by)
        losses = sm.softmax_cross_entropy(call.logits, call.labels)
        expected = sm.mine_hard_negatives(losses, call.labels, background=column, rank_by=rank)
        if form == "one-hot":
            call.labels = np.eye(NUM_CLASSES)[call.labels]
        np.testing.assert_array_equal(call.mined().hard_negative_mask, expected.hard_negative_mask)
        if background == -1 and form == "one-hot":  # unless given, the last class
            np.testing.assert_array_equal(call.mined(background=None).hard_negative_mask, expected.hard_negative_mask)


class Spy:
    """Notes how many losses exist at once."""

    def __init__(self, monkeypatch):
        self.sizes = []
        monkeypatch.setattr(lazy_losses, "losses", self.watched(lazy_losses.losses))

    def watched(self, compute):
        def watching(*call):
            values = compute(*call)
            self.sizes.append(values.size)
            return values

        return watching


@pytest.mark.parametrize("labels", ["classes", "one-hot"])
@pytest.mark.parametrize("rank_by", ["loss", "background"])
def test_the_losses_of_a_whole_batch_never_exist(rank_by, labels, monkeypatch):
    call = draw(10, positives=(3,) * 20, num_anchors=100, rank_by=rank_by)
    if labels == "one-hot":
        call.labels = np.eye(NUM_CLASSES)[call.labels]
    spy = Spy(monkeypatch)
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 400)
    call.mined()
    assert max(spy.sizes) == 400
    assert sum(spy.sizes) == 2000 * (1 if rank_by == "loss" else 2)
    spy.sizes.clear()
    call.loss(with_gradients=True)
    assert max(spy.sizes) == 400
    spy.sizes.clear()
    call.mined(scope="batch")  # of a batch that is mined as one, they do
    assert set(spy.sizes) == {2000}


def test_the_losses_of_a_whole_ragged_batch_never_exist(monkeypatch):
    rng = np.random.default_rng(11)
    logits, labels = rng.normal(size=(2000, 3)), (rng.random(2000) < 0.1).astype(int)
    spy = Spy(monkeypatch)
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 500)
    sm.mine_logits(logits, labels, background=0, sample_offsets=np.arange(0, 2001, 100))
    counted = [size for size in spy.sizes if size]
    assert max(counted) == 500
