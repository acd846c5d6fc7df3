"""The gradients of the whole loss are its slopes: central differences in float64, one coordinate after the other."""

from dataclasses import replace

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.kernels import cpu
from ssd_mining.losses import NORMALIZE
from tests.support.batches import MANY
from tests.support.multibox import CLASSIFICATIONS, NUM_CLASSES, Call, draw, selection_cases

pytestmark = [pytest.mark.full_size, pytest.mark.generated]

STEP = 1e-5
SELECTIONS = selection_cases()


def slopes(call: Call, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return d loss / d number for a quarter of the numbers of an array, in the slow run for all; and which they are.

    One number is moved at a time, both ways.
    """
    array = getattr(call, name)
    places = np.random.default_rng(array.size).permutation(array.size)[:: 1 if MANY else 4]
    found = np.zeros(places.size)
    for i, place in enumerate(zip(*np.unravel_index(places, array.shape), strict=True)):
        moved = []
        for sign in (1, -1):
            changed = array.copy()
            changed[place] += sign * STEP
            moved.append(replace(call, **{name: changed}).loss().loss)
        found[i] = (moved[0] - moved[1]) / (2 * STEP)
    return places, found


def equal(gradient: np.ndarray, moved: tuple[np.ndarray, np.ndarray]) -> None:
    places, expected = moved
    np.testing.assert_allclose(gradient.reshape(-1)[places], expected, rtol=1e-6, atol=2e-9)


def check(call: Call) -> sm.MultiboxLoss:
    out = call.loss(with_gradients=True)
    assert np.isfinite(out.loss)
    equal(out.logits_gradient, slopes(call, "logits"))
    equal(out.loc_gradient, slopes(call, "loc_pred"))
    mined = call.mined()
    is_selected = np.expand_dims(mined.pos_mask | mined.hard_negative_mask, call.keywords.get("class_axis", -1))
    assert (out.logits_gradient[~np.broadcast_to(is_selected, out.logits_gradient.shape)] == 0).all()
    assert (out.loc_gradient[~mined.pos_mask] == 0).all()
    return out


@pytest.mark.parametrize("zero_positives", ["clamp", "zero", "nan", "raise"])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_under_every_divisor(normalize, zero_positives):
    # "nan" and "raise" cannot be differentiated where nothing is there to divide by; both are tested elsewhere.
    positives = (3, 0, 2) if zero_positives in ("clamp", "zero") else (3, 1, 2)
    other = NORMALIZE[(NORMALIZE.index(normalize) + 3) % len(NORMALIZE)]
    chosen = {"normalize": normalize, "loc_normalize": other, "zero_positives": zero_positives, "loc_weight": 0.7}
    out = check(draw(3, positives=positives, num_anchors=9, min_negatives=2, **chosen))
    assert out.logits_gradient.any()
    assert out.loc_gradient.any()


@pytest.mark.parametrize("zero_positives", ["clamp", "zero"])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_without_any_positive(normalize, zero_positives):
    call = draw(4, positives=(0, 0), num_anchors=8, min_negatives=3)
    call.keywords |= {"normalize": normalize, "zero_positives": zero_positives}
    out = check(call)
    counts_nothing = zero_positives == "zero" and normalize in ("positives", "sample_positives")
    assert out.logits_gradient.any() == (not counts_nothing)
    assert not out.loc_gradient.any()


def test_a_loss_of_nan_has_the_gradient_nan_where_something_was_selected_and_0_elsewhere():
    call = draw(5, positives=(2, 0), num_anchors=8, min_negatives=3, zero_positives="nan")
    out = call.loss(normalize="sample_positives", with_gradients=True)
    kept = call.mined().hard_negative_mask[1]
    assert np.isnan(out.loss)
    assert np.isfinite(out.logits_gradient[0]).all()
    assert np.isnan(out.logits_gradient[1][kept]).all()
    assert (out.logits_gradient[1][~kept] == 0).all()
    nothing = draw(5, positives=(0, 0), zero_positives="nan").loss(with_gradients=True)
    assert np.isnan(nothing.loss)
    assert (nothing.logits_gradient == 0).all()
    assert (nothing.loc_gradient == 0).all()


@pytest.mark.parametrize("loc_weight", [0, 0.25, 2])
@pytest.mark.parametrize("beta", [0, 0.1, 1, 3.0])
def test_of_every_parabola(beta, loc_weight):
    call = draw(6, num_anchors=9, beta=beta, loc_weight=loc_weight, neg_pos_ratio=1)
    off = np.abs(call.loc_pred - call.loc_target)
    assert min(off.min(), np.abs(off - beta).min()) > 1e-4  # no corner within reach of a step
    check(call)


def test_a_difference_of_0_has_the_slope_0_though_beta_is_0():
    call = draw(6, beta=0)
    call.loc_pred = call.loc_target.copy()
    assert (call.loss(with_gradients=True).loc_gradient == 0).all()


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_of_every_confidence_loss(name):
    out = check(draw(7, num_anchors=10, classification=CLASSIFICATIONS[name]))
    assert out.logits_gradient.any()


@pytest.mark.parametrize("name", ["sigmoid", "focal"])
def test_of_sigmoids_whose_background_has_no_column(name):
    call = draw(8, num_anchors=10, classification=CLASSIFICATIONS[name], rank_by="foreground_max")
    call.labels = np.where(call.labels == 0, NUM_CLASSES, call.labels)
    call.keywords["background"] = NUM_CLASSES
    check(call)


@pytest.mark.parametrize("name", SELECTIONS)
def test_under_every_rule_of_selection(name):
    check(draw(9, **SELECTIONS[name]))


@pytest.mark.parametrize("name", ["focal", "weighted smoothed softmax"])
def test_of_weighted_anchors_under_another_loss(name):
    check(draw(10, **SELECTIONS["weights"], classification=CLASSIFICATIONS[name], normalize="sample_selected"))


def test_of_ignored_labels():
    call = draw(11, ignore_index=-1)
    call.labels[:, ::4] = -1
    check(call)


def test_beside_nan_that_is_omitted():
    call = draw(12, nan_policy="omit", num_anchors=10)
    call.logits[0, 3, 1] = call.logits[1, :, 2] = np.nan
    mined = call.mined()
    assert not (mined.pos_mask | mined.hard_negative_mask)[np.isnan(call.logits).any(axis=2)].any()
    out = call.loss(with_gradients=True)
    assert np.isfinite(out.loss)
    assert (out.logits_gradient[np.isnan(call.logits).any(axis=2)] == 0).all()
    equal(out.logits_gradient, slopes(call, "logits"))  # moving a NaN leaves it one


@pytest.mark.parametrize("kind", ["one-hot", "soft"])
@pytest.mark.parametrize("class_axis", [-1, 1, 2])
@pytest.mark.parametrize("name", ["smoothed softmax", "weighted sigmoid"])
def test_against_scores_on_either_axis(kind, class_axis, name):
    call = draw(13, num_anchors=8, classification=CLASSIFICATIONS[name], class_axis=class_axis)
    scores = np.eye(NUM_CLASSES)[call.labels]
    if kind == "soft":  # the background score of a positive stays 0
        other = np.where(call.labels == 0, 1, 2)
        scores = 0.75 * scores + 0.25 * np.eye(NUM_CLASSES)[other]
    call.logits, call.labels = (np.moveaxis(array, -1, class_axis).copy() for array in (call.logits, scores))
    out = check(call)
    assert out.logits_gradient.shape == call.logits.shape


@pytest.mark.parametrize("labels", ["classes", "one-hot"])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_of_a_ragged_batch(normalize, labels):
    call = draw(14, positives=(4,), num_anchors=17, normalize=normalize, loc_normalize="sample_positives")
    call = Call(*(array[0] for array in call.arrays), call.keywords)
    if labels == "one-hot":
        call.labels = np.eye(NUM_CLASSES)[call.labels]
    check(replace(call, keywords=call.keywords | {"sample_offsets": [0, 8, 8, 17]}))


def test_the_selection_and_the_divisor_are_constant():
    # The negative with the larger loss is kept; moving the other one changes nothing until it is the larger.
    logits = np.array([[[0.0, 1.0], [0.0, 2.0], [0.0, 1.9]]])
    out = sm.multibox_loss(
        logits, [[1, 0, 0]], background=0, neg_pos_ratio=1, normalize="selected", with_gradients=True
    )
    p = 1 / (1 + np.exp(-np.array([1.0, 2.0])))
    np.testing.assert_allclose(out.logits_gradient[0, 0], np.array([1 - p[0], p[0] - 1]) / 2, rtol=1e-14)
    np.testing.assert_allclose(out.logits_gradient[0, 1], np.array([-p[1], p[1]]) / 2, rtol=1e-14)
    assert (out.logits_gradient[0, 2] == 0).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), (">f4", "float32"), (">f8", "float64")],
)
def test_gradients_have_the_type_of_the_computation_and_the_layout_of_the_input(given, expected):
    call = draw(15)
    exact = Call(
        *(array.astype("float16").astype("float64") if array.dtype == float else array for array in call.arrays),
        call.keywords,
    ).loss(with_gradients=True)
    call.logits, call.loc_pred, call.loc_target = (
        np.asfortranarray(array.astype("float16").astype(given))
        for array in (call.logits, call.loc_pred, call.loc_target)
    )
    out = call.loss(with_gradients=True)
    assert out.logits_gradient.dtype == out.loc_gradient.dtype == expected
    rounding = 1e-14 if expected == "float64" else 2e-6
    np.testing.assert_allclose(out.logits_gradient, exact.logits_gradient, rtol=rounding, atol=rounding / 10)
    np.testing.assert_allclose(out.loc_gradient, exact.loc_gradient, rtol=rounding)
    without = call.loss()
    assert without.logits_gradient is None
    assert without.loc_gradient is None
    assert without.loss == out.loss


@pytest.mark.parametrize(("given", "expected"), [("int8", "float32"), ("int16", "float32"), ("int32", "float64")])
def test_whole_locations_have_gradients_too(given, expected):
    call = draw(16)
    call.loc_pred, call.loc_target = (
        np.round(10 * array).astype(given) for array in (call.loc_pred, call.loc_target)
    )
    out = call.loss(with_gradients=True, loc_normalize="none")
    assert out.loc_gradient.dtype == expected
    signs = np.sign(call.loc_pred.astype(float) - call.loc_target) * (call.labels > 0)[..., None]
    np.testing.assert_array_equal(out.loc_gradient, signs)


def test_without_locations_there_is_no_gradient_of_them():
    call = draw(17)
    out = sm.multibox_loss(call.logits, call.labels, **call.keywords, with_gradients=True)
    assert out.loc_gradient is None
    assert out.loc_loss == 0
    assert out.loc_sum.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(out.logits_gradient, call.loss(with_gradients=True).logits_gradient)


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_the_reference_has_the_same_gradients(name):
    call = draw(18, classification=CLASSIFICATIONS[name], **SELECTIONS["weights"])
    got, expected = (call.loss(with_gradients=True, backend=backend) for backend in ("cpu", "reference"))
    np.testing.assert_allclose(got.logits_gradient, expected.logits_gradient, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(got.loc_gradient, expected.loc_gradient)
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-12)


@pytest.mark.parametrize("elements", [1, 9, 2_000_000])  # of a block: one anchor, two, all
@pytest.mark.parametrize("name", ["plain", "the batch", "weights of the batch", "valid"])
def test_rows_are_those_of_the_selected_anchors(name, elements, monkeypatch):
    call = draw(19, positives=(2, 0, 3), zero_positives="zero", **SELECTIONS[name])
    whole, mined = call.loss(with_gradients=True), call.mined()
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
    out = call.loss(with_gradients="rows")
    assert (out.loss, out.loc_loss) == (whole.loss, whole.loc_loss)
    selected = np.flatnonzero(mined.pos_mask | mined.hard_negative_mask)
    for rows, anchors, dense in (
        (out.logits_gradient, selected, whole.logits_gradient),
        (out.loc_gradient, np.flatnonzero(mined.pos_mask), whole.loc_gradient),
    ):
        np.testing.assert_array_equal(rows.anchors, anchors)
        assert rows.anchors.dtype == np.int64
        np.testing.assert_array_equal(rows.values, dense.reshape(-1, NUM_CLASSES)[anchors])
    assert whole.logits_gradient.any()
    assert len(repr(out)) < 1000


def test_rows_count_the_anchors_of_maps_and_of_ragged_batches():
    call = draw(20, positives=(2, 3), num_anchors=12)
    expected = call.loss(with_gradients="rows", class_axis=-1)
    maps = (np.ascontiguousarray(np.moveaxis(call.logits.reshape(2, 3, 4, -1), -1, 1)), call.labels.reshape(2, 3, 4))
    boxes = [array.reshape(2, 3, 4, 4) for array in (call.loc_pred, call.loc_target)]
    flat = [array.reshape(24, *array.shape[2:]) for array in call.arrays]
    for got in (
        sm.multibox_loss(*maps, *boxes, background=0, class_axis=1, with_gradients="rows"),
        sm.multibox_loss(*flat, background=0, sample_offsets=[0, 12, 24], with_gradients="rows"),
    ):
        for name in ("logits_gradient", "loc_gradient"):
            ours, theirs = getattr(got, name), getattr(expected, name)
            np.testing.assert_array_equal(ours.anchors, theirs.anchors)
            np.testing.assert_array_equal(ours.values, theirs.values)


def test_a_batch_without_anchors_has_no_rows():
    out = sm.multibox_loss(np.zeros((2, 0, 3)), np.zeros((2, 0), int), background=0, with_gradients="rows")
    assert out.logits_gradient.anchors.size == 0
    assert out.logits_gradient.values.shape == (0, 3)
    assert out.loc_gradient is None


def test_a_worker_that_was_lost_on_the_way_to_the_gradients_is_an_error(monkeypatch):
    def lose_all_but_the_first(_rows, _rule, _factors, computed, _num_workers):
        computed.done[0] = 1

    monkeypatch.setattr(cpu, "gradients", lose_all_but_the_first)
    with pytest.raises(RuntimeError, match="gradient 1 was not computed: a worker thread was lost"):
        draw(21).loss(with_gradients=True)
