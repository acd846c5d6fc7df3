"""Device arrays of logits: their losses, their mining and the whole loss of them, against the CPU."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.kernels.cuda import runtime
from ssd_mining.losses import NORMALIZE
from tests.support.batches import REAL_FILES, load_real
from tests.support.device import needs_simulator, to_device, to_host
from tests.support.logits import function
from tests.support.multibox import CLASSIFICATIONS, NUM_CLASSES, Call, divided, draw, selection_cases, smooth_l1

pytestmark = pytest.mark.cuda

# What device arrays cannot have yet.
NOT_YET = {
    "the quotas of samples": "scope",
    "the smallest quota": "scope",
    "not the hardest": "skip_hardest",
    "not the hardest of the batch": "skip_hardest",
    "a pool": "pool_size",
    "strict": "tie_policy",
    "all": "tie_policy",
    "overlaps": "overlaps",
    "weights": "anchor_weights",
    "weights of the batch": "anchor_weights",
}
WHOLE = ("loss", "conf_loss", "loc_loss")


def moved(keywords):
    """Move what has the shape of the anchors to the device."""
    return {
        name: to_device(value) if isinstance(value, np.ndarray) and value.ndim == 2 else value
        for name, value in keywords.items()
    }


def on_device(call, **keywords):
    arrays = (None if array is None else to_device(array) for array in call.arrays)
    return sm.multibox_loss(*arrays, **moved(call.keywords), **keywords)


def check(call, **keywords):
    """Compare all that a call gives with what the CPU does."""
    got, expected = on_device(call, with_gradients=True, **keywords), call.loss(with_gradients=True, **keywords)
    exact = 1e-12 if call.logits.dtype == np.float64 else 1e-6
    for field in dataclasses.fields(expected):
        ours, theirs = getattr(got, field.name), getattr(expected, field.name)
        assert (ours is None) == (theirs is None), field.name
        if theirs is not None:
            tolerance = {"rtol": 1e-6, "atol": 1e-36} if np.asarray(theirs).dtype == np.float32 else {"rtol": exact}
            np.testing.assert_allclose(to_host(ours), theirs, **{"atol": 1e-300} | tolerance, err_msg=field.name)
            assert to_host(ours).dtype == np.asarray(theirs).dtype, field.name
            assert to_host(ours).shape == np.shape(theirs), field.name


@pytest.mark.parametrize("case", selection_cases())
def test_every_selection_is_that_of_the_cpu_or_refused_by_name(case):
    call = draw(**selection_cases()[case])
    if case in NOT_YET:
        with pytest.raises(NotImplementedError, match=f"^{NOT_YET[case]}: backend 'cuda' does not support"):
            on_device(call)
    else:
        check(call)


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_every_classification_is_that_of_the_cpu(name):
    check(draw(1), classification=CLASSIFICATIONS[name])


@pytest.mark.parametrize("zero_positives", ["clamp", "zero", "nan"])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_every_divisor_is_that_of_the_cpu(normalize, zero_positives):
    others = dict(zip(NORMALIZE, (*NORMALIZE[3:], *NORMALIZE[:3]), strict=True))
    words = {"normalize": normalize, "loc_normalize": others[normalize], "zero_positives": zero_positives}
    check(draw(positives=(3, 0, 5), num_anchors=9, loc_weight=0.7, **words))
    check(draw(positives=(0,), num_anchors=3, **words))


def test_nothing_to_divide_by_is_an_error_where_it_shall_be():
    for words in ({"normalize": "sample_positives"}, {"normalize": "batch", "loc_normalize": "sample_selected"}):
        call = draw(positives=(3, 0), zero_positives="raise", **words)
        with pytest.raises(ValueError, match="labels: expected something to divide by") as expected:
            call.loss()
        with pytest.raises(ValueError, match="labels: expected something to divide by") as got:
            on_device(call)
        assert str(got.value) == str(expected.value)
    check(draw(positives=(3, 1), zero_positives="raise"))


@pytest.mark.parametrize("beta", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_localization_is_that_of_the_cpu(beta, dtype):
    call = draw(positives=(9, 1, 30), num_anchors=70, beta=beta)
    call.loc_pred, call.loc_target = call.loc_pred.astype(dtype), call.loc_target.astype(dtype)
    call.loc_pred[0, ::3] = call.loc_target[0, ::3]
    check(call)
    first, second, *_ = np.flatnonzero(call.labels[2])
    call.loc_pred[1, ::2], call.loc_pred[2, first], call.loc_target[2, second] = np.inf, np.nan, -np.inf
    check(call)


@pytest.mark.parametrize("beta", [0.0, 0.6])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_localization_and_division_are_those_of_plain_numpy(normalize, beta):
    call = draw(positives=(3, 0, 5), num_anchors=9, normalize=normalize, beta=beta)
    got = on_device(call, with_gradients=True)
    off, is_positive = call.loc_pred - call.loc_target, call.labels > 0
    loc_sum = np.where(is_positive, smooth_l1(call, beta), 0.0).sum(axis=1)
    np.testing.assert_allclose(to_host(got.loc_sum), loc_sum, rtol=1e-12)
    counts = SimpleNamespace(num_pos=to_host(got.num_pos), num_kept=to_host(got.num_kept))
    conf_sum = to_host(got.positive_sum) + to_host(got.negative_sum)
    np.testing.assert_allclose(to_host(got.per_sample), conf_sum, rtol=1e-15)
    for name, sums in (("conf_loss", conf_sum), ("loc_loss", loc_sum)):
        expected = divided(sums, normalize, counts, off[..., 0].size, "clamp")
        np.testing.assert_allclose(to_host(getattr(got, name)), expected, rtol=1e-12)
    # Of a sum of 1 in one sample, the loss is the slope.
    shares = [divided(one, normalize, counts, off[..., 0].size, "clamp") for one in np.eye(3)]
    slopes = np.clip(off / beta, -1, 1) if beta else np.sign(off)
    expected = np.where(is_positive[..., None], np.array(shares)[:, None, None] * slopes, 0.0)
    np.testing.assert_allclose(to_host(got.loc_gradient), expected, rtol=1e-12)


def test_losses_of_inf_and_nan_are_divided_as_on_the_cpu():
    for policy, value in (("raise", -np.inf), ("propagate", np.nan), ("omit", np.nan)):
        for words in ({}, {"zero_positives": "zero"}, {"normalize": "sample_positives", "zero_positives": "zero"}):
            call = draw(positives=(2, 0), min_negatives=2, nan_policy=policy, **words)
            call.logits[0, call.labels[0] > 0, 1:] = value
            call.logits[1, :4, 0] = -np.inf  # a sample without positives, whose kept negatives cost inf
            check(call)


def test_locations_are_optional_and_of_any_width():
    call = draw()
    check(Call(call.logits, call.labels, None, None, call.keywords))
    check(Call(call.logits, call.labels, call.loc_pred[..., :3], call.loc_target[..., :3], call.keywords))
    assert on_device(call).logits_gradient is None


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty_batches_have_empty_results(shape):
    boxes = np.zeros((*shape, 4))
    check(Call(np.zeros((*shape, 3)), np.zeros(shape, int), boxes, boxes, {"background": 0}))


def test_more_samples_than_threads_are_one_division():
    check(draw(positives=(1, 0, 2) * 11, num_anchors=3, normalize="sample_selected"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_may_have_any_layout(dtype):
    call = draw()
    call.logits = call.logits.astype(dtype)
    plain = on_device(call, with_gradients=True)
    second = np.ascontiguousarray(np.moveaxis(call.logits, -1, 1))
    moved_classes = Call(second, *call.arrays[1:], call.keywords | {"class_axis": 1})
    check(moved_classes)
    strided = [to_device(np.repeat(np.repeat(a, 2, axis=1), 3, axis=0))[::3, ::2] for a in call.arrays]
    for other in (
        on_device(moved_classes, with_gradients=True),
        sm.multibox_loss(*strided, **call.keywords, with_gradients=True),
    ):
        for name in (*WHOLE, "positive_sum", "loc_gradient"):
            np.testing.assert_array_equal(to_host(getattr(other, name)), to_host(getattr(plain, name)))
    np.testing.assert_array_equal(
        np.moveaxis(to_host(on_device(moved_classes, with_gradients=True).logits_gradient), 1, -1),
        to_host(plain.logits_gradient),
    )


@pytest.mark.parametrize("words", [{}, {"rank_by": "foreground_max"}, {"scope": "batch"}, {"normalize": "selected"}])
def test_ragged_batches_are_those_of_the_cpu(words):
    whole = draw(positives=(9,), num_anchors=40)
    arrays = (array[0] for array in whole.arrays)
    check(Call(*arrays, {"background": 0, "sample_offsets": [0, 0, 17, 30, 40], **words}))
    lengths = {"sample_offsets": [0, 20, 40]}
    check(Call(*(array[0] for array in whole.arrays), {"background": 0, **lengths, **words}))


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u8"])
def test_labels_of_every_type_and_ignored_ones(dtype):
    call = draw(positives=(5, 4, 3), ignore_index=100, valid=np.random.default_rng(3).random((3, 14)) < 0.8)
    call.labels[:, 3:5] = 100
    call.labels = call.labels.astype(dtype)
    check(call)


@pytest.mark.parametrize("background", [0, 2, -1, 4])
def test_sigmoid_heads_may_have_any_background(background):
    call = draw()
    call.labels = np.where(call.labels == 0, background % 5 if background >= 0 else 3, call.labels)
    call.keywords["background"] = background
    check(call, classification=sm.Focal())
    check(call, classification=sm.Sigmoid(), rank_by="foreground_max")


@pytest.mark.parametrize("mode", ["loss", "background", "foreground_max", "foreground_sum"])
def test_mined_logits_are_those_of_the_cpu(mode):
    call = draw(positives=(3, 0, 7), num_anchors=40, rank_by=mode)
    expected = call.mined()
    got = sm.mine_logits(to_device(call.logits), to_device(call.labels), **call.keywords)
    for name in ("hard_negative_mask", "pos_mask", "num_pos", "num_neg", "num_kept"):
        np.testing.assert_array_equal(to_host(getattr(got, name)), getattr(expected, name))
    for name in ("positive_sum", "negative_sum", "threshold"):
        np.testing.assert_allclose(to_host(getattr(got, name)), getattr(expected, name), rtol=1e-12)
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("mode", ["background", "foreground_max"])
def test_ranks_are_not_weighted(mode):
    for spec in (sm.Softmax(class_weights=[0, 1, 2, 3]), sm.Sigmoid(class_weights=[0, 1, 2, 3])):
        check(draw(rank_by=mode), classification=spec)


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_losses_of_device_arrays_have_the_bits_of_host_arrays(name):
    call, (function_name, words) = draw(), function(CLASSIFICATIONS[name])
    compute = getattr(sm, function_name)
    got = compute(to_device(call.logits), to_device(call.labels), **words)
    np.testing.assert_array_equal(to_host(got), compute(call.logits, call.labels, backend="cuda", **words))


def test_what_is_wrong_with_values_is_told_in_the_words_of_the_host():
    wrong_label, wrong_logit, negative = draw(), draw(), draw()
    wrong_label.labels[1, 6], wrong_logit.logits[2, 3, 1], negative.labels[0, 2] = NUM_CLASSES, np.nan, -3
    for call in (wrong_label, wrong_logit, negative):
        with pytest.raises(ValueError, match=r"^(labels|logits): expected") as expected:
            call.loss()
        with pytest.raises(ValueError, match=r"^(labels|logits): expected") as got:
            on_device(call)
        assert str(got.value) == str(expected.value)


def test_a_label_that_is_no_class_costs_nan_where_nobody_waits_to_be_told():
    call = draw(nan_policy="propagate")
    call.labels = call.labels.astype(np.uint8)
    call.labels[1, 6] = NUM_CLASSES
    assert np.isnan(to_host(on_device(call).loss))
    losses = sm.softmax_cross_entropy(to_device(call.logits), to_device(call.labels))
    np.testing.assert_array_equal(np.argwhere(np.isnan(to_host(losses))), [[1, 6]])


def test_what_is_wrong_with_arrays_is_refused_as_on_the_host():
    call = draw()
    logits, labels, pred, target = (to_device(array) for array in call.arrays)
    one_hot = to_device(np.eye(NUM_CLASSES)[call.labels])
    mixed = "loc_target: expected float32 or float64 on a device, both locations the same, got dtype float32"
    for arrays, error, message in (
        ((logits, labels, pred), TypeError, "loc_target: expected an array, for loc_pred is given"),
        ((logits, labels, pred, call.loc_target), TypeError, "loc_target: expected a device array, as logits is one"),
        ((logits, call.labels), TypeError, "labels: expected a device array, as logits is one, got ndarray"),
        ((logits, one_hot), NotImplementedError, "labels: backend 'cuda' does not support one-hot scores"),
        ((logits, labels, pred, to_device(call.loc_target.astype(np.float32))), TypeError, mixed),
        ((logits, labels, pred[:, :9], target), ValueError, "loc_pred: expected one box for each of the anchors"),
        ((logits[:2], labels), ValueError, r"labels: expected shape \(2, 14\)"),
    ):
        with pytest.raises(error, match=r"^" + message):
            sm.multibox_loss(*arrays, **call.keywords)
    with pytest.raises(TypeError, match=r"^classification: expected a Softmax, a Sigmoid, a Focal or None"):
        on_device(call, classification="softmax")
    with pytest.raises(NotImplementedError, match=r"^with_gradients: backend 'cuda' does not support .*'rows' with"):
        on_device(call, with_gradients="rows")
    with pytest.raises(TypeError, match=r"^valid: expected a device array, as logits is one"):
        sm.mine_logits(logits, labels, background=0, valid=np.ones((3, 14), np.bool_))
    with pytest.raises(ValueError, match=r"^class_axis: expected -1, 2 or 1"):
        sm.softmax_cross_entropy(logits, labels, class_axis=0)


def test_recipes_are_compared_as_on_the_cpu():
    call, names = draw(positives=(2, 1), num_anchors=12), ["torchvision", "nvidia", "ssd_keras", "mmdetection"]
    ours, cpu = (
        sm.compare_recipes(call.logits, call.labels, background=0, recipes=names, backend=backend)
        for backend in ("cuda", "cpu")
    )
    assert str(ours) == str(cpu)


@needs_simulator  # a GPU has the libraries themselves: pytest -m gpu
@pytest.mark.parametrize("class_axis", [-1, 1])
def test_torch_and_cupy_get_the_whole_loss_from_their_own_stream(library, class_axis, monkeypatch):
    launched, launch = [], runtime.Kernel.launch

    def watched(kernel, grid, stream, *arguments, **keywords):
        launched.append(stream)
        launch(kernel, grid, stream, *arguments, **keywords)

    monkeypatch.setattr(runtime.Kernel, "launch", watched)
    call = draw(rank_by="foreground_max", class_axis=class_axis)
    call.logits = np.ascontiguousarray(np.moveaxis(call.logits, -1, class_axis))
    expected = call.loss(with_gradients=True)
    got = sm.multibox_loss(*map(library, call.arrays), with_gradients=True, **call.keywords)
    for field in dataclasses.fields(expected):
        ours = getattr(got, field.name)
        assert isinstance(ours, library), field.name
        np.testing.assert_allclose(to_host(ours), getattr(expected, field.name), rtol=1e-11, err_msg=field.name)
    assert set(launched) == {(0, 77)}  # the device, and the handle of its stream


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_reduced(name):
    real = load_real(name, "first")
    logits, labels = real["logits"][:2], real["labels"][:2]
    near = np.flatnonzero((labels > 0).any(axis=0))[:12]
    anchors = np.union1d(np.arange(0, labels.shape[1], labels.shape[1] // 40), near)
    boxes = np.random.default_rng(0).normal(size=(2, 2, anchors.size, 4)).astype(np.float32)
    check(Call(logits[:, anchors], labels[:, anchors], *boxes, {"background": 0}))
