"""The whole loss on the device, or its simulator, against that of the CPU."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining import _cuda
from ssd_mining.kernels import cuda_multibox as kernels
from ssd_mining.losses import NORMALIZE, ZERO_POSITIVES
from tests.multibox import draw

pytestmark = [
    pytest.mark.skipif(not _cuda.SIMULATED, reason="needs the simulator (NUMBA_ENABLE_CUDASIM=1)"),
    # Scalar NumPy, of which the simulator is made, warns of inf - inf.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

STREAM = _cuda.Stream()


def upload(array):
    return _cuda.upload(np.ascontiguousarray(array), STREAM)


def divided(call, cpu, mined, *, is_ragged=False):
    """Return the losses, the gradients of the locations, and what those of the logits are multiplied by."""
    words, (num_samples, num_anchors) = call.keywords, call.labels.shape
    boxes = kernels.Boxes(
        pos_mask=upload(mined.pos_mask),
        hard_negative_mask=upload(mined.hard_negative_mask),
        pred=upload(call.loc_pred.reshape(-1, call.loc_pred.shape[2])),
        target=upload(call.loc_target.reshape(-1, call.loc_pred.shape[2])),
        offsets=upload(np.arange(num_samples + 1) * num_anchors),
        num_anchors=-1 if is_ragged else num_anchors,
        width=call.loc_pred.shape[2],
        beta=words.get("beta", 1.0),
    )
    counts, sums = np.zeros((6, num_samples), np.int64), np.zeros((3, num_samples))
    counts[:3] = cpu.num_pos, cpu.num_neg, cpu.num_kept
    sums[:2] = cpu.positive_sum, cpu.negative_sum
    loc_sums, factors = _cuda.empty((num_samples,), np.float64), _cuda.empty(call.labels.shape, np.float64)
    losses = [_cuda.empty((), np.float64) for _ in range(3)]
    results = kernels.Quotients(*losses, _cuda.empty((kernels.NUM_SHARES, num_samples), np.float64))
    loc_gradient = _cuda.empty(call.loc_pred.shape, call.loc_pred.dtype)
    given = kernels.Sums(upload(counts), upload(sums), loc_sums, num_samples, words.get("loc_weight", 1.0))
    normalize = words.get("normalize", "positives")
    divisors = [
        kernels.divisor(kind, words.get("zero_positives", "clamp"), num_samples, call.labels.size)
        for kind in (normalize, words.get("loc_normalize", normalize))
    ]
    kernels.enqueue_division(boxes, given, divisors, results, STREAM)
    kernels.enqueue_factors(boxes, results.shares, factors, loc_gradient, STREAM)
    downloaded = [_cuda.download(array, STREAM) for array in (*losses, loc_sums, factors, loc_gradient)]
    return [np.array(downloaded[:3]), *downloaded[3:]]


def check(call, *, is_ragged=False):
    cpu, mined = call.loss(with_gradients=True), call.mined()
    losses, loc_sums, factors, loc_gradient = divided(call, cpu, mined, is_ragged=is_ragged)
    tolerance = {"rtol": 1e-12, "atol": 1e-300}
    np.testing.assert_allclose(losses, [cpu.loss, cpu.conf_loss, cpu.loc_loss], **tolerance)
    np.testing.assert_allclose(loc_sums, cpu.loc_sum, **tolerance)
    exact = np.finfo(call.loc_pred.dtype).eps * 4
    np.testing.assert_allclose(loc_gradient, cpu.loc_gradient, rtol=exact, atol=1e-300)
    # The factors times the slopes of the losses are the gradients of the CPU.
    slopes = sm.multibox_loss(
        call.logits,
        call.labels,
        background=0,
        normalize="none",
        neg_pos_ratio=1000,
        min_negatives=1000,
        with_gradients=True,
    ).logits_gradient  # fmt: skip - of every anchor
    np.testing.assert_allclose(factors[..., None] * slopes, cpu.logits_gradient, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("zero_positives", [word for word in ZERO_POSITIVES if word != "raise"])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_every_divisor_is_that_of_the_cpu(normalize, zero_positives):
    others = dict(zip(NORMALIZE, (*NORMALIZE[3:], *NORMALIZE[:3]), strict=True))
    words = {"normalize": normalize, "loc_normalize": others[normalize], "zero_positives": zero_positives}
    check(draw(positives=(3, 0, 2, 14), loc_weight=0.7, **words))
    check(draw(positives=(0, 0), num_anchors=3, **words))


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_localization_is_that_of_the_cpu(beta, dtype):
    call = draw(positives=(9, 1, 40), num_anchors=70, beta=beta)
    call.loc_pred, call.loc_target = call.loc_pred.astype(dtype), call.loc_target.astype(dtype)
    call.loc_pred[0, ::3] = call.loc_target[0, ::3]
    check(call)
    check(call, is_ragged=True)
    call.loc_pred[1, ::2], call.loc_pred[2, 5], call.loc_target[2, 6] = np.inf, np.nan, -np.inf
    check(call)


def test_boxes_may_have_any_number_of_coordinates():
    call = draw(positives=(3, 2), num_anchors=33)
    call.loc_pred, call.loc_target = call.loc_pred[..., :3], call.loc_target[..., :3]
    check(call)


def test_more_samples_than_threads_are_one_division():
    check(draw(positives=tuple(range(4)) * 17, num_anchors=5))


def test_losses_of_inf_are_divided_as_on_the_cpu():
    for zero_positives in ("clamp", "zero", "nan"):
        for normalize in ("positives", "sample_positives", "batch"):
            call = draw(positives=(2, 0), normalize=normalize, zero_positives=zero_positives, min_negatives=2)
            call.logits[0, call.labels[0] > 0, :] = [0.0, -np.inf, -np.inf, -np.inf]
            cpu, mined = call.loss(), call.mined()
            assert np.isinf(cpu.positive_sum[0])
            losses, *_ = divided(call, cpu, mined)
            np.testing.assert_array_equal(losses, [cpu.loss, cpu.conf_loss, cpu.loc_loss])
