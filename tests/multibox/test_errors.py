"""Bad calls of the whole loss, of mining logits, of `ohem` and of `compare_recipes`: each with its exact error."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.refusals import BAD_KEYWORDS, CLASSES, LOC, LOGITS, NAN, ONE_HOT, pattern

BAD = {
    "logits of rank 2": ({"logits": LOGITS[0]}, ValueError, "logits: expected a (B, A, C) array, got shape (3, 4)"),
    "integer logits": (
        {"logits": LOGITS.astype(int)},
        TypeError,
        "logits: expected float16, float32 or float64 values, got dtype int64",
    ),
    "masked logits": ({"logits": np.ma.masked_greater(LOGITS, 5)}, TypeError, "logits: .* got a masked array"),
    "masked labels": ({"labels": np.ma.masked_greater(CLASSES, 1)}, TypeError, "labels: .* got a masked array"),
    "no classes": (
        {"logits": LOGITS[..., :0]},
        ValueError,
        "logits: expected at least one class, got shape (2, 3, 0)",
    ),
    "NaN among the logits": (
        {"logits": NAN},
        ValueError,
        'logits: expected no NaN (nan_policy="raise"; "omit" and "propagate" allow it), got NaN at (sample 1, anch',
    ),
    "NaN in a mode of ranks": (
        {"logits": NAN, "rank_by": "foreground_max", "anchor_weights": np.zeros((2, 3))},
        ValueError,
        "logits: expected no NaN .* got NaN at (sample 1, anchor 1)",
    ),
    "NaN in an array of ranks": (
        {"rank_by": NAN[..., 1]},
        ValueError,
        "rank_by: expected no NaN .* got NaN at (sample 1, anchor 1)",
    ),
    "labels of another shape": (
        {"labels": CLASSES[:, :2]},
        ValueError,
        "labels: expected shape (2, 3) of the anchors of logits, or one-hot scores (2, 3, 4), got shape (2, 2)",
    ),
    "scores of another shape": (
        {"labels": ONE_HOT[..., :3]},
        ValueError,
        "labels: expected the shape of logits (2, 3, 4), classes last, got shape (2, 3, 3)",
    ),
    "scores with the classes elsewhere": (
        {"logits": LOGITS.transpose(0, 2, 1), "labels": ONE_HOT, "class_axis": 1},
        ValueError,
        "labels: expected the shape of logits (2, 3, 4), classes last, got shape (2, 4, 3)",
    ),
    "logits passed as scores": (
        {"labels": LOGITS},
        ValueError,
        (
            "labels: expected one-hot or soft scores, which are never negative and add up to 1 (or are all zero), "
            "got [0., 1., 2., 3.] at (sample 0, anchor 0)"
        ),
    ),
    "several classes of one anchor": (
        {"labels": ONE_HOT + np.array([0, 0, 0, 1]), "classification": sm.Sigmoid()},
        ValueError,
        "labels: expected one-hot or soft scores, .* got [0., 1., 0., 1.] at (sample 0, anchor 0)",
    ),
    "an all-zero row": (
        {"labels": ONE_HOT * [[[1], [0], [1]]], "all_zero": "raise"},
        ValueError,
        "labels: expected one-hot or soft scores, .* add up to 1, got [0., 0., 0., 0.] at (sample 0, anchor 1)",
    ),
    "a mask for labels": (
        {"labels": CLASSES > 0, "background": None},
        TypeError,
        (
            "labels: expected integer classes or one-hot scores, got dtype bool, which does not tell the class of a "
            "positive; pass integer classes"
        ),
    ),
    "float classes": (
        {"labels": CLASSES.astype(float)},
        TypeError,
        "labels: expected integer classes of shape (B, A), or one-hot scores of shape (B, A, C), got dtype float64",
    ),
    "string labels": (
        {"labels": CLASSES.astype(str)},
        TypeError,
        "labels: expected integer classes or one-hot scores, got dtype <U21",
    ),
    "a label out of range": (
        {"labels": [[1, 0, 4], [0, 0, 2]]},
        ValueError,
        (
            "labels: expected class numbers from 0 to 3, got 4 at (sample 0, anchor 2); name the label of ignored "
            "anchors in ignore_index"
        ),
    ),
    "a label below 0": (
        {"labels": [[1, 0, 3], [0, 0, -1]]},
        ValueError,
        "labels: expected class numbers from 0 to 3, got -1 at (sample 1, anchor 2); name",
    ),
    "a label out of range beside an ignored one": (
        {"labels": [[9, 0, 3], [0, 7, 2]], "ignore_index": 9},
        ValueError,
        "labels: expected class numbers from 0 to 3 or ignore_index (9), got 7 at (sample 1, anchor 1)",
    ),
    "a label out of range at a valid anchor": (
        {"labels": [[9, 0, 8], [0, 7, 2]], "valid": [[False, True, True], [True, True, True]]},
        ValueError,
        "labels: expected class numbers from 0 to 3, got 8 at (sample 0, anchor 2)",
    ),
    "a label of sigmoids out of range": (
        {"labels": [[1, 4, 4], [4, 4, 5]], "background": 4, "classification": sm.Sigmoid()},
        ValueError,
        "labels: expected class numbers from 0 to 4, got 5 at (sample 1, anchor 2)",
    ),
    "no background": (
        {"background": None},
        ValueError,
        "background: expected the background class, for integer labels",
    ),
    "a background beyond the logits": (
        {"background": 4},
        ValueError,
        "background: expected a class of logits, -4 to 3, got 4",
    ),
    "a background below the logits": (
        {"background": -5},
        ValueError,
        "background: expected a class of logits, -4 to 3, got -5",
    ),
    "a background of sigmoids beyond the columns": (
        {"background": 5, "classification": sm.Focal()},
        ValueError,
        "background: expected a class of logits, -4 to 4, got 5",
    ),
    "a background beyond the columns, with one-hot labels": (
        {"background": 5, "classification": sm.Focal(), "labels": ONE_HOT},
        ValueError,
        "background: expected a class of logits, -4 to 4, got 5",
    ),
    "an ignored background": (
        {"background": -1, "ignore_index": 3},
        ValueError,
        "ignore_index: expected a label other than background, got 3 for both",
    ),
    "an ignore_index with one-hot labels": (
        {"labels": ONE_HOT, "ignore_index": 2},
        TypeError,
        "ignore_index: expected None for one-hot labels, got 2 with one-hot labels; use valid=",
    ),
    "a ranking that sigmoids do not have": (
        {"rank_by": "foreground_sum", "classification": sm.Sigmoid()},
        ValueError,
        (
            "rank_by: expected a mode other than 'foreground_sum', for the probabilities of sigmoids do not add up "
            "to 1, got it with Sigmoid"
        ),
    ),
    "an unknown ranking": ({"rank_by": "p"}, ValueError, "rank_by: expected 'loss' or 'background' or .* got 'p'"),
    "a ranking by two things": (
        {"mining": sm.Mining(background=0, rank_by="background"), "rank_by": np.ones((2, 3)), "background": ...},
        TypeError,
        "rank_by: expected an array or a name, got an array and 'background'",
    ),
    "a name for the loss": (
        {"classification": "softmax"},
        TypeError,
        "classification: expected a Softmax, a Sigmoid, a Focal or None, got str",
    ),
    "a class for the loss": ({"classification": sm.Focal}, TypeError, "classification: expected .* got type"),
    "too few class weights": (
        {"classification": sm.Softmax(class_weights=[1, 2])},
        ValueError,
        "class_weights: expected one weight for each of 4 classes, got 2",
    ),
    "an unknown axis": ({"class_axis": 0}, ValueError, "class_axis: expected -1, 2 or 1, got 0"),
    "a fraction of an axis": ({"class_axis": 1.0}, ValueError, "class_axis: expected -1, 2 or 1, got 1.0"),
    "several axes": (
        {"class_axis": np.array([1, 2])},
        ValueError,
        "class_axis: expected -1, 2 or 1, got array([1, 2])",
    ),
    "a named axis": ({"class_axis": "last"}, ValueError, "class_axis: expected -1, 2 or 1, got 'last'"),
    "weights of another shape": (
        {"anchor_weights": np.ones((2, 4))},
        ValueError,
        "anchor_weights: expected the shape of the anchors of logits (2, 3), got shape (2, 4)",
    ),
    "overlaps of another shape": (
        {"overlaps": np.ones(3)},
        ValueError,
        "overlaps: expected the shape of the anchors of logits (2, 3), got shape (3,)",
    ),
    "ranks of another shape": (
        {"rank_by": np.ones((2, 3, 4))},
        ValueError,
        "rank_by: expected the shape of the anchors of logits (2, 3), got shape (2, 3, 4)",
    ),
    "valid of another shape": (
        {"valid": np.ones((3, 2), bool)},
        ValueError,
        "valid: expected the shape of the anchors of logits (2, 3), got shape (3, 2)",
    ),
    "numbers for valid": (
        {"valid": CLASSES},
        TypeError,
        "valid: expected a bool array, True where the anchor counts, got dtype int64",
    ),
    "offsets with a dense batch": (
        {"sample_offsets": [0, 3, 6]},
        ValueError,
        "logits: expected an (N, C) array of at least one class with sample_offsets, got shape (2, 3, 4)",
    ),
}

FUNCTIONS = [sm.multibox_loss, sm.mine_logits]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_its_error(case, function):
    changes, error, message = BAD[case]
    call = {"logits": LOGITS, "labels": CLASSES, "background": 0} | changes
    call = {name: value for name, value in call.items() if value is not ...}
    for backend in ("cpu", "reference"):
        with pytest.raises(error, match=pattern(message)):
            function(**call, backend=backend)


# What mining refuses of its keywords, these refuse in the same words; -1 is a class and a mode a ranking here.
MEANINGFUL_HERE = ("the last class of integer labels", "a rank that only logits have")
KEYWORDS_ALONE = [case for case in BAD_KEYWORDS if case not in MEANINGFUL_HERE]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", KEYWORDS_ALONE)
def test_keywords_are_refused_as_mining_refuses_them(case, function):
    changes, error, message = BAD_KEYWORDS[case]
    message = message.replace("the shape of conf_loss", "the shape of the anchors of logits")
    with pytest.raises(error, match=pattern(message)):
        function(**{"logits": LOGITS, "labels": CLASSES, "background": 0} | changes)


DIVISORS = "'none' or 'batch' or 'anchors' or 'positives'"
OF_THE_LOSS = {
    "a prediction without a target": (
        {"loc_target": None},
        TypeError,
        "loc_target: expected an array, for loc_pred is given, got None",
    ),
    "a target without a prediction": (
        {"loc_pred": None},
        TypeError,
        "loc_pred: expected an array, for loc_target is given, got None",
    ),
    "boxes for other anchors": (
        {"loc_pred": LOC[:, :2]},
        ValueError,
        "loc_pred: expected one box for each of the anchors (2, 3), got shape (2, 2, 4)",
    ),
    "a number for boxes": ({"loc_pred": 3.0}, ValueError, "loc_pred: expected one box .* (2, 3), got shape ()"),
    "boxes without coordinates": (
        {"loc_pred": LOC[..., :0], "loc_target": LOC[..., :0]},
        ValueError,
        "loc_pred: expected one box for each of the anchors (2, 3), got shape (2, 3, 0)",
    ),
    "targets of other coordinates": (
        {"loc_target": LOC[..., :3]},
        ValueError,
        "loc_target: expected the shape of loc_pred (2, 3, 4), got shape (2, 3, 3)",
    ),
    "masked boxes": ({"loc_pred": np.ma.masked_equal(LOC, 1)}, TypeError, "loc_pred: .* got a masked array"),
    "complex targets": (
        {"loc_target": LOC * 1j},
        TypeError,
        "loc_target: expected float16, float32, float64 or integer values, got dtype complex128",
    ),
    "a negative beta": ({"beta": -1}, ValueError, "beta: expected a finite number of at least 0, got -1"),
    "an endless beta": ({"beta": np.inf}, ValueError, "beta: expected a finite number of at least 0, got inf"),
    "a beta of words, without boxes": (
        {"beta": "x", "loc_pred": None, "loc_target": None},
        TypeError,
        "beta: expected a number, got 'x'",
    ),
    "a negative weight": (
        {"loc_weight": -0.5},
        ValueError,
        "loc_weight: expected a finite number of at least 0, got -0.5",
    ),
    "a weight of NaN": (
        {"loc_weight": np.nan},
        ValueError,
        "loc_weight: expected a finite number of at least 0, got",
    ),
    "a weight for each": ({"loc_weight": [1.0]}, TypeError, "loc_weight: expected a number, got [1.0]"),
    "gradients of another form": (
        {"with_gradients": "dense"},
        ValueError,
        "with_gradients: expected True, False or 'rows', got 'dense'",
    ),
    "an unknown divisor": ({"normalize": "mean"}, ValueError, f"normalize: expected {DIVISORS}"),
    "an unknown divisor of boxes": ({"loc_normalize": "mean"}, ValueError, f"loc_normalize: expected {DIVISORS}"),
    "an empty divisor of boxes": ({"loc_normalize": ""}, ValueError, f"loc_normalize: expected {DIVISORS}"),
    "an unknown rule without positives": (
        {"zero_positives": None},
        ValueError,
        "zero_positives: expected 'clamp' or 'zero' or 'nan' or 'raise', got None",
    ),
    "nothing to divide by": (
        {"labels": CLASSES * 0, "zero_positives": "raise"},
        ValueError,
        "labels: expected something to divide by for normalize='positives', got none",
    ),
    "nothing to divide a sample by": (
        {"labels": CLASSES * [[1], [0]], "zero_positives": "raise", "normalize": "sample_selected"},
        ValueError,
        "labels: expected something to divide by for normalize='sample_selected', got none in sample 1",
    ),
    "nothing to divide the boxes by": (
        {"labels": CLASSES * 0, "zero_positives": "raise", "normalize": "none", "loc_normalize": "positives"},
        ValueError,
        "labels: expected something to divide by for loc_normalize='positives', got none",
    ),
}


@pytest.mark.parametrize("case", OF_THE_LOSS)
def test_the_whole_loss_refuses_what_it_cannot_use(case):
    changes, error, message = OF_THE_LOSS[case]
    call = {"logits": LOGITS, "labels": CLASSES, "loc_pred": LOC, "loc_target": LOC, "background": 0} | changes
    with pytest.raises(error, match=pattern(message)):
        sm.multibox_loss(**call)


def test_boxes_that_are_not_there_need_no_divisor():
    call = {"zero_positives": "raise", "normalize": "none", "loc_normalize": "positives"}
    assert sm.multibox_loss(LOGITS, CLASSES * 0, background=0, **call).loss == 0


def test_a_later_block_reports_the_sample_of_the_batch(monkeypatch):
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 64)
    labels = np.zeros((7, 3), np.int64)
    labels[5, 2] = 4
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=r"got 4 at \(sample 5, anchor 2\)"):
            function(np.zeros((7, 3, 4)), labels, background=0)
        with pytest.raises(ValueError, match=r"got 4 at \(sample 1, anchor 7\)"):
            function(np.zeros((21, 4)), labels.reshape(-1), background=0, sample_offsets=[0, 10, 18, 21])
        logits = np.where(labels[..., None] == 4, np.nan, np.zeros(4))
        with pytest.raises(ValueError, match=r"logits: .* got NaN at \(sample 5, anchor 2\)"):
            function(logits, labels * 0, background=0)


@pytest.mark.framework("torch")
def test_tensors_that_want_gradients_or_have_another_type_are_refused():
    import torch

    wants = torch.tensor(LOGITS, requires_grad=True)
    calls = [
        (lambda: sm.multibox_loss(wants, CLASSES, background=0), "logits"),
        (lambda: sm.mine_logits(wants, CLASSES, background=0), "logits"),
        (lambda: sm.multibox_loss(LOGITS, CLASSES, wants[..., :4], LOC, background=0), "loc_pred"),
        (lambda: sm.compare_recipes(wants, CLASSES, background=0), "logits"),
        (lambda: sm.ohem(wants[..., 0]), "loss"),
    ]
    for call, name in calls:
        with pytest.raises(
            TypeError, match=pattern(f"{name}: expected a tensor without gradient, got one that requires")
        ):
            call()
    with pytest.raises(TypeError, match=r"logits: expected a dtype that NumPy has, got torch.bfloat16"):
        sm.multibox_loss(torch.tensor(LOGITS).bfloat16(), CLASSES, background=0)
    tensors = torch.tensor(LOGITS), torch.tensor(CLASSES), torch.tensor(LOC), torch.tensor(LOC + 1)
    got = sm.multibox_loss(*tensors, background=0).loss
    assert got == sm.multibox_loss(LOGITS, CLASSES, LOC, LOC + 1, background=0).loss
