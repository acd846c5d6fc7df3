"""The losses from logits and their gradients on the device, or its simulator, against the reference and the CPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.classification import Focal, Sigmoid, Softmax
from ssd_mining.engine import lazy_losses
from ssd_mining.engine.run import call_of
from ssd_mining.inputs.logits import check_logits
from ssd_mining.kernels.cuda import logit_losses, pack, runtime
from tests.support.device import needs_device, scalar_numpy_warns
from tests.support.logits import KINDS, TARGETS, calls, expected, function, logits, relative, targets

pytestmark = [needs_device, scalar_numpy_warns]

RNG = np.random.default_rng(7)
LOGITS = RNG.normal(0, 3, (2, 40, 5)).astype(np.float32)
CLASSES = RNG.integers(0, 5, LOGITS.shape[:2])
SOFT = RNG.dirichlet([0.5] * 5, LOGITS.shape[:2]).astype(np.float32)
SPECS = [
    Softmax(),
    Softmax(class_weights=range(5)),
    Softmax(class_weights=range(5), label_smoothing=0.1, prob_floor=0.01),
    Sigmoid(class_weights=range(5)),
    Focal(),
    Focal(alpha=None, gamma=0.5),
]


class Checked:
    """Checked logits, and where to compute."""

    def __init__(self, logits, backend):
        self.logits, self.backend = logits, backend

    def losses(self):
        return lazy_losses.losses(self.logits, call_of(self.backend, None))

    def gradients(self, factors):
        return lazy_losses.gradients(self.logits, factors, call_of(self.backend, None))

    def ranks(self, kind, background):
        return Checked(self.logits.ranks(kind, background), self.backend)


def checked(x, y, spec, backend="cuda", **keywords):
    return Checked(check_logits(x, y, spec, **keywords), backend)


@settings(max_examples=150)
@given(calls(most=50))
def test_the_losses_equal_the_reference(call):
    x, y, dtype, spec = call
    if y.ndim == 3:
        y = y.astype(np.float32 if dtype == np.float16 else dtype)
    name, keywords = function(spec)
    got = getattr(sm, name)(x.astype(dtype), y, backend="cuda", **keywords)
    assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)
    judged = expected(x, y.astype(np.float64) if y.ndim == 3 else y, spec)
    np.testing.assert_allclose(got, judged, rtol=relative(spec, dtype), atol=1e-36)


@settings(max_examples=150)
@given(calls(most=50), st.integers(0, 2**32))
def test_the_gradients_equal_the_reference(call, seed):
    x, y, dtype, spec = call
    if y.ndim == 3:
        y = y.astype(np.float64 if dtype == np.float64 else np.float32).astype(np.float64)
    rng = np.random.default_rng(seed)
    factors = np.where(rng.random(x.shape[:2]) < 0.3, rng.normal(size=x.shape[:2]), 0.0)
    got = checked(x.astype(dtype), y, spec).gradients(factors)
    judged = np.where(factors[..., None] != 0, expected(x, y, spec, gradient=True) * factors[..., None], 0.0)
    cancels = y.ndim == 3 or getattr(spec, "label_smoothing", 0) > 0
    tolerance = {"rtol": 1e-11, "atol": 1e-300} if dtype == np.float64 else {"rtol": 1e-6, "atol": 1e-36}
    np.testing.assert_allclose(got, judged, **tolerance | ({"atol": 1e-14} if cancels else {}))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_logits_meets_every_loss(kind, form, dtype):
    rng = np.random.default_rng(20)
    x, y = logits(kind, (1, 33, 5), rng), targets(form, (1, 33, 5), rng)
    y = y.astype(dtype).astype(np.float64) if y.ndim == 3 else y
    for spec in SPECS:
        whole = checked(x.astype(dtype), y, spec)
        np.testing.assert_allclose(whole.losses(), expected(x, y, spec), rtol=relative(spec, dtype), atol=1e-36)
        gradients, slopes = whole.gradients(np.full((1, 33), 2.0)), expected(x, y, spec, gradient=True)
        # Where several classes have targets their slopes cancel; where one has, every digit of a tail counts.
        least = 1e-36 if form == "classes" and not getattr(spec, "label_smoothing", 0) else 1e-14
        np.testing.assert_allclose(gradients, 2.0 * slopes, rtol=1e-6 if dtype == np.float32 else 1e-11, atol=least)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("y", [CLASSES, SOFT], ids=["classes", "soft"])
def test_the_cpu_agrees(spec, y):
    valid = np.arange(40) % 7 != 3
    factors = np.where(CLASSES % 3 == 0, 0.5, 0.0)
    ours, cpu = (checked(LOGITS, y, spec, backend, valid=np.tile(valid, (2, 1))) for backend in ("cuda", "cpu"))
    np.testing.assert_allclose(ours.losses(), cpu.losses(), rtol=1e-6)
    np.testing.assert_allclose(ours.gradients(factors), cpu.gradients(factors), rtol=1e-6)
    assert not ours.losses()[:, ~valid].any()
    assert not ours.gradients(factors)[:, ~valid].any()


@pytest.mark.parametrize("spec", [Softmax(), Sigmoid()], ids=repr)
@pytest.mark.parametrize("kind", ["background", "foreground_max"])
@pytest.mark.parametrize("background", [0, 3, -1])
def test_the_ranks_equal_the_reference(spec, kind, background):
    got, judged = (
        checked(LOGITS, CLASSES, spec, backend).ranks(kind, background) for backend in ("cuda", "reference")
    )
    np.testing.assert_allclose(got.losses(), judged.losses(), rtol=1e-6)


def test_nan_and_masked_classes_rank_as_on_the_cpu():
    x = logits("special", (1, 60, 3), RNG).astype(np.float32)
    for spec, background in ((Softmax(), 1), (Sigmoid(), 1), (Sigmoid(), 3)):
        got, cpu = (
            checked(x, np.zeros((1, 60), int), spec, backend).ranks("foreground_max", background).losses()
            for backend in ("cuda", "cpu")
        )
        np.testing.assert_allclose(got, cpu, rtol=1e-6)
    alone = checked(x[..., :1], np.zeros((1, 60), int), Softmax(), "cuda").ranks("foreground_max", 0).losses()
    np.testing.assert_array_equal(alone, np.where(np.isfinite(x[..., 0]), -np.inf, np.nan))


@pytest.mark.parametrize("y", ["classes", "soft"])
def test_every_number_of_classes_and_of_anchors_fits_the_tile(y):
    for num_classes in (*range(1, 10), 21, 31, 32, 33, 64, 91):
        for num_anchors in (1, 31, 33):
            x = logits("normal", (1, num_anchors, num_classes), RNG)
            labels = targets(y, x.shape, RNG)
            got = sm.softmax_cross_entropy(x, labels, backend="cuda")
            np.testing.assert_allclose(got, expected(x, labels, Softmax()), rtol=1e-13, atol=1e-36)


def test_a_block_fits_into_shared_memory():
    for num_classes in range(1, 3072):
        for dtype in (np.float32, np.float64):
            for is_scored in (False, True):
                threads, shared_bytes = logit_losses.block(num_classes, np.dtype(dtype), is_scored=is_scored)
                tiles = threads * (num_classes | 1) * np.dtype(dtype).itemsize * (1 + is_scored)
                assert 1 <= threads <= 128
                assert threads < 32 or threads % 32 == 0
                assert tiles == shared_bytes <= 48 * 1024


@pytest.mark.parametrize(("num_classes", "y"), [(200, "soft"), (700, "classes"), (3071, "soft"), (6143, "classes")])
def test_a_block_has_as_many_anchors_as_its_shared_memory_holds(num_classes, y):
    x = logits("normal", (1, 40 if num_classes < 1000 else 3, num_classes), RNG)
    labels = targets(y, x.shape, RNG)
    got = sm.sigmoid_cross_entropy(x, labels, backend="cuda")
    np.testing.assert_allclose(got, expected(x, labels, Sigmoid()), rtol=5e-13)
    if num_classes > 1000:
        wider = np.zeros((1, 1, num_classes + 1))
        with pytest.raises(NotImplementedError, match=rf"^backend: 'cuda' takes .*, got {num_classes + 1} classes"):
            sm.softmax_cross_entropy(wider, wider if y == "soft" else [[0]], backend="cuda")


@pytest.mark.parametrize(
    ("gap", "num_classes", "name"),
    [(25, 21, "softmax_cross_entropy"), (0, 91, "softmax_cross_entropy"), (0, 91, "sigmoid_cross_entropy")],
)
def test_tails_and_sums_over_many_classes_keep_their_digits(gap, num_classes, name):
    x = RNG.normal(0, 2, (1, 96, num_classes)).astype(np.float32)
    x[..., 0] += gap
    x += RNG.choice(np.array([0, -40, 300], np.float32), x.shape[:2])[..., None] if name[1] == "o" else 0
    labels = np.zeros(x.shape[:2], int)
    got, exact = (getattr(sm, name)(logits, labels, backend="cuda") for logits in (x, x.astype(np.float64)))
    # The simulator rounds every step as float32 does, but has float64's exponential and logarithm.
    np.testing.assert_allclose(got, exact, rtol=1.2e-7 if runtime.SIMULATED else 5e-7)


def test_unlikely_labels_are_rounded_once():
    x = RNG.normal(0, 2, (1, 96, 21)).astype(np.float32)
    x[..., 0] -= 20
    labels = np.zeros(x.shape[:2], int)
    got, exact = (sm.softmax_cross_entropy(logits, labels, backend="cuda") for logits in (x, x.astype(np.float64)))
    np.testing.assert_allclose(got, exact, rtol=6e-8 if runtime.SIMULATED else 2e-7)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_an_anchor_has_the_same_bits_wherever_it_stands(spec, monkeypatch):
    order, factors = RNG.permutation(80), np.full((2, 40), 0.5)
    whole = checked(LOGITS, CLASSES, spec)
    moved = checked(LOGITS.reshape(1, 80, 5)[:, order], CLASSES.reshape(1, 80)[:, order], spec)
    np.testing.assert_array_equal(moved.losses()[0], whole.losses().reshape(80)[order])
    gradients = whole.gradients(factors).reshape(80, 5)
    np.testing.assert_array_equal(moved.gradients(factors.reshape(1, 80))[0], gradients[order])
    losses = whole.losses()
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 1)
    np.testing.assert_array_equal(whole.losses(), losses)


def test_inputs_are_not_written_and_empty_batches_are_no_launch():
    before = LOGITS.copy(), SOFT.copy()
    sm.focal_loss(LOGITS, SOFT, backend="cuda")
    np.testing.assert_array_equal(LOGITS, before[0])
    np.testing.assert_array_equal(SOFT, before[1])
    for shape in ((0, 4, 3), (2, 0, 3)):
        assert sm.softmax_cross_entropy(np.zeros(shape), np.zeros(shape[:2], int), backend="cuda").shape == shape[:2]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u4", "i8", "u8"])
def test_labels_of_every_type_become_classes(dtype):
    labels = np.arange(80).astype(dtype)
    labels[[6, 10]] = np.iinfo(dtype).max, np.iinfo(dtype).min
    valid = np.arange(40) % 8 != 1
    numba_s = runtime.numba_library()
    uploaded, mask = numba_s.upload(labels), numba_s.upload(valid)
    classes = numba_s.allocate((40,), np.int32)
    every_other = pack.Strided(uploaded, 10, 20, 2, 0, 1)  # 4 samples of 10 anchors
    validity = pack.Strided(mask, 10, 10, 1, 0, 1)
    for may_ignore, has_valid in ((0, 0), (1, 0), (0, 1), (1, 1)):
        judged = np.where((labels >= 0) & (labels < 30), labels, 31).astype(np.int32)[::2]
        judged[(labels[::2] == 14) & (may_ignore == 1)] = -1
        judged[~valid & (has_valid == 1)] = -1
        meaning = pack.Meaning(num_legal=30, illegal=31, ignore_index=14, may_ignore=may_ignore, has_valid=has_valid)
        pack.enqueue_classes(every_other, validity, meaning, classes, numba_s.stream)
        np.testing.assert_array_equal(numba_s.download(classes), judged)
