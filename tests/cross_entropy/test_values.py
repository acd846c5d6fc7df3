"""The laws of the losses from logits, on every backend."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.classification import Focal, Sigmoid, Softmax
from ssd_mining.reference import losses as reference_losses
from tests.support.batches import generated
from tests.support.lazy import lazy

BACKENDS = ["cpu", "reference"]
LOSSES = [sm.softmax_cross_entropy, sm.sigmoid_cross_entropy, sm.focal_loss]
INF, NAN = math.inf, math.nan
few = generated(100)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def draw(seed, shape=(2, 40, 5)):
    rng = np.random.default_rng(seed)
    return (rng.integers(-64, 64, shape) / 8).astype(np.float32), rng.integers(0, shape[2], shape[:2])


@pytest.mark.full_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_with_a_background_logit_25_above_the_rest_all_8732_losses_are_distinct(dtype):
    x = np.zeros((1, 8732, 21), dtype)
    x[..., 0] = 25
    x[..., 1] = np.linspace(-4, 4, 8732)
    losses = sm.softmax_cross_entropy(x, np.zeros((1, 8732), np.int64))
    p = np.exp(x - 25) / np.exp(x - 25).sum(axis=2, keepdims=True)
    usual = -np.log(p[..., 0])
    assert len(np.unique(losses)) == 8732
    assert (np.diff(losses[0]) > 0).all()
    if dtype == np.float32:
        assert np.count_nonzero(usual) == 0  # what other systems rank by
    exact = np.log1p((np.exp(x[..., 1].astype(np.float64)) + 19) * np.exp(-25.0))
    np.testing.assert_allclose(losses, exact, rtol=2e-7)


@few
@given(st.integers(0, 2**32), st.sampled_from([-1024.0, -64.0, 32.0, 4096.0]))
def test_adding_a_number_to_all_logits_of_an_anchor_changes_nothing(seed, shift):
    x, y = draw(seed)  # in eighths: no sum is rounded
    got = sm.softmax_cross_entropy(x + np.float32(shift), y)
    np.testing.assert_allclose(got, sm.softmax_cross_entropy(x, y), rtol=4e-7, atol=0)


@few
@given(st.integers(0, 2**32))
def test_permuting_anchors_or_samples_permutes_the_losses(seed):
    x, y = draw(seed, (3, 70, 4))
    order, samples = np.random.default_rng(seed).permutation(70), [2, 0, 1]
    for loss in LOSSES:
        whole = loss(x, y)
        np.testing.assert_array_equal(loss(x[:, order], y[:, order]), whole[:, order])
        np.testing.assert_array_equal(loss(x[samples], y[samples]), whole[samples])
        np.testing.assert_array_equal(loss(x[1:2, 3:68], y[1:2, 3:68]), whole[1:2, 3:68])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@few
@given(seed=st.integers(0, 2**32))
def test_one_hot_labels_give_the_losses_of_integer_labels(loss, seed):
    x, y = draw(seed)
    rounding = 6e-7 if loss is sm.softmax_cross_entropy else 0  # classes are computed by another formula than scores
    np.testing.assert_allclose(loss(x, np.eye(5)[y]), loss(x, y), rtol=rounding)


@few
@given(st.integers(0, 2**32))
def test_the_loss_of_soft_labels_is_linear_in_them(seed):
    x, y = draw(seed)
    z = np.random.default_rng(seed).integers(0, 5, y.shape)
    soft = 0.25 * np.eye(5)[y] + 0.75 * np.eye(5)[z]
    for loss in LOSSES[:2]:
        mixed = 0.25 * loss(x, y).astype(np.float64) + 0.75 * loss(x, z)
        np.testing.assert_allclose(loss(x, soft), mixed, rtol=1e-6)


@few
@given(st.integers(0, 2**32))
def test_smoothing_mixes_in_the_mean_over_all_classes(seed):
    x, y = draw(seed)
    every = np.stack([sm.softmax_cross_entropy(x, np.full(y.shape, c)) for c in range(5)], axis=2).astype(np.float64)
    got = sm.softmax_cross_entropy(x, y, label_smoothing=0.2)
    np.testing.assert_allclose(got, 0.8 * sm.softmax_cross_entropy(x, y) + 0.2 * every.mean(axis=2), rtol=1e-6)


@few
@given(st.integers(0, 2**32))
def test_weights_multiply_the_loss_of_their_class(seed):
    x, y = draw(seed)
    weights = np.array([0, 1, 2, 4, 0.5])
    got = sm.softmax_cross_entropy(x, y, class_weights=weights)
    np.testing.assert_array_equal(got, sm.softmax_cross_entropy(x, y) * weights[y].astype(np.float32))


@few
@given(st.integers(0, 2**32))
def test_a_probability_floor_caps_the_loss(seed):
    x, y = draw(seed)
    got = sm.softmax_cross_entropy(x, y, prob_floor=0.125)
    np.testing.assert_array_equal(got, np.minimum(sm.softmax_cross_entropy(x, y), np.float32(-np.log(0.125))))


@few
@given(st.integers(0, 2**32))
def test_the_probabilities_of_all_classes_add_up_to_1(seed):
    x, y = draw(seed)
    p = [np.exp(-sm.softmax_cross_entropy(x.astype(np.float64), np.full(y.shape, c))) for c in range(5)]
    np.testing.assert_allclose(np.sum(p, axis=0), 1, rtol=1e-13)


@few
@given(st.integers(0, 2**32))
def test_without_focus_and_alpha_the_focal_loss_is_the_sigmoid_one(seed):
    x, y = draw(seed)
    np.testing.assert_array_equal(sm.focal_loss(x, y, alpha=None, gamma=0), sm.sigmoid_cross_entropy(x, y))
    half = sm.focal_loss(x, y, alpha=0.5, gamma=0)
    np.testing.assert_array_equal(half * 2, sm.sigmoid_cross_entropy(x, y))


@few
@given(st.integers(0, 2**32))
def test_a_softmax_of_two_classes_is_a_sigmoid_of_one(seed):
    x, y = draw(seed, (2, 40, 1))
    y = np.random.default_rng(seed).integers(0, 2, y.shape)
    pair = np.concatenate([x, np.zeros_like(x)], axis=2)
    single = sm.sigmoid_cross_entropy(x, y, background=1)  # class 1 has no logit: the target of class 0 is 0
    np.testing.assert_allclose(single, sm.softmax_cross_entropy(pair, y), rtol=3e-7)


def test_logits_of_ten_thousand_are_ordinary(backend):
    x = np.array([[[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [9999.5, 1e4, 0]]], np.float32)
    got = [sm.softmax_cross_entropy(x, np.full((1, 4), c), backend=backend)[0] for c in range(3)]
    log2, log3, near = math.log(2), math.log(3), math.log1p(math.exp(-0.5))
    expected = [[0, log2, log3, near + 0.5], [2e4, log2, log3, near], [1e4, 2e4 + log2, log3, 1e4 + near]]
    np.testing.assert_allclose(got, expected, rtol=2e-7)


@pytest.mark.parametrize("scale", [3e38, 1e30])
def test_the_largest_logits_of_float32_do_not_overflow(scale, backend):
    x = np.array([[[scale, -scale, 0.0], [scale, scale, scale]]], np.float32)
    got = sm.softmax_cross_entropy(x, [[0, 1]], backend=backend)
    np.testing.assert_allclose(got, [[0, math.log(3)]], rtol=2e-7)
    assert sm.sigmoid_cross_entropy(x[:, :1, :1], [[0]], backend=backend).tolist() == [[0.0]]


def test_minus_infinity_masks_a_class(backend):
    x = np.array([[[1.0, -INF, 0.5], [-INF, -INF, 3.0], [-INF, 1e4, -1e4]]], np.float32)
    call = {"backend": backend}
    own = sm.softmax_cross_entropy(x, [[0, 2, 1]], **call)
    np.testing.assert_allclose(own, [[math.log1p(math.exp(-0.5)), 0, 0]], rtol=2e-7)
    assert sm.softmax_cross_entropy(x, [[1, 0, 0]], **call).tolist() == [[INF, INF, INF]]
    floored = sm.softmax_cross_entropy(x, [[1, 0, 0]], prob_floor=0.5, **call)
    np.testing.assert_allclose(floored, [[math.log(2)] * 3], rtol=2e-7)
    # A class of weight 0, or a target of 0, counts nothing, not even 0 times inf.
    assert sm.softmax_cross_entropy(x, [[1, 0, 0]], class_weights=[0, 0, 1], **call).tolist() == [[0, 0, 0]]
    weighed = sm.softmax_cross_entropy(x[:, :1], [[0]], class_weights=[1, 0, 1], label_smoothing=0.5, **call)
    assert np.isfinite(weighed).all()
    assert np.isfinite(sm.softmax_cross_entropy(x[:, :1], [[[0.5, 0, 0.5]]], **call)).all()


@pytest.mark.parametrize(
    "row", [[-INF, -INF, -INF], [0, INF, 0], [INF, INF, 0], [NAN, 0, 0], [0, 0, NAN], [0, NAN, INF]]
)
def test_a_softmax_without_probabilities_is_nan(row, backend):
    x = np.array([[[0, 0, 0], row]], np.float32)
    for c in range(3):
        for keywords in ({}, {"label_smoothing": 0.1}, {"prob_floor": 0.1}):
            got = sm.softmax_cross_entropy(x, np.full((1, 2), c), backend=backend, **keywords)
            assert np.isnan(got).tolist() == [[False, True]], (c, keywords)
        got = lazy(x, np.full((1, 2), c), Softmax(), backend=backend).gradients(np.ones((1, 2)))
        assert np.isnan(got[0, 1]).all()
        assert not np.isnan(got[0, 0]).any()


def test_infinite_sigmoid_logits_are_certain_answers(backend):
    x = np.array([[[INF, -INF], [-INF, -INF], [NAN, -INF]]], np.float32)
    assert sm.sigmoid_cross_entropy(x[:, :2], [[0, 0]], backend=backend).tolist() == [[0, INF]]
    assert sm.focal_loss(x[:, :2], [[0, 0]], backend=backend).tolist() == [[0, INF]]
    assert sm.sigmoid_cross_entropy(x[:, :2], [[1, 2]], background=2, backend=backend).tolist() == [[INF, 0]]
    for loss in LOSSES[1:]:
        assert np.isnan(loss(x[:, 2:], [[1]], backend=backend)).all()


@pytest.mark.parametrize("num_classes", [1, 2, 91])
def test_equal_logits_cost_log_c(num_classes, backend):
    x = np.full((1, 70, num_classes), 2.5, np.float32)
    got = sm.softmax_cross_entropy(x, np.zeros((1, 70), np.int64), backend=backend)
    np.testing.assert_allclose(got, math.log(num_classes), rtol=2e-7)
    got = sm.sigmoid_cross_entropy(0 * x, np.zeros((1, 70), np.int64), backend=backend)
    np.testing.assert_allclose(got, math.log(2) * num_classes, rtol=5e-7)


@pytest.mark.parametrize("shift", [0, 25, 100, 1e3, 1e5, -1e7])
def test_no_difference_of_logits_is_rounded(shift):
    rng = np.random.default_rng(10)
    x = rng.normal(0, 6, (1, 256, 4)).astype(np.float32)
    x[..., 0] = 8 + 8 * rng.random((1, 256))
    x = x + np.float32(shift)
    y = np.zeros((1, 256), np.int64)  # the likeliest class: tails of 1e-2 to 1e-10
    exact = sm.softmax_cross_entropy(x.astype(np.float64), y)
    np.testing.assert_allclose(sm.softmax_cross_entropy(x, y), exact, rtol=3e-7)


@pytest.mark.full_size
def test_sums_over_91_classes_keep_their_digits():
    rng = np.random.default_rng(9)
    x = rng.normal(0, 3, (1, 8732, 91)).astype(np.float32)
    soft = rng.random(x.shape)
    soft = (soft / soft.sum(axis=2, keepdims=True)).astype(np.float32)
    y = rng.integers(0, 91, x.shape[:2])
    calls = [
        (sm.softmax_cross_entropy, soft, {}),
        (sm.softmax_cross_entropy, y, {"label_smoothing": 0.5}),
        (sm.sigmoid_cross_entropy, y, {}),
        (sm.sigmoid_cross_entropy, soft, {}),
        (sm.focal_loss, y, {}),
    ]
    for loss, labels, keywords in calls:
        exact = loss(x.astype(np.float64), labels, **keywords)
        np.testing.assert_allclose(loss(x, labels, **keywords), exact, rtol=2e-7)


def test_tails_keep_their_digits_down_to_the_smallest_normal_number():
    x = np.array([[[0, -gap] for gap in (1, 10, 20, 40, 80, 86.9)]], np.float32)
    exact = np.log1p(np.exp(x[..., 1].astype(np.float64)))
    np.testing.assert_allclose(sm.softmax_cross_entropy(x, np.zeros((1, 6), np.int64)), exact, rtol=2e-7)
    np.testing.assert_allclose(
        sm.sigmoid_cross_entropy(x[..., 1:], np.ones((1, 6), np.int64), background=1), exact, rtol=2e-7
    )
    assert sm.softmax_cross_entropy([[[0.0, -200.0]]], [[0]])[0, 0] == math.exp(-200)


def test_ignored_anchors_cost_nothing_whatever_they_hold(backend):
    x = np.array([[[NAN, 0, 0], [1, 2, 3], [INF, 0, 0], [1, 2, 3]]], np.float32)
    y, valid = np.array([[-1, 1, 7, 2]]), np.array([[True, True, False, True]])
    for loss in LOSSES:
        got = loss(x, y, ignore_index=-1, valid=valid, backend=backend)
        assert got[0, [0, 2]].tolist() == [0, 0]
        np.testing.assert_array_equal(got[:, [1, 3]], loss(x[:, [1, 3]], y[:, [1, 3]], backend=backend))
        scores = np.eye(3)[np.where(y == 7, 0, np.maximum(y, 0))]
        soft = loss(x, scores, valid=valid & (y >= 0), backend=backend)
        np.testing.assert_array_equal(soft, got)
    smoothed = sm.softmax_cross_entropy(x, y, ignore_index=-1, valid=valid, label_smoothing=0.1, backend=backend)
    assert smoothed[0, [0, 2]].tolist() == [0, 0]
    for spec in (Softmax(), Sigmoid(), Focal()):
        whole = lazy(x, y, spec, ignore_index=-1, valid=valid, backend=backend)
        gradients = whole.gradients(np.ones((1, 4)))
        assert not gradients[0, [0, 2]].any()
        assert gradients[0, [1, 3]].all()


def test_a_class_without_a_logit_has_the_slopes_of_a_row_of_zeros(backend):
    x, y = draw(4)
    for spec in (Sigmoid(), Focal()):
        got, expected = (
            lazy(x, labels, spec, background=5, backend=backend).gradients(np.ones(y.shape))
            for labels in (np.full_like(y, 5), np.zeros(x.shape))
        )
        np.testing.assert_array_equal(got, expected)
        assert (got > 0).all()  # every logit should fall


def test_an_ignore_index_may_be_a_class(backend):
    x, y = draw(3)
    got = sm.softmax_cross_entropy(x, y, ignore_index=2, backend=backend)
    whole = sm.softmax_cross_entropy(x, y, backend=backend)
    np.testing.assert_array_equal(got, np.where(y == 2, 0, whole))


def test_a_row_of_zero_scores_costs_nothing_of_a_softmax_and_all_negatives_of_a_sigmoid(backend):
    x, zero = draw(5)[0], np.zeros((2, 40, 5))
    assert not sm.softmax_cross_entropy(x, zero, backend=backend).any()
    no_class = np.full((2, 40), 5)
    expected = sm.sigmoid_cross_entropy(x, no_class, background=5, backend=backend)
    np.testing.assert_array_equal(sm.sigmoid_cross_entropy(x, zero, backend=backend), expected)
    softplus = np.logaddexp(0, x.astype(np.float64)).sum(axis=2)
    np.testing.assert_allclose(expected, softplus, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 1)])
def test_an_empty_batch_has_no_losses(shape, backend):
    for loss in LOSSES:
        assert loss(np.zeros(shape), np.zeros(shape[:2], np.int64), backend=backend).shape == shape[:2]
        assert loss(np.zeros(shape), np.zeros(shape), backend=backend).shape == shape[:2]


def test_the_background_of_a_softmax_makes_no_difference(backend):
    x, y = draw(6)
    whole = sm.softmax_cross_entropy(x, y, backend=backend)
    for background in (0, 4, -1, -5):
        np.testing.assert_array_equal(sm.softmax_cross_entropy(x, y, background=background, backend=backend), whole)


def test_float16_logits_are_exact_in_float32():
    x, y = draw(7)
    np.testing.assert_array_equal(sm.softmax_cross_entropy(x.astype(np.float16), y), sm.softmax_cross_entropy(x, y))


def test_the_background_rank_is_the_loss_as_background(backend):
    x, y = draw(8)
    for spec, loss in ((Softmax(class_weights=range(5)), LOSSES[0]), (Focal(), LOSSES[1])):
        ranks = lazy(x, y, spec, backend=backend).ranks("background", -1)
        np.testing.assert_array_equal(ranks[:], loss(x, np.full(y.shape, 4), backend=backend))


def test_the_foreground_rank_is_the_largest_log_probability_of_another_class(backend):
    x = np.array([[[30.0, 2.0, 1.0], [0.0, 2.0, 2.0], [-INF, 3.0, -INF]]], np.float32)
    softmax = lazy(x, [[0, 0, 0]], Softmax(), backend=backend).ranks("foreground_max", 0)[:]
    expected = [[2 - 30 - math.log1p(math.exp(-28) + math.exp(-29)), -math.log(2 + math.exp(-2)), 0]]
    np.testing.assert_allclose(softmax, expected, rtol=2e-7)
    sigmoid = lazy(x, [[0, 0, 0]], Sigmoid(), backend=backend).ranks("foreground_max", 0)[:]
    np.testing.assert_allclose(sigmoid, [[-math.log1p(math.exp(-v)) for v in (2, 2, 3)]], rtol=3e-7)
    for spec in (Softmax(), Sigmoid()):
        alone = lazy(x[..., :1], [[0, 0, 0]], spec, backend=backend).ranks("foreground_max", 0)[:]
        assert (np.isneginf(alone) | np.isnan(alone)).all()
        assert np.isneginf(alone[0, 0])


@pytest.mark.parametrize("num_classes", [1, 2, 3])
@pytest.mark.parametrize("place", [0, -1])
def test_the_foreground_rank_is_nan_where_a_logit_is(backend, num_classes, place):
    x = np.zeros((1, 3, num_classes), np.float32)
    x[0, 1, place] = np.nan
    ranks = lazy(x, [[0, 0, 0]], Softmax(), backend=backend).ranks("foreground_max", 0)[:]
    assert np.isnan(ranks).tolist() == [[False, True, False]]


@pytest.mark.parametrize("beta", [0, 0.5, 1.0, 2])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1"])
def test_smooth_l1_is_a_parabola_within_beta_and_a_line_beyond(beta, dtype):
    rng = np.random.default_rng(1)
    pred, target = ((rng.integers(-12, 12, (2, 9, 4)) / 4).astype(dtype) for _ in range(2))
    got = sm.smooth_l1(pred, target, beta=beta)
    assert got.dtype == (np.float64 if dtype == "f8" else np.float32)
    np.testing.assert_allclose(got, reference_losses.smooth_l1(pred, target, beta=beta), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("beta", [5e-324, 1e-46, 1e-40, 1e30, 1e38, 1e39, 1e250, 1e308])
def test_smooth_l1_of_a_parabola_of_any_size(beta, dtype):
    for size in (0.0, 0.5, 1e15, 1e30):
        got = sm.smooth_l1(np.array([[[size]]], dtype), np.zeros((1, 1, 1), dtype), beta=beta)
        expected = size * (size / beta) / 2 if size < beta else size - beta / 2
        tiny = np.finfo(dtype).tiny  # below it, digits are lost
        np.testing.assert_allclose(got, [[expected]], rtol=1e-6 if dtype == "float32" else 1e-14, atol=tiny)


def test_smooth_l1_of_infinities_and_nan():
    got = sm.smooth_l1([[[INF], [NAN], [INF], [1e30]]], [[[0.0], [0.0], [INF], [-1e30]]])
    np.testing.assert_array_equal(got, [[INF, NAN, NAN, 2e30]])
    assert sm.smooth_l1(np.zeros((0, 3, 4)), np.zeros((0, 3, 4))).shape == (0, 3)


@pytest.mark.parametrize("beta", [0, 0.5, 1.0])
def test_the_loss_of_selected_anchors_and_its_slopes(beta):
    from ssd_mining.kernels.loss_rules import selected_smooth_l1

    rng = np.random.default_rng(2)
    pred, target = rng.normal(size=(2, 3, 20, 4))
    chosen = np.nonzero(rng.random((3, 20)) < 0.3)
    losses, slopes = selected_smooth_l1(pred, target, chosen, beta)
    np.testing.assert_allclose(losses, sm.smooth_l1(pred, target, beta=beta)[chosen], rtol=1e-14)
    step = 1e-7
    for c in range(4):
        moved = step * (np.arange(4) == c)
        expected = sm.smooth_l1(pred + moved, target, beta=beta) - sm.smooth_l1(pred - moved, target, beta=beta)
        np.testing.assert_allclose(slopes[:, c], expected[chosen] / (2 * step), atol=1e-6)
    assert losses.dtype == slopes.dtype == np.float64


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_anchor_of_several_classes_has_the_sum_of_their_losses(backend):
    x, targets = np.random.default_rng(4).normal(size=(1, 6, 3)), np.array([[[1, 1, 0], [0.5, 1, 1]] * 3])
    for loss in (sm.sigmoid_cross_entropy, sm.focal_loss):
        got = loss(x, targets, backend=backend)
        alone = [loss(x[..., [c]], targets[..., [c]], backend=backend) for c in range(3)]
        np.testing.assert_allclose(got, sum(alone), rtol=1e-12)
        with pytest.raises(ValueError, match=r"labels: expected a target from 0 to 1 .* \(sample 0, anchor 1\)"):
            loss(x, targets + np.array([[[0], [0.5]] * 3]), backend=backend)
        with pytest.raises(ValueError, match=r"a target from 0 to 1 for each class, got \[nan"):
            loss(x, targets * np.nan, backend=backend)
