"""The table of bad inputs: each with its exact error."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.refusals import BAD_KEYWORDS, CLASSES, LOSS, pattern

ONE_HOT = np.eye(3)[CLASSES]
BAD = {
    "losses of rank 1": (
        {"conf_loss": [1.0, 2.0]},
        ValueError,
        "conf_loss: expected a (B, A) array, or (N,) with sample_offsets, got shape (2,)",
    ),
    "losses of rank 3": (
        {"conf_loss": ONE_HOT},
        ValueError,
        "conf_loss: expected one loss for each anchor of labels (2, 3), got shape (2, 3, 3); logits are for mine_",
    ),
    "ragged losses": (
        {"conf_loss": [[1.0], [2.0, 3.0]]},
        TypeError,
        "conf_loss: expected an array, got list that NumPy cannot convert",
    ),
    "object losses": (
        {"conf_loss": LOSS.astype(object)},
        TypeError,
        "conf_loss: expected float16, float32, float64 or integer values, got dtype object",
    ),
    "complex losses": ({"conf_loss": LOSS + 1j}, TypeError, "conf_loss: .* got dtype complex128"),
    "string losses": ({"conf_loss": LOSS.astype(str)}, TypeError, "conf_loss: .* got dtype <U32"),
    "bool losses": ({"conf_loss": LOSS > 2}, TypeError, "conf_loss: .* got dtype bool"),
    "long double losses": ({"conf_loss": LOSS.astype(np.longdouble)}, TypeError, "conf_loss: .* got dtype float128"),
    "masked losses": (
        {"conf_loss": np.ma.masked_greater(LOSS, 5)},
        TypeError,
        "conf_loss: expected an array without a mask, got a masked array; pass its .data, and valid=~np.ma.getmask",
    ),
    "masked labels": ({"labels": np.ma.masked_greater(CLASSES, 1)}, TypeError, "labels: .* got a masked array"),
    "None": ({"conf_loss": None}, TypeError, "conf_loss: .* got dtype object"),
    "labels of rank 1": (
        {"labels": CLASSES[0]},
        ValueError,
        "labels: expected a (B, A) or a (B, A, C) array, got shape (3,)",
    ),
    "labels of another shape": (
        {"labels": CLASSES[:, :2]},
        ValueError,
        "labels: expected the shape of conf_loss (2, 3), got shape (2, 2)",
    ),
    "one-hot labels of another shape": (
        {"labels": ONE_HOT[:1], "background": 0},
        ValueError,
        "labels: expected the shape of conf_loss (2, 3) and one axis of classes, got shape (1, 3, 3)",
    ),
    "string labels": (
        {"labels": CLASSES.astype(str)},
        TypeError,
        "labels: expected integer classes, a bool pos_mask or one-hot scores, got dtype <U21",
    ),
    "float classes": (
        {"labels": CLASSES.astype(float)},
        TypeError,
        (
            "labels: expected integer classes or a bool pos_mask of shape (B, A), or one-hot scores of shape (B, A, C), "  # noqa: E501
            "got dtype float64 of shape (2, 3)"
        ),
    ),
    "bool where a class is meant": (
        {"labels": CLASSES > 0},
        TypeError,
        "background: expected None for a pos_mask, got background=0 with bool labels",
    ),
    "an ignore_index with a mask": (
        {"labels": CLASSES > 0, "background": None, "ignore_index": -1},
        TypeError,
        "ignore_index: expected None for a pos_mask",
    ),
    "a background that the labels cannot hold": (
        {"labels": CLASSES.astype(np.uint8), "background": 256},
        ValueError,
        "background: expected a value that labels of dtype uint8 can hold, got 256",
    ),
    "a background beyond the classes": (
        {"labels": ONE_HOT, "background": 4},
        ValueError,
        "background: expected a class of labels, -3 to 2, or 3 without a column for it, got 4",
    ),
    "a label out of range": (
        {"labels": [[1, 0, 0], [0, -1, 2]]},
        ValueError,
        (
            "labels: expected class numbers of at least 0, got -1 at (sample 1, anchor 1); name the label of ignored "
            "anchors in ignore_index"
        ),
    ),
    "a label out of range beside an ignored one": (
        {"labels": [[1, -1, 0], [0, 0, -7]], "ignore_index": -1},
        ValueError,
        "labels: expected class numbers of at least 0 or ignore_index (-1), got -7 at (sample 1, anchor 2)",
    ),
    "a label out of range at a valid anchor": (
        {"labels": [[-3, -2, 0], [0, 0, 1]], "valid": [[False, True, True], [True, True, True]]},
        ValueError,
        "labels: expected class numbers of at least 0, got -2 at (sample 0, anchor 1)",
    ),
    "an ignore_index with one-hot labels": (
        {"labels": ONE_HOT, "ignore_index": 1},
        TypeError,
        'ignore_index: expected None for one-hot labels, got 1 with one-hot labels; use valid=, or all_zero="ignore"',
    ),
    "a row with two ones": (
        {"labels": [[[1, 1], [0, 1], [1, 0]]] * 2},
        ValueError,
        (
            "labels: expected one-hot or soft scores, which are never negative and add up to 1 (or are all zero), got "
            "[1, 1] at (sample 0, anchor 0)"
        ),
    ),
    "a negative score": (
        {"labels": [[[0.5, 0.5], [0, 1], [1, 0]], [[0, 1], [2, -1], [1, 0]]]},
        ValueError,
        "got [ 2., -1.] at (sample 1, anchor 1)",
    ),
    "a NaN score": (
        {"labels": np.where(ONE_HOT == 1, np.nan, 0)},
        ValueError,
        "got [ 0., nan,  0.] at (sample 0, anchor 0)",
    ),
    "logits for one-hot labels": (
        {"labels": ONE_HOT * 7.5 - 2},
        ValueError,
        "labels: expected one-hot or soft scores",
    ),
    "an all-zero row where that is forbidden": (
        {"labels": ONE_HOT * (CLASSES != 2)[..., None], "all_zero": "raise"},
        ValueError,
        "which are never negative and add up to 1, got [0., 0., 0.] at (sample 1, anchor 2)",
    ),
    "no classes": (
        {"labels": np.ones((2, 3, 0))},
        ValueError,
        "labels: expected at least one class, got shape (2, 3, 0)",
    ),
    "offsets of a dense batch": (
        {"sample_offsets": [0, 3, 6]},
        ValueError,
        "conf_loss: expected an (N,) array with sample_offsets, got shape (2, 3)",
    ),
    "offsets that fall": (
        {"conf_loss": [1.0, 2, 3], "labels": [0, 0, 1], "sample_offsets": [0, 2, 1, 3]},
        ValueError,
        "sample_offsets: expected numbers that never fall, from 0 to the 3 of conf_loss, got [0, 2, 1, 3]",
    ),
    "offsets that end too early": (
        {"conf_loss": [1.0, 2, 3], "labels": [0, 0, 1], "sample_offsets": [0, 2]},
        ValueError,
        "sample_offsets: expected numbers that never fall, from 0 to the 3 of conf_loss, got [0, 2]",
    ),
    "offsets that are no numbers": (
        {"conf_loss": [1.0, 2, 3], "labels": [0, 0, 1], "sample_offsets": [0.0, 3.0]},
        TypeError,
        "sample_offsets: expected whole numbers, got dtype float64",
    ),
    "no offsets": (
        {"conf_loss": np.ones(0), "labels": np.zeros(0, int), "sample_offsets": np.zeros(0, int)},
        ValueError,
        "sample_offsets: expected a (B + 1,) array, got shape (0,)",
    ),
    "labels of a ragged batch of another rank": (
        {"conf_loss": [1.0, 2, 3], "labels": [[[0, 0, 1]]], "sample_offsets": [0, 3]},
        ValueError,
        "labels: expected a (N,) or a (N, C) array, got shape (1, 1, 3)",
    ),
    "NaN in a ragged batch": (
        {"conf_loss": [1.0, 2, np.nan], "labels": [0, 0, 1], "sample_offsets": [0, 0, 1, 3]},
        ValueError,
        "conf_loss: expected no NaN .* at (sample 2, anchor 1)",
    ),
    "a bad label in a ragged batch": (
        {"conf_loss": [1.0, 2, 3], "labels": [0, -1, 1], "sample_offsets": [0, 0, 1, 3]},
        ValueError,
        "labels: expected class numbers of at least 0, got -1 at (sample 2, anchor 0)",
    ),
    "a bad row in a ragged batch": (
        {"conf_loss": [1.0, 2], "labels": [[0, 1], [1, 1]], "sample_offsets": [0, 0, 1, 2], "background": None},
        ValueError,
        "labels: expected one-hot .* got [1, 1] at (sample 2, anchor 0)",
    ),
    "one-hot rows too small for float32": (
        {"labels": np.full((2, 3, 2), 1e-50)},
        ValueError,
        "labels: expected one-hot .* at (sample 0, anchor 0)",
    ),
    "NaN": (
        {"conf_loss": np.where(LOSS == 5, np.nan, LOSS)},
        ValueError,
        (
            'conf_loss: expected no NaN (nan_policy="raise"; "omit" and "propagate" allow it), got NaN at '
            "(sample 1, anchor 1)"
        ),
    ),
}
BAD |= BAD_KEYWORDS
FUNCTIONS = [sm.confidence_loss, sm.mine_hard_negatives, sm.hard_negative_mask]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_its_error(case, function):
    changes, error, message = BAD[case]
    call = {"conf_loss": LOSS, "labels": CLASSES, "background": 0} | changes
    if "background" not in changes and np.ndim(call["labels"]) == 3:
        call["background"] = -1
    with pytest.raises(error, match=pattern(message)):
        function(**call)


@pytest.mark.parametrize("case", [c for c in BAD if "backend" not in c])
def test_the_reference_backend_refuses_the_same(case):
    changes, error, message = BAD[case]
    call = {"conf_loss": LOSS, "labels": CLASSES, "background": 0, "backend": "reference"} | changes
    if "background" not in changes and np.ndim(call["labels"]) == 3:
        call["background"] = -1
    with pytest.raises(error, match=pattern(message)):
        sm.confidence_loss(**call)


def test_a_later_block_reports_the_sample_of_the_batch(monkeypatch):
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 6)
    conf_loss = np.ones((7, 3))
    conf_loss[5, 1] = np.nan
    with pytest.raises(ValueError, match=r"\(sample 5, anchor 1\)"):
        sm.confidence_loss(conf_loss, np.zeros((7, 3), np.int64), background=0)
    labels = np.zeros((7, 3), np.int64)
    labels[6, 2] = -1
    with pytest.raises(ValueError, match=r"\(sample 6, anchor 2\)"):
        sm.confidence_loss(np.ones((7, 3)), labels, background=0)
    one_hot = np.ones((7, 3, 2)) * [0, 1]
    one_hot[4, 2] = 1
    with pytest.raises(ValueError, match=r"\(sample 4, anchor 2\)"):
        sm.confidence_loss(np.ones((7, 3)), one_hot)


def test_nothing_is_written_to_the_inputs_of_a_failing_call():
    conf_loss, labels = LOSS.copy(), CLASSES.copy()
    conf_loss[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        sm.mine_hard_negatives(conf_loss, labels, background=0)
    np.testing.assert_array_equal(labels, CLASSES)
    assert np.isnan(conf_loss).sum() == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"normalize": "mean"}, ValueError, "normalize: expected 'none' or 'batch' or 'anchors'"),
        ({"zero_positives": 1}, ValueError, "zero_positives: expected 'clamp' or 'zero' or 'nan' or 'raise', got 1"),
        (
            {"labels": CLASSES * 0, "normalize": "positives", "zero_positives": "raise"},
            ValueError,
            "labels: expected something to divide by for normalize='positives', got none",
        ),
    ],
)
def test_the_loss_refuses_what_it_cannot_divide_by(changes, error, message):
    with pytest.raises(error, match=pattern(message)):
        sm.confidence_loss(**({"conf_loss": LOSS, "labels": CLASSES, "background": 0} | changes))


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (([1.5], [2]), TypeError, "num_pos: expected whole numbers, got dtype float64"),
        (([1], [-2]), ValueError, "num_neg: expected numbers of at least 0, got -2"),
        (([1, 2], [1, 2, 3]), ValueError, "num_pos and num_neg: expected shapes that broadcast, got (2,) and (3,)"),
    ],
)
def test_quotas_of_bad_counts_are_refused(counts, error, message):
    with pytest.raises(error, match=pattern(message)):
        sm.negative_quota(*counts)


@pytest.mark.parametrize(
    ("labels", "ignore_index", "error", "message"),
    [
        (ONE_HOT, -1, TypeError, "labels: expected integer classes, got dtype float64"),
        (CLASSES[:1], -1, ValueError, "labels: expected the shape that was mined (2, 3), got shape (1, 3)"),
        (CLASSES.astype(np.uint8), -1, ValueError, "ignore_index: expected a value that labels of dtype uint8 can"),
    ],
)
def test_relabel_refuses_labels_it_cannot_mark(labels, ignore_index, error, message):
    res = sm.mine_hard_negatives(LOSS, CLASSES, background=0)
    with pytest.raises(error, match=pattern(message)):
        res.relabel(labels, ignore_index=ignore_index)
