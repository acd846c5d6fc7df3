"""Results: indices, relabelling, columns, quotas, normalisers, and the spec as a value."""

import pickle
from dataclasses import FrozenInstanceError, fields
from typing import get_args

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.losses import Normalize
from ssd_mining.mining_rule import Selection

RNG = np.random.default_rng(3)
LOSS = (RNG.integers(0, 16, (5, 80)) / 4).astype(np.float32)
CLASSES = np.where(RNG.random(LOSS.shape) < 0.08, 2, 0)


def test_indices_list_the_kept_negatives_hardest_first_and_ties_by_anchor():
    conf_loss = LOSS.copy()
    conf_loss[1, :4], conf_loss[2, 5] = np.nan, np.inf
    res = sm.mine_hard_negatives(conf_loss, CLASSES, background=0, nan_policy="propagate")
    offsets, anchors = res.indices()
    assert offsets.dtype == anchors.dtype == np.int64
    for i, row in enumerate(conf_loss):
        got = anchors[offsets[i] : offsets[i + 1]].tolist()
        kept = np.flatnonzero(res.hard_negative_mask[i])
        expected = sorted(kept, key=lambda j: (not np.isnan(row[j]), -row[j] if row[j] == row[j] else 0, j))
        assert got == expected
    assert offsets[-1] == anchors.size == res.num_kept.sum()


def test_indices_follow_rank_by():
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0, rank_by=-LOSS)
    offsets, anchors = res.indices()
    ranks = LOSS[0, anchors[: offsets[1]]]
    assert (np.diff(ranks) >= 0).all()


def test_indices_do_not_change_when_the_caller_reuses_the_array():
    conf_loss = LOSS.copy()
    res = sm.mine_hard_negatives(conf_loss, CLASSES, background=0)
    before = res.indices()[1].copy()
    conf_loss[...] = 0
    np.testing.assert_array_equal(res.indices()[1], before)


def test_relabelled_labels_mine_to_the_same_loss_with_every_negative_kept():
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    labels = res.relabel(CLASSES, ignore_index=-1)
    again = sm.mine_hard_negatives(LOSS, labels, background=0, ignore_index=-1, neg_pos_ratio=1e9)
    has_pos = res.num_pos > 0
    np.testing.assert_array_equal(again.hard_negative_mask[has_pos], res.hard_negative_mask[has_pos])
    np.testing.assert_array_equal(again.num_neg, res.num_kept)
    assert labels.dtype == CLASSES.dtype
    assert (labels == -1).sum() == LOSS.size - res.num_pos.sum() - res.num_kept.sum()


def test_results_are_frozen_and_their_columns_have_one_length():
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    out = sm.confidence_loss(LOSS, CLASSES, background=0)
    with pytest.raises(FrozenInstanceError):
        out.loss = 1.0
    with pytest.raises(FrozenInstanceError):
        res.num_pos = None
    for columns in (res.to_dict(), out.to_dict()):
        assert {column.shape for column in columns.values()} == {(5,)}


def test_the_mask_alone_is_the_mask_of_the_result():
    got = sm.hard_negative_mask(LOSS, CLASSES, background=0)
    np.testing.assert_array_equal(got, sm.mine_hard_negatives(LOSS, CLASSES, background=0).hard_negative_mask)


def test_the_quota_alone_is_the_quota_of_the_kernel():
    for keywords in ({}, {"neg_pos_ratio": 0.7}, {"min_negatives": 9, "max_negatives": 12}):
        res = sm.mine_hard_negatives(LOSS, CLASSES, background=0, **keywords)
        np.testing.assert_array_equal(sm.negative_quota(res.num_pos, res.num_neg, **keywords), res.num_kept)


def test_no_mask_is_built_for_the_loss(monkeypatch):
    asked = []
    import ssd_mining.engine.run as backends

    empty_mined = backends.empty_mined

    def spy(num_samples, num_masked):
        asked.append(num_masked)
        return empty_mined(num_samples, num_masked)

    monkeypatch.setattr(backends, "empty_mined", spy)
    sm.confidence_loss(LOSS, CLASSES, background=0)
    sm.hard_negative_mask(LOSS, CLASSES, background=0)
    assert asked == [0, LOSS.size]


def expected_loss(normalize):
    out = sm.confidence_loss(LOSS, CLASSES, background=0)
    total, pos, kept = out.confidence_loss, out.num_pos, out.num_kept
    return {
        "none": total.sum(),
        "batch": total.sum() / 5,
        "anchors": total.sum() / 400,
        "positives": total.sum() / pos.sum(),
        "sample_positives": np.mean(total / pos),
        "clamped_sample_positives": total.sum() / np.maximum(pos, 1).sum(),
        "selected": total.sum() / (pos + kept).sum(),
        "sample_selected": np.mean(total / (pos + kept)),
    }[normalize]


@pytest.mark.parametrize(
    "normalize",
    [
        "none",
        "batch",
        "anchors",
        "positives",
        "sample_positives",
        "clamped_sample_positives",
        "selected",
        "sample_selected",
    ],
)
def test_the_loss_is_divided_as_asked(normalize):
    assert (CLASSES > 0).any(axis=1).all()
    got = sm.confidence_loss(LOSS, CLASSES, background=0, normalize=normalize).loss
    assert got == pytest.approx(expected_loss(normalize), rel=1e-12)


