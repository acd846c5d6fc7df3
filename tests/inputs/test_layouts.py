"""Layouts, byte orders and dtypes of the caller change nothing, and the caller's arrays are never written."""

import functools

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import printed
from tests.support.layouts import CLASSES, LAYOUTS, LOSS, RNG

ONE_HOT = np.eye(4, dtype=np.float32)[CLASSES]


@functools.cache  # computed when it is asked for: nothing is compiled while tests are collected
def expected():
    return sm.mine_hard_negatives(LOSS, CLASSES, background=0)


def memory_mapped(array, folder):
    np.save(folder / "array.npy", array)
    return np.load(folder / "array.npy", mmap_mode="r")


def check(conf_loss, labels, **keywords):
    got = sm.mine_hard_negatives(conf_loss, labels, **keywords)
    np.testing.assert_array_equal(got.hard_negative_mask, expected().hard_negative_mask)
    for name, column in got.to_dict().items():
        np.testing.assert_array_equal(column, expected().to_dict()[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_losses_and_labels_gives_the_same_result(layout):
    change = LAYOUTS[layout]
    check(change(LOSS), CLASSES, background=0)
    check(LOSS, change(CLASSES), background=0)
    check(LOSS, change(CLASSES != 0))
    check(LOSS, change(ONE_HOT), background=0)
    check(change(LOSS), change(CLASSES), background=0, rank_by=change(LOSS), valid=change(CLASSES >= 0))


def test_memory_mapped_files_are_read_in_place(tmp_path):
    for name in ("loss", "classes"):
        (tmp_path / name).mkdir()
    check(memory_mapped(LOSS, tmp_path / "loss"), memory_mapped(CLASSES, tmp_path / "classes"), background=0)


def test_a_broadcast_row_counts_as_its_copies():
    row = np.broadcast_to(LOSS[0], LOSS.shape)
    got = sm.hard_negative_mask(row, CLASSES, background=0)
    np.testing.assert_array_equal(got, sm.hard_negative_mask(row.copy(), CLASSES, background=0))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f8"])
def test_every_float_type_of_losses_gives_the_same_result(dtype):
    check(LOSS.astype(dtype), CLASSES, background=0)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integer_losses_and_labels_of_every_width_work(dtype):
    check(LOSS, CLASSES.astype(dtype), background=0)
    whole = (LOSS * 8).astype(dtype)
    got = sm.mine_hard_negatives(whole, CLASSES, background=0)
    np.testing.assert_array_equal(got.hard_negative_mask, expected().hard_negative_mask)
    np.testing.assert_array_equal(got.negative_sum, expected().negative_sum * 8)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "u8", "f2", "f4", "f8", ">f4"])
def test_one_hot_labels_of_every_type_work(dtype):
    check(LOSS, ONE_HOT.astype(dtype), background=0)
    check(LOSS, np.roll(ONE_HOT, -1, axis=2).astype(dtype))  # background last, the default
    check(LOSS, np.roll(ONE_HOT, -1, axis=2).astype(dtype), background=-1)


def test_soft_scores_are_positive_where_the_background_score_is_zero():
    soft = np.array([[[0.0, 0.25, 0.75], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    res = sm.mine_hard_negatives([[1.0, 2.0, 3.0]], soft, background=0)
    assert res.pos_mask.tolist() == [[True, False, False]]


def test_float64_ranks_keep_their_digits_beside_float32_losses():
    rank_by = 1.0 + np.arange(LOSS.size).reshape(LOSS.shape) * 1e-12
    got = sm.hard_negative_mask(LOSS, CLASSES, background=0, rank_by=rank_by)
    for row, classes in zip(got, CLASSES, strict=True):
        negatives = np.flatnonzero(classes == 0)
        assert np.flatnonzero(row).tolist() == negatives[negatives.size - row.sum() :].tolist()


def test_an_ignore_index_that_the_dtype_cannot_hold_ignores_nothing():
    check(LOSS, CLASSES.astype(np.uint8), background=0, ignore_index=-1)


def test_ignored_labels_and_valid_mean_the_same():
    ignored = RNG.random(LOSS.shape) < 0.3
    labels = np.where(ignored, -1, CLASSES)
    judged = sm.mine_hard_negatives(LOSS, labels, background=0, ignore_index=-1).to_dict()
    for got in (
        sm.mine_hard_negatives(LOSS, CLASSES, background=0, valid=~ignored),
        sm.mine_hard_negatives(LOSS, CLASSES != 0, valid=~ignored),
        sm.mine_hard_negatives(LOSS, ONE_HOT, background=0, valid=~ignored),
        sm.mine_hard_negatives(LOSS, np.where(ignored[..., None], 0, ONE_HOT), background=0, all_zero="ignore"),
        sm.mine_hard_negatives(LOSS, labels, background=0, ignore_index=-1, valid=~ignored),
    ):
        for name, column in got.to_dict().items():
            np.testing.assert_array_equal(column, judged[name], err_msg=name)


@pytest.mark.framework("torch")
def test_torch_tensors_on_the_cpu_are_read_in_place():
    import torch

    from ssd_mining.inputs import arrays as _arrays

    tensor = torch.from_numpy(LOSS.copy())
    assert np.shares_memory(_arrays.as_array("conf_loss", tensor), tensor.numpy())
    check(tensor, torch.from_numpy(CLASSES), background=0)
    with pytest.raises(TypeError, match=r"conf_loss: .* one that requires grad; pass tensor.detach\(\)"):
        sm.confidence_loss(tensor.clone().requires_grad_(), CLASSES, background=0)
    with pytest.raises(TypeError, match=r"conf_loss: .* torch.bfloat16; pass tensor.float\(\)"):
        sm.confidence_loss(tensor.bfloat16(), CLASSES, background=0)


def test_blocks_of_any_size_give_the_same_bits(monkeypatch):
    for elements in (1, 79, 80, 81, 10**9):
        monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
        check(LOSS, CLASSES, background=0)
        check(LOSS, ONE_HOT, background=0, valid=np.ones(LOSS.shape, np.bool_))


def test_any_byte_but_zero_is_true_in_a_mask():
    mask = (CLASSES.astype(np.uint8) * 7).view(np.bool_)
    check(LOSS, mask)
    check(LOSS, mask, valid=np.full(LOSS.shape, 2, np.uint8).view(np.bool_))


SIGNATURES = """
import numpy as np
import ssd_mining as sm
from ssd_mining.kernels.cpu import jit as _jit
from tests.support.layouts import CLASSES, LAYOUTS, LOSS
for repeats in (1, 10):  # rows shorter than a word, and longer
    losses, classes = np.tile(LOSS, repeats), np.tile(CLASSES, repeats)
    for change in LAYOUTS.values():
        for labels in (classes, classes.astype(np.uint8)):
            sm.mine_hard_negatives(change(losses), change(labels), background=0)
    offsets = [0, 9, losses.size]
    sm.mine_hard_negatives(losses.ravel(), classes.ravel(), background=0, sample_offsets=offsets)
print(sum(_jit.counts()))
"""


@pytest.mark.full_size
def test_no_layout_is_compiled_for():
    # Losses are float32 and, of a list, float64; labels have 8 bytes or 1.
    assert printed(SIGNATURES, NUMBA_DISABLE_JIT="0") == ["4"]
