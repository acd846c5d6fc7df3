"""One-hot labels read by a kernel: it says what the checks in NumPy say, and of all other rows nothing."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.inputs import labels as boundary
from ssd_mining.kernels.cpu.one_hot import PIECE, one_hot_roles
from ssd_mining.kernels.records import IGNORED, NEGATIVE, POSITIVE

DTYPES = (np.float32, np.float64, np.float16, np.int8, np.bool_, ">f4", np.uint16, np.int64)


def drawn(num_rows, num_classes, dtype, column, rng):
    """Draw rows of background, of other classes and of zeros, and their roles."""
    classes = np.where(rng.random(num_rows) < rng.choice([0.01, 0.4]), rng.integers(0, num_classes, num_rows), column)
    scores = np.eye(num_classes + 1)[:, :num_classes][np.minimum(classes, num_classes)].astype(dtype)
    empty = rng.random(num_rows) < 0.1 if column < num_classes else classes == num_classes
    scores[empty] = 0
    return scores, np.where(empty, IGNORED, np.where(classes == column, NEGATIVE, POSITIVE)), int(empty.sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [64, 100, pytest.param(PIECE + 7, marks=pytest.mark.full_size)])
def test_rows_of_any_number_have_their_roles(num_rows, dtype):
    rng = np.random.default_rng(0)
    for num_classes in (1, 2, 21, 70):
        for column in {0, num_classes // 2, num_classes - 1, num_classes}:
            scores, expected, num_empty = drawn(num_rows, num_classes, dtype, column, rng)
            before = scores.copy()
            for num_workers in (1, 2):
                roles, found = one_hot_roles(scores, column, IGNORED, num_workers)
                np.testing.assert_array_equal(roles, expected)
                assert found == num_empty
            np.testing.assert_array_equal(scores, before)
    assert roles.dtype == np.uint8


def test_a_short_array_is_read_by_numpy():
    assert one_hot_roles(np.eye(21, dtype=np.float32)[:3], 0, IGNORED, 1) is None
    scores = np.eye(21, dtype=np.float32)
    assert one_hot_roles(scores[:, :9], 0, IGNORED, 1) is None
    raw = np.zeros(scores.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(scores.shape)
    raw[...] = scores
    assert one_hot_roles(raw, 0, IGNORED, 1) is None
    assert one_hot_roles(raw.copy(), 0, IGNORED, 1) is not None


@pytest.mark.parametrize("row", [0, 63, 64, 200, PIECE + 3, PIECE + 75])
@pytest.mark.parametrize("num_classes", [3, pytest.param(80, marks=pytest.mark.full_size)])
def test_any_other_row_is_left_to_numpy(row, num_classes):
    def is_read(cells, column=0):
        scores = np.zeros((PIECE + 76, num_classes), np.float32)
        scores[:, column % num_classes] = column < num_classes
        scores[row] = 0
        for place, value in cells.items():
            scores[row, place] = value
        return one_hot_roles(scores, column, IGNORED, 1) is not None

    assert is_read({0: 1})
    assert is_read({1: 1})
    assert is_read({})
    assert not is_read({0: 1, 1: 1})  # background and a class
    assert not is_read({1: 1, 2: 1})  # two classes
    assert not is_read({1: 1, num_classes - 1: 1, 0: 1})
    assert not is_read({0: 0.5, 1: 0.5})
    for value in (np.nan, -1, 2, -0.0, 1e-45, np.inf):
        assert not is_read({1: value}), value
        assert not is_read({0: 1, num_classes - 1: value}), value
    assert is_read({0: 1, 1: 1}, column=num_classes)  # without a column for background a row may have several
    assert not is_read({0: 1, 1: 0.5}, column=num_classes)


def test_numpy_looks_only_at_what_the_kernel_leaves(monkeypatch):
    scores = np.eye(4, dtype=np.float32)[np.arange(400) % 4].reshape(2, 200, 4)
    conf_loss = np.random.default_rng(0).random((2, 200))
    rules = [{}, {"background": 0}, {"valid": conf_loss < 0.9}, {"overlaps": conf_loss}, {"background": 4}]
    expected = [sm.confidence_loss(conf_loss, scores, backend="reference", **rule) for rule in rules]
    without = scores.copy()
    without[0, 6] = 0
    monkeypatch.delattr(boundary, "check_rows")
    monkeypatch.delattr(boundary, "check_targets")
    for rule, one in zip(rules, expected, strict=True):
        np.testing.assert_allclose(sm.confidence_loss(conf_loss, scores, **rule).per_sample, one.per_sample)
    for all_zero in ("ignore", "negative"):
        res = sm.mine_hard_negatives(conf_loss, without, background=3, all_zero=all_zero)
        assert [res.num_pos[0], res.num_neg[0]] == [149, 50 + (all_zero == "negative")]
    for all_zero in ("positive", "raise"):  # such rows are counted, or refused
        with pytest.raises(NameError, match="check_rows"):
            sm.mine_hard_negatives(conf_loss, without, background=3, all_zero=all_zero)
    with pytest.raises(NameError, match="check_rows"):
        sm.mine_hard_negatives(conf_loss, scores / 2)