@pytest.mark.parametrize(("rule", "expected"), [("clamp", 3.0), ("zero", 0.0), ("nan", np.nan)])
@pytest.mark.parametrize("normalize", ["positives", "sample_positives"])
def test_without_positives_the_rule_decides(normalize, rule, expected):
    out = sm.confidence_loss(
        [[1.0, 3.0]], [[0, 0]], background=0, min_negatives=1, normalize=normalize, zero_positives=rule
    )
    np.testing.assert_equal(out.loss, expected)


def test_a_spec_and_its_fields_as_keywords_mean_the_same():
    mining = sm.Mining(background=0, neg_pos_ratio=2, min_negatives=1)
    got = sm.confidence_loss(LOSS, CLASSES, mining=mining)
    assert got.loss == sm.confidence_loss(LOSS, CLASSES, background=0, neg_pos_ratio=2, min_negatives=1).loss
    assert mining == sm.Mining(background=0, neg_pos_ratio=2, min_negatives=1)
    assert pickle.loads(pickle.dumps(mining)) == mining  # noqa: S301 - our own bytes
    assert hash(mining) == hash(sm.Mining(background=0, neg_pos_ratio=2, min_negatives=1))
    with pytest.raises(FrozenInstanceError):
        mining.background = 1


def test_the_selection_keywords_are_the_fields_of_the_spec():
    assert list(Selection.__annotations__) == [field.name for field in fields(sm.Mining)]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", ">i4", "i8", "u8"])
def test_quotas_of_every_integer_type_are_taken(dtype):
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0, num_negatives=np.full(5, 2, dtype))
    assert res.num_kept.tolist() == [2] * 5


def test_counts_beyond_int64_saturate():
    assert sm.negative_quota(np.uint64(2**63), 5) == 5
    assert sm.negative_quota(np.uint64(2**64 - 1), np.uint64(2**64 - 1)) == 2**63 - 1


@pytest.mark.parametrize("ignore_index", [1.5, True, "x", None])
def test_relabelling_wants_a_whole_number(ignore_index):
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    with pytest.raises(TypeError, match="ignore_index: expected a whole number, got"):
        res.relabel(CLASSES, ignore_index=ignore_index)


@pytest.mark.parametrize("ignore_index", [0, 2])
def test_relabelling_refuses_a_label_that_is_in_use(ignore_index):
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    with pytest.raises(ValueError, match=f"a label that no selected anchor has, got {ignore_index}"):
        res.relabel(CLASSES, ignore_index=ignore_index)


@pytest.mark.framework("torch")
def test_labels_that_are_a_tensor_are_relabelled_as_one():
    import torch

    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    got = res.relabel(torch.tensor(CLASSES, dtype=torch.int32))
    assert got.dtype == torch.int32
    np.testing.assert_array_equal(got, res.relabel(CLASSES))


def test_relabelled_labels_keep_their_byte_order():
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    labels = CLASSES.astype(">i4")
    got = res.relabel(labels)
    assert got.dtype == labels.dtype
    np.testing.assert_array_equal(got, res.relabel(CLASSES))


@pytest.mark.parametrize("zero_positives", ["clamp", "zero", "nan", "raise"])
@pytest.mark.parametrize("normalize", get_args(Normalize))
def test_an_empty_batch_has_the_loss_0(normalize, zero_positives):
    empty = np.zeros((0, 5))
    out = sm.confidence_loss(empty, empty > 0, normalize=normalize, zero_positives=zero_positives, num_negatives=[])
    assert (out.loss, out.confidence_loss.shape) == (0.0, (0,))


def test_a_divisor_of_0_names_the_sample():
    with pytest.raises(ValueError, match="normalize='sample_positives', got none in sample 1"):
        sm.confidence_loss(
            [[1.0], [1.0]], [[1], [0]], background=0, normalize="sample_positives", zero_positives="raise"
        )


def test_quotas_saturate_and_may_be_empty():
    out = sm.confidence_loss(LOSS, CLASSES, background=0, num_negatives=2**70)
    np.testing.assert_array_equal(out.num_kept, out.num_neg)
    assert sm.negative_quota([], []).shape == (0,)
    np.testing.assert_array_equal(sm.negative_quota([0, 0], [50, 9], min_negatives=0.1), [5, 0])


def test_the_indices_of_a_ragged_batch_count_from_each_sample():
    conf_loss, labels, offsets = [5.0, 1, 3, 2, 7, 9], [1, 0, 0, 0, 1, 0], [0, 3, 3, 6]
    res = sm.mine_hard_negatives(conf_loss, labels, background=0, sample_offsets=offsets)
    starts, anchors = res.indices()
    assert (starts.tolist(), anchors.tolist()) == ([0, 2, 2, 4], [2, 1, 2, 0])
    assert res.relabel(labels, ignore_index=-1).tolist() == labels
    assert (res.hard_negative_mask.shape, res.num_pos.tolist()) == ((6,), [1, 0, 1])
