"""The whole loss against its parts: losses from logits, mining, plain NumPy; and on the real files."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.losses import NORMALIZE
from tests.support.batches import REAL_FILES, load_real
from tests.support.multibox import (
    CLASSIFICATIONS,
    NUM_CLASSES,
    OF_THE_LOSS,
    Call,
    anchor_losses,
    divided,
    draw,
    ranks,
    selection_cases,
    smooth_l1,
)

pytestmark = pytest.mark.full_size

SELECTIONS = selection_cases()


def mining_keywords(call):
    """Return the keywords of `mine_hard_negatives` that mean what those of a call on logits mean."""
    ours = {k: v for k, v in call.keywords.items() if k not in (*OF_THE_LOSS, "classification", "class_axis")}
    if isinstance(ours.get("rank_by"), str):
        ours["rank_by"] = ranks(call, ours["rank_by"])
    return ours


def check(call):
    """Hold a call against its parts, to 1e-12."""
    keywords = {"normalize": "positives", "zero_positives": "clamp", "beta": 1.0, "loc_weight": 1.0} | call.keywords
    losses = anchor_losses(call, keywords.get("classification") or sm.Softmax())
    parts = sm.confidence_loss(
        losses,
        call.labels,
        normalize=keywords["normalize"],
        zero_positives=keywords["zero_positives"],
        **mining_keywords(call),
    )
    got = call.loss()
    np.testing.assert_allclose(got.conf_loss, parts.loss, rtol=1e-12)
    for name in ("positive_sum", "negative_sum", "per_sample"):
        np.testing.assert_allclose(getattr(got, name), getattr(parts, name), rtol=1e-12)
    for name in ("num_pos", "num_neg", "num_kept"):
        np.testing.assert_array_equal(getattr(got, name), getattr(parts, name))
    mined = sm.mine_hard_negatives(losses, call.labels, **mining_keywords(call))
    np.testing.assert_array_equal(call.mined().hard_negative_mask, mined.hard_negative_mask)
    loc_sum = (smooth_l1(call, keywords["beta"]) * mined.pos_mask).sum(axis=1)
    np.testing.assert_allclose(got.loc_sum, loc_sum, rtol=1e-12)
    loc_normalize = keywords.get("loc_normalize") or keywords["normalize"]
    loc_loss = divided(loc_sum, loc_normalize, got, losses.size, keywords["zero_positives"])
    np.testing.assert_allclose(got.loc_loss, loc_loss, rtol=1e-12)
    np.testing.assert_allclose(got.loss, parts.loss + keywords["loc_weight"] * loc_loss, rtol=1e-12)
    return got


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_whole_is_its_parts_under_every_rule_of_selection(name):
    for seed in range(10):
        check(draw(seed, **SELECTIONS[name]))


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_the_whole_is_its_parts_for_every_confidence_loss(name):
    for seed in range(10):
        check(draw(seed, classification=CLASSIFICATIONS[name]))


@pytest.mark.parametrize("zero_positives", ["clamp", "zero", "nan"])
@pytest.mark.parametrize("loc_normalize", [None, *NORMALIZE])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_whole_is_its_parts_under_every_two_divisors(normalize, loc_normalize, zero_positives):
    chosen = {"normalize": normalize, "loc_normalize": loc_normalize, "zero_positives": zero_positives}
    check(draw(1, positives=(2, 0, 1), min_negatives=1, **chosen))
    nothing = check(draw(2, positives=(0, 0), **chosen))
    assert nothing.num_kept.tolist() == [0, 0]


@pytest.mark.parametrize("loc_weight", [0, 0.25, 3])
@pytest.mark.parametrize("beta", [0, 0.1, 1, 5])
def test_the_whole_is_its_parts_at_every_beta(beta, loc_weight):
    check(draw(3, beta=beta, loc_weight=loc_weight))


@pytest.mark.parametrize("policy", ["omit", "propagate"])
def test_the_whole_is_its_parts_beside_nan(policy):
    call = draw(4, nan_policy=policy)
    call.logits[0, 2, 1] = call.logits[2, :5, 0] = np.nan
    out = check(call)
    assert np.isnan(out.loss) == (policy == "propagate")


def test_the_whole_is_its_parts_with_ignored_labels_and_another_background():
    for seed in range(10):
        call = draw(seed, ignore_index=255)
        call.labels = (NUM_CLASSES - 1 - call.labels).astype(np.uint8)
        call.labels[:, 1::5] = 255
        call.keywords["background"] = NUM_CLASSES - 1
        expected = check(call)
        assert call.loss(background=-1).loss == expected.loss  # as C is known


@pytest.mark.parametrize("labels", ["classes", "one-hot"])
def test_a_ragged_batch_is_its_samples(labels):
    call = draw(5, positives=(4, 3), num_anchors=15, anchor_weights=np.random.default_rng(0).random((2, 15)))
    if labels == "one-hot":
        call.labels = np.eye(NUM_CLASSES)[call.labels]
    flat = Call(*(array.reshape(-1, *array.shape[2:]) for array in call.arrays), call.keywords)
    flat.keywords = call.keywords | {"sample_offsets": [0, 4, 4, 19, 30]}
    weights = flat.keywords["anchor_weights"] = call.keywords["anchor_weights"].reshape(-1)
    got = flat.loss(normalize="sample_selected", with_gradients=True)
    losses, share = [], 4
    for sample, (first, last) in enumerate([(0, 4), (4, 4), (4, 19), (19, 30)]):
        alone = Call(*(array[None, first:last] for array in flat.arrays), call.keywords)
        alone.keywords = call.keywords | {"anchor_weights": weights[None, first:last]}
        expected = alone.loss(normalize="sample_selected", with_gradients=True)
        losses.append(expected.loss)
        for name in ("positive_sum", "negative_sum", "num_pos", "num_neg", "num_kept"):
            assert getattr(got, name)[sample] == getattr(expected, name)[0]
        np.testing.assert_allclose(got.loc_sum[sample], expected.loc_sum[0], rtol=1e-14)
        for name in ("logits_gradient", "loc_gradient"):
            np.testing.assert_allclose(getattr(got, name)[first:last], getattr(expected, name)[0] / share, rtol=1e-14)
    np.testing.assert_allclose(got.loss, np.mean(losses), rtol=1e-14)


@pytest.mark.full_size
@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_give_their_expected_losses_from_their_logits(name, background):
    real = load_real(name, background)
    keywords = {"background": 0 if background == "first" else -1}
    locations, loc_sum = (), np.zeros(real["labels"].shape[0])
    if "loc_preds" in real:
        locations = real["loc_preds"], real["loc_targets"]
        off = np.abs(locations[0].astype(np.float64) - locations[1].astype(np.float64))
        costs = np.where(off < 1, off**2 / 2, off - 0.5).sum(axis=2)
        column = 0 if background == "first" else real["logits"].shape[2] - 1
        loc_sum = np.array([row[labels != column].sum() for row, labels in zip(costs, real["labels"], strict=True)])
    out = sm.multibox_loss(real["logits"], real["labels"], *locations, normalize="batch", **keywords)
    np.testing.assert_array_equal(out.num_pos, real["exp_P"])
    np.testing.assert_array_equal(out.num_kept, real["exp_k"])
    np.testing.assert_allclose(out.confidence_loss, real["exp_total"], rtol=1e-6)
    np.testing.assert_allclose(out.positive_sum, real["exp_pos_sum"], rtol=1e-6)
    np.testing.assert_allclose(out.conf_loss, real["exp_batch_mean"], rtol=1e-6)
    assert f"{out.conf_loss:.3f}" == f"{float(REAL_FILES[name]):.3f}"
    np.testing.assert_allclose(out.loc_sum, loc_sum, rtol=1e-12)
    np.testing.assert_allclose(out.loss, out.conf_loss + loc_sum.mean(), rtol=1e-12)
    one_hot = np.eye(real["logits"].shape[2], dtype=np.float32)[real["labels"]]
    scores = sm.multibox_loss(real["logits"], one_hot, *locations, normalize="batch", **keywords)
    np.testing.assert_allclose(scores.loss, out.loss, rtol=1e-6)  # another formula
    alone = [
        sm.multibox_loss(x[None], y[None], **keywords).loss
        for x, y in zip(real["logits"], real["labels"], strict=True)
    ]
    np.testing.assert_allclose(alone, real["exp_norm"], rtol=1e-6)
    each = sm.multibox_loss(
        real["logits"], real["labels"], normalize="sample_positives", zero_positives="zero", **keywords
    )
    np.testing.assert_allclose(each.loss, np.mean(alone), rtol=1e-12)


@pytest.mark.full_size
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_gradients_of_the_real_files_add_up_to_nothing_and_stay_where_they_belong(name):
    real = load_real(name)
    out = sm.multibox_loss(real["logits"], real["labels"], background=0, with_gradients=True)
    gradient = out.logits_gradient
    assert gradient.shape == real["logits"].shape
    assert np.abs(gradient.astype(np.float64).sum(axis=2)).max() < 1e-6  # of a softmax, every row does
    selected = (real["labels"] > 0) | real["kept_neg"]
    moved = gradient.any(axis=2)
    assert not moved[~selected].any()
    p = softmax_of(real["logits"])
    expected = (p - np.eye(p.shape[2])[real["labels"]])[selected] / out.num_pos.sum()
    np.testing.assert_allclose(gradient[selected], expected, rtol=1e-5, atol=1e-9)


def softmax_of(logits):
    x = logits.astype(np.float64)
    exps = np.exp(x - x.max(axis=2, keepdims=True))
    return exps / exps.sum(axis=2, keepdims=True)
