"""What only the CUDA twin has of the losses from logits: blocks and their shared memory, and its own rounding."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.classification import Sigmoid
from ssd_mining.kernels.cuda import logit_losses, pack, runtime
from tests.support.logits import expected, logits, targets

pytestmark = pytest.mark.cuda

RNG = np.random.default_rng(7)


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
