"""Every backend against the reference on generated batches, and on the selection's own hard cases."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.kernels.cuda import long_rows, runtime, short_rows
from tests.support.batches import LOSSES, REAL_FILES, Batch, batches, examples, generated, load_real, losses
from tests.support.parity import BACKENDS, batch_of, check, hostile

# How many batches a backend is tried on, and how long their rows may be: a simulated thread takes its time.
TRIED = {"reference": (200, 70), "cpu": (2000, 70), "cuda": (200, 60)}


@pytest.mark.generated
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_mines_as_the_reference_says(backend):
    number, most = TRIED[backend]

    @settings(max_examples=examples(number))
    @given(batches(max_anchors=most))
    def every_batch(batch):
        check(batch, backend)

    every_batch()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_anchors", [1, 33, 180])  # of 180, a thread of a GPU has more keys than it makes at once
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_hostile_rows_are_right(backend, kind, num_anchors, dtype):
    check(hostile(kind, num_anchors, dtype), backend)


def test_nan_is_the_hardest_and_ties_with_nan(backend):
    for num_anchors in (30, 90):
        conf_loss = np.random.default_rng(1).random((4, num_anchors)).astype(np.float32)
        conf_loss[:, ::3] = np.nan
        check(batch_of(conf_loss, [0, 3, 10, 25], nan_policy="propagate"), backend)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # of a signalling NaN
def test_neither_the_sign_of_zero_nor_the_bits_of_nan_decide(backend):
    zeros = np.where(np.arange(80) % 2, -0.0, 0.0).astype(np.float32)[None].repeat(3, axis=0)
    check(batch_of(zeros, [1, 40, 41]), backend)
    nan = np.array([0x7FC00000, 0xFFC00000, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
    conf_loss = np.ones((3, 80), np.float32)
    conf_loss[:, 8:72:4] = np.tile(nan, 4)
    check(batch_of(conf_loss, [1, 7, 30], nan_policy="propagate"), backend)


def test_a_row_has_the_same_bits_whatever_stands_beside_it(backend):
    rng = np.random.default_rng(2)
    most = short_rows.THREADS if runtime.SIMULATED else 64  # one more may be a long row, or a word more
    lengths = [3, most, most + 1, 2 * long_rows.CHUNK - 5 if runtime.SIMULATED else 1000, 0, most - 2]
    lengths += [short_rows.most_anchors(np.dtype(float), threads) + 1 for threads in short_rows.MAX_KEYS]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    conf_loss, pos_mask = rng.gamma(0.3, 1.0, offsets[-1]), rng.random(offsets[-1]) < 0.1
    together = sm.confidence_loss(conf_loss, pos_mask, sample_offsets=offsets, backend=backend)
    again = sm.confidence_loss(conf_loss, pos_mask, sample_offsets=offsets, backend=backend)
    np.testing.assert_array_equal(together.confidence_loss, again.confidence_loss)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = sm.confidence_loss(conf_loss[None, start:stop], pos_mask[None, start:stop], backend=backend)
        np.testing.assert_array_equal(alone.negative_sum, together.negative_sum[i : i + 1])
        np.testing.assert_array_equal(alone.positive_sum, together.positive_sum[i : i + 1])


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_at_reduced_size(name, backend):
    real = load_real(name)
    # The anchors around each positive, where the losses are high and differ, and some of the rest.
    sample = np.flatnonzero(real["exp_P"])[0]
    positives = np.flatnonzero(real["labels"][sample] > 0)[:40]
    near = np.unique(np.clip(positives[:, None] + np.arange(-3, 4), 0, real["labels"].shape[1] - 1))
    anchors = np.union1d(near, np.arange(0, real["labels"].shape[1], 97))[:500]
    conf_loss, pos_mask = real["losses"][[sample]][:, anchors], real["labels"][[sample]][:, anchors] > 0
    batch = Batch(conf_loss, pos_mask, {}, {}, pos_mask, ~pos_mask, conf_loss)
    assert batch.expected[0].num_kept > 0
    check(batch, backend)


@generated(100)
@given(batches(max_anchors=3000))
def test_the_kernel_equals_the_reference_on_long_rows(batch):
    check(batch, "cpu")


@pytest.mark.full_size
@pytest.mark.parametrize("num_anchors", [8732, 24564])
@pytest.mark.parametrize("kind", LOSSES)
def test_the_kernel_equals_the_reference_at_full_size(kind, num_anchors):
    rng = np.random.default_rng(num_anchors)
    for positives in (0.0, 0.0002, 0.003, 0.03, 0.1, 0.3):
        conf_loss = losses(kind, (2, num_anchors), rng)
        pos_mask = rng.random(conf_loss.shape) < positives
        check(Batch(conf_loss, pos_mask, {}, {}, pos_mask, ~pos_mask, conf_loss), "cpu")


@generated(300)
@given(
    st.integers(0, 2**32), st.integers(1, 2000), st.sampled_from(LOSSES), st.sampled_from([np.float32, np.float64])
)
def test_any_quota_of_any_row_selects_the_sorted_prefix(seed, num_anchors, kind, dtype):
    rng = np.random.default_rng(seed)
    conf_loss = losses(kind, (1, num_anchors), rng).astype(dtype)
    conf_loss[rng.random(conf_loss.shape) < 0.01] = np.nan
    quota = np.array([rng.integers(0, num_anchors + 1)])
    check(batch_of(conf_loss, quota, nan_policy="propagate"), "cpu")


@pytest.mark.full_size
@pytest.mark.parametrize("num_anchors", [8732, 1_000_003])
@pytest.mark.parametrize("kind", ["gamma", "zeros", "ties"])
def test_float32_sums_are_within_3e_7_of_the_exact_sum(kind, num_anchors):
    rng = np.random.default_rng(5)
    conf_loss = losses(kind, (1, num_anchors), rng)
    pos_mask = rng.random(conf_loss.shape) < 0.05
    res = sm.mine_hard_negatives(conf_loss, pos_mask)
    exact_pos = math.fsum(conf_loss[pos_mask].tolist())
    exact_neg = math.fsum(conf_loss[res.hard_negative_mask].tolist())
    assert res.positive_sum[0] == pytest.approx(exact_pos, rel=3e-7)
    assert res.negative_sum[0] == pytest.approx(exact_neg, rel=3e-7)
    assert res.negative_sum[0] == pytest.approx(exact_neg, rel=1e-13)  # what float64 sums really give


def test_float64_losses_are_not_narrowed():
    conf_loss = 1.0 + np.arange(6)[None] * 1e-12
    mask = sm.hard_negative_mask(conf_loss, [[1, 0, 0, 0, 0, 0]], background=0)
    assert np.flatnonzero(mask).tolist() == [3, 4, 5]
