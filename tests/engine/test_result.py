"""The kept negatives: read from lists in any order, joined block by block, sorted hardest first."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.engine.result import Kept, Listed
from ssd_mining.inputs import batch
from ssd_mining.kernels.records import KeptLists


def test_lists_are_read_sample_after_sample():
    ranks = np.array([0.5, 0.6, 0.4, 0.9], np.float32)
    lists = KeptLists(np.array([4]), np.array([3, 2, 2, 0]), np.array([5, 6, 4, 9]), ranks)
    got = Listed([(np.array([1, 0, 1, 2]), lists)]).read()
    assert got.num_kept.tolist() == [1, 0, 1, 2]
    assert got.anchors.tolist() == [9, 4, 5, 6]
    np.testing.assert_array_equal(got.ranks, np.array([0.9, 0.4, 0.5, 0.6], np.float32))


def test_a_result_holds_no_more_than_the_kept_negatives():
    res = sm.mine_hard_negatives(np.ones((2, 500)), np.arange(1000).reshape(2, 500) % 500 == 0)
    assert [array.base is None and array.size for array in res._kept.blocks[0][1][2:]] == [6, 6]


@pytest.mark.parametrize("num_samples", [0, 1, 6])
def test_blocks_do_not_change_the_indices(num_samples, monkeypatch):
    rng = np.random.default_rng(0)
    conf_loss, pos_mask = rng.random((num_samples, 70)).astype(np.float32), rng.random((num_samples, 70)) < 0.1
    expected = sm.mine_hard_negatives(conf_loss, pos_mask).indices()
    monkeypatch.setattr(batch, "BLOCK_ELEMENTS", 150)
    res = sm.mine_hard_negatives(conf_loss, pos_mask)
    for got, whole in zip(res.indices(), expected, strict=True):
        assert got.dtype == whole.dtype == np.int64
        np.testing.assert_array_equal(got, whole)
    assert res._kept.read().ranks.dtype == np.float32  # half as wide, and sorted in a tenth of the time


@pytest.mark.parametrize("first", [0, 1 << 40])  # sample, rank and anchor fit into 64 bits, or they do not
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_hardest_are_first_whatever_fits_into_one_number(first, dtype):
    ranks = np.array([-0.0, 0.0, np.inf, np.nan, -1.5, 1e-30, -np.inf, -np.nan, 2.0, 2.0, -1e-30], dtype)
    kept = Kept(
        np.array([ranks.size, 0, 2]), first + np.arange(ranks.size + 2), np.append(ranks, [1, 2]).astype(dtype)
    )
    assert (kept.hardest_first() - first).tolist() == [3, 7, 2, 8, 9, 5, 0, 1, 10, 4, 6, 12, 11]
