"""Every backend against the reference: the check, and batches made to be hard."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.kernels.cpu import mining as cpu
from tests.support.batches import Batch, losses

BACKENDS = ("reference", "cpu", pytest.param("cuda", marks=pytest.mark.cuda))


def batch_of(conf_loss: np.ndarray, quotas: object, **keywords: object) -> Batch:
    """Return rows (B, A) of negatives alone, with a quota for each, or one for all."""
    quotas = np.broadcast_to(quotas, conf_loss.shape[:1])
    nothing = np.zeros(conf_loss.shape, np.bool_)
    keywords = {"num_negatives": quotas, **keywords}
    return Batch(conf_loss, nothing, keywords, {}, nothing, ~nothing, conf_loss, quotas)


def hostile(kind: str, num_anchors: int, dtype: type) -> Batch:
    """Return rows of a kind with quotas of every sort."""
    quotas = sorted({0, 1, num_anchors // 3, num_anchors - 1, num_anchors})
    rng = np.random.default_rng(num_anchors)
    return batch_of(losses(kind, (len(quotas), num_anchors), rng).astype(dtype), quotas)


def check(batch: Batch, backend: str) -> None:
    """Assert that a backend mines a batch as the reference says, and writes nothing."""
    before = batch.conf_loss.copy(), batch.labels.copy()
    res = sm.mine_hard_negatives(batch.conf_loss, batch.labels, backend=backend, **batch.keywords)
    out = sm.confidence_loss(batch.conf_loss, batch.labels, backend=backend, **batch.keywords)
    loss = batch.conf_loss if batch.weighted is None else batch.weighted
    nan = np.isnan(loss) | np.isnan(batch.rank) if batch.omit_nan else np.False_
    np.testing.assert_array_equal(res.pos_mask, batch.pos_mask & ~nan)
    masks = np.split(res.hard_negative_mask.reshape(-1), batch.offsets[1:-1]) if batch.expected else []
    for i, expected in enumerate(batch.expected):
        np.testing.assert_array_equal(masks[i], expected.hard_negative_mask)
        got = (res.num_pos[i], res.num_neg[i], res.num_kept[i])
        assert got == (expected.num_pos, expected.num_neg, expected.num_kept)
    ranks, (starts, anchors) = np.split(batch.rank.reshape(-1), batch.offsets[1:-1]), res.indices()
    for i, expected in enumerate(batch.expected):
        kept, is_nan = np.flatnonzero(expected.hard_negative_mask), np.isnan(ranks[i][expected.hard_negative_mask])
        order = np.lexsort((np.where(is_nan, 0, -ranks[i][kept]), ~is_nan))
        np.testing.assert_array_equal(anchors[starts[i] : starts[i + 1]], kept[order])
        np.testing.assert_array_equal(res.threshold[i], expected.threshold)
        sums = [expected.positive_sum, expected.negative_sum]
        np.testing.assert_allclose([res.positive_sum[i], res.negative_sum[i]], sums, rtol=1e-12, atol=1e-12)
    for name in ("positive_sum", "negative_sum"):  # with a mask and without one: the same bits
        np.testing.assert_array_equal(getattr(out, name).view(np.int64), getattr(res, name).view(np.int64))
    np.testing.assert_array_equal(out.num_kept, res.num_kept)
    np.testing.assert_array_equal(batch.conf_loss, before[0])
    np.testing.assert_array_equal(batch.labels, before[1])


def sampled_anchors(num_anchors):
    """Return the anchors that the kernel looks at to choose its pivot."""
    i = np.arange(cpu.sample_size(num_anchors), dtype=np.uint64)
    return ((i * cpu.GOLDEN & np.uint64(0xFFFFFFFF)) * np.uint64(num_anchors)) >> np.uint64(32)
