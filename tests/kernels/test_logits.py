"""The losses from logits and their gradients against the reference: every dtype, layout, block and thread count."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.classification import Focal, Sigmoid, Softmax
from tests.support.batches import examples
from tests.support.lazy import lazy
from tests.support.logits import KINDS, TARGETS, calls, expected, function, logits, relative, targets
from tests.support.parity import BACKENDS

# How many calls a backend is tried on, and how many anchors they may have: a simulated thread takes its time.
TRIED = {"reference": (50, 50), "cpu": (400, 200), "cuda": (150, 50)}


@pytest.mark.generated
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_losses_equal_the_reference(backend):
    number, most = TRIED[backend]

    @settings(max_examples=examples(number))
    @given(calls(most))
    def every_call(call):
        x, y, dtype, spec = call
        if y.ndim == 3:
            y = y.astype(np.float32 if dtype == np.float16 else dtype)
        name, keywords = function(spec)
        got = getattr(sm, name)(x.astype(dtype), y, backend=backend, **keywords)
        assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)
        judged = expected(x, y.astype(np.float64) if y.ndim == 3 else y, spec)
        np.testing.assert_allclose(got, judged, rtol=relative(spec, dtype), atol=1e-36)

    every_call()


@pytest.mark.generated
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradients_equal_the_reference(backend):
    number, most = TRIED[backend]

    @settings(max_examples=examples(number))
    @given(calls(most), st.integers(0, 2**32))
    def every_call(call, seed):
        x, y, dtype, spec = call
        if y.ndim == 3:  # scores are float32 where the losses are
            y = y.astype(np.float64 if dtype == np.float64 else np.float32).astype(np.float64)
        rng = np.random.default_rng(seed)
        factors = np.where(rng.random(x.shape[:2]) < 0.3, rng.normal(size=x.shape[:2]), 0.0)
        got = lazy(x.astype(dtype), y, spec, backend=backend).gradients(factors)
        judged = np.where(factors[..., None] != 0, expected(x, y, spec, gradient=True) * factors[..., None], 0.0)
        # Where several classes have targets their slopes cancel; where one has, every digit of a tail counts.
        cancels = y.ndim == 3 or getattr(spec, "label_smoothing", 0) > 0
        tolerance = {"rtol": 1e-11, "atol": 1e-300} if dtype == np.float64 else {"rtol": 1e-6, "atol": 1e-36}
        np.testing.assert_allclose(got, judged, **tolerance | ({"atol": 1e-14} if cancels else {}))

    every_call()


SMALL = np.random.default_rng(7).normal(0, 3, (2, 40, 5)).astype(np.float32)
SMALL_CLASSES = np.random.default_rng(8).integers(0, 5, SMALL.shape[:2])
SMALL_SOFT = np.random.default_rng(9).dirichlet([0.5] * 5, SMALL.shape[:2]).astype(np.float32)
SMALL_SPECS = [
    Softmax(),
    Softmax(class_weights=range(5)),
    Softmax(class_weights=range(5), label_smoothing=0.1, prob_floor=0.01),
    Sigmoid(class_weights=range(5)),
    Focal(),
    Focal(alpha=None, gamma=0.5),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kind_of_logits_meets_every_loss(backend, kind, form, dtype):
    rng = np.random.default_rng(20)
    x, y = logits(kind, (1, 33, 5), rng), targets(form, (1, 33, 5), rng)
    y = y.astype(dtype).astype(np.float64) if y.ndim == 3 else y
    for spec in SMALL_SPECS:
        whole = lazy(x.astype(dtype), y, spec, backend=backend)
        np.testing.assert_allclose(whole[:], expected(x, y, spec), rtol=relative(spec, dtype), atol=1e-36)
        gradients, slopes = whole.gradients(np.full((1, 33), 2.0)), expected(x, y, spec, gradient=True)
        # Where several classes have targets their slopes cancel; where one has, every digit of a tail counts.
        least = 1e-36 if form == "classes" and not getattr(spec, "label_smoothing", 0) else 1e-14
        np.testing.assert_allclose(gradients, 2.0 * slopes, rtol=1e-6 if dtype == np.float32 else 1e-11, atol=least)


@pytest.mark.parametrize("spec", SMALL_SPECS, ids=repr)
@pytest.mark.parametrize("y", [SMALL_CLASSES, SMALL_SOFT], ids=["classes", "soft"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_anchors_that_do_not_count_have_neither_loss_nor_gradient(backend, y, spec):
    valid = np.arange(40) % 7 != 3
    factors = np.where(SMALL_CLASSES % 3 == 0, 0.5, 0.0)
    ours, judged = (
        lazy(SMALL, y, spec, backend=name, valid=np.tile(valid, (2, 1))) for name in (backend, "reference")
    )
    np.testing.assert_allclose(ours[:], judged[:], rtol=1e-6)
    np.testing.assert_allclose(ours.gradients(factors), judged.gradients(factors), rtol=1e-6, atol=1e-14)
    assert not ours[:][:, ~valid].any()
    assert not ours.gradients(factors)[:, ~valid].any()


@pytest.mark.parametrize("spec", [Softmax(), Sigmoid()], ids=repr)
@pytest.mark.parametrize("kind", ["background", "foreground_max"])
@pytest.mark.parametrize("background", [0, 3, -1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_ranks_are_those_of_the_reference(backend, background, kind, spec):
    got, judged = (
        lazy(SMALL, SMALL_CLASSES, spec, backend=name).ranks(kind, background) for name in (backend, "reference")
    )
    np.testing.assert_allclose(got[:], judged[:], rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_masked_classes_rank_as_in_the_reference(backend):
    x, y = logits("special", (1, 60, 3), np.random.default_rng(10)).astype(np.float32), np.zeros((1, 60), int)
    for spec, background in ((Softmax(), 1), (Sigmoid(), 1), (Sigmoid(), 3)):
        got, judged = (
            lazy(x, y, spec, backend=name).ranks("foreground_max", background)[:] for name in (backend, "reference")
        )
        np.testing.assert_allclose(got, judged, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_background_alone_has_no_foreground_to_rank_by(backend):
    x, y = logits("special", (1, 60, 1), np.random.default_rng(10)).astype(np.float32), np.zeros((1, 60), int)
    ranks = lazy(x, y, Softmax(), backend=backend).ranks("foreground_max", 0)[:]
    np.testing.assert_array_equal(ranks, np.where(np.isfinite(x[..., 0]), -np.inf, np.nan))


@pytest.mark.parametrize("y", ["classes", "soft"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_number_of_classes_and_of_anchors_fits_the_tile(backend, y):
    rng = np.random.default_rng(11)
    for num_classes in (*range(1, 10), 21, 31, 32, 33, 64, 91):
        for num_anchors in (1, 31, 33):
            x = logits("normal", (1, num_anchors, num_classes), rng)
            labels = targets(y, x.shape, rng)
            got = sm.softmax_cross_entropy(x, labels, backend=backend)
            np.testing.assert_allclose(got, expected(x, labels, Softmax()), rtol=1e-13, atol=1e-36)


@pytest.mark.parametrize("spec", SMALL_SPECS, ids=repr)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_anchor_has_the_same_bits_wherever_it_stands(backend, spec, monkeypatch):
    order, factors = np.random.default_rng(12).permutation(80), np.full((2, 40), 0.5)
    whole = lazy(SMALL, SMALL_CLASSES, spec, backend=backend)
    moved = lazy(SMALL.reshape(1, 80, 5)[:, order], SMALL_CLASSES.reshape(1, 80)[:, order], spec, backend=backend)
    np.testing.assert_array_equal(moved[:][0], whole[:].reshape(80)[order])
    gradients = whole.gradients(factors).reshape(80, 5)
    np.testing.assert_array_equal(moved.gradients(factors.reshape(1, 80))[0], gradients[order])
    losses = whole[:]
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 1)
    np.testing.assert_array_equal(whole[:], losses)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_not_written_and_empty_batches_have_no_losses(backend):
    before = SMALL.copy(), SMALL_SOFT.copy()
    sm.focal_loss(SMALL, SMALL_SOFT, backend=backend)
    np.testing.assert_array_equal(SMALL, before[0])
    np.testing.assert_array_equal(SMALL_SOFT, before[1])
    for shape in ((0, 4, 3), (2, 0, 3)):
        assert sm.softmax_cross_entropy(np.zeros(shape), np.zeros(shape[:2], int), backend=backend).shape == shape[:2]
