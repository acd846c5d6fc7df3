"""Every backend against the reference on generated batches, and on the selection's own hard cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ssd_mining as sm
from tests.support.batches import Batch, batches, examples, losses
from tests.support.parity import check


@settings(max_examples=examples(2000))
@given(batches())
def test_the_kernel_equals_the_reference(batch):
    check(batch, "cpu")


@settings(max_examples=examples(200))
@given(batches())
def test_the_reference_backend_equals_the_reference(batch):
    check(batch, "reference")


@settings(max_examples=examples(100))
@given(batches(max_anchors=3000))
def test_the_kernel_equals_the_reference_on_long_rows(batch):
    check(batch, "cpu")


KINDS = ["gamma", "ties", "zeros", "negative", "special", "equal", "ascending", "descending"]


@pytest.mark.full_size
@pytest.mark.parametrize("num_anchors", [8732, 24564])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_equals_the_reference_at_full_size(kind, num_anchors):
    rng = np.random.default_rng(num_anchors)
    for positives in (0.0, 0.0002, 0.003, 0.03, 0.1, 0.3):
        conf_loss = losses(kind, (2, num_anchors), rng)
        pos_mask = rng.random(conf_loss.shape) < positives
        check(Batch(conf_loss, pos_mask, {}, {}, pos_mask, ~pos_mask, conf_loss), "cpu")


@settings(max_examples=examples(300))
@given(st.integers(0, 2**32), st.integers(1, 2000), st.sampled_from(KINDS), st.sampled_from([np.float32, np.float64]))
def test_any_quota_of_any_row_selects_the_sorted_prefix(seed, num_anchors, kind, dtype):
    rng = np.random.default_rng(seed)
    conf_loss = losses(kind, (1, num_anchors), rng).astype(dtype)
    conf_loss[rng.random(conf_loss.shape) < 0.01] = np.nan
    quota = np.array([rng.integers(0, num_anchors + 1)])
    batch = Batch(
        conf_loss,
        np.zeros(conf_loss.shape, np.bool_),
        {"num_negatives": quota, "nan_policy": "propagate"},
        {},
        np.zeros(conf_loss.shape, np.bool_),
        np.ones(conf_loss.shape, np.bool_),
        conf_loss,
        quota,
    )
    check(batch, "cpu")


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
