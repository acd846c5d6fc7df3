"""Bad ragged batches of logits: each with its exact error."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.refusals import CLASSES, LOGITS, pattern

FUNCTIONS = [sm.multibox_loss, sm.mine_logits]


RAGGED = {
    "three axes": (
        {"logits": LOGITS},
        ValueError,
        "logits: expected an (N, C) array of at least one class with sample_offsets, got shape (2, 3, 4)",
    ),
    "no classes": ({"logits": np.zeros((6, 0))}, ValueError, "logits: .* at least one class .* got shape (6, 0)"),
    "labels for fewer": (
        {"labels": [0] * 5},
        ValueError,
        "labels: expected shape (6,) of the anchors of logits, or one-hot scores (6, 4), got shape (5,)",
    ),
    "labels of a dense batch": ({"labels": CLASSES}, ValueError, "labels: expected shape (6,) .* got shape (2, 3)"),
    "scores of fewer classes": (
        {"labels": np.eye(3)[CLASSES.reshape(-1)]},
        ValueError,
        "labels: .* or one-hot scores (6, 4), got shape (6, 3)",
    ),
    "float classes": (
        {"labels": np.zeros(6)},
        TypeError,
        (
            "labels: expected integer classes of shape (N,), or one-hot scores of shape (N, C), got dtype float64 of "
            "shape (6,)"
        ),
    ),
    "a mask for labels": ({"labels": np.ones(6, bool)}, TypeError, "labels: .* got dtype bool, which does not tell"),
    "a label out of range": (
        {"labels": [0, 1, 0, 0, 5, 0]},
        ValueError,
        "labels: expected class numbers from 0 to 3, got 5 at (sample 2, anchor 2)",
    ),
    "a label out of range, not the ignored one": (
        {"labels": [0, 1, 0, 0, 5, -3], "ignore_index": 5},
        ValueError,
        "labels: expected class numbers from 0 to 3 or ignore_index (5), got -3 at (sample 3, anchor 0)",
    ),
    "a row that is no score": (
        {"labels": np.where(np.arange(6)[:, None] == 3, 0.75, np.eye(4)[[0] * 6])},
        ValueError,
        "got [0.75, 0.75, 0.75, 0.75] at (sample 2, anchor 1)",
    ),
    "NaN": (
        {"logits": np.where(np.arange(6)[:, None] == 4, np.nan, 0.0) * np.ones(4)},
        ValueError,
        "logits: expected no NaN .* got NaN at (sample 2, anchor 2)",
    ),
    "valid for fewer": (
        {"valid": [True] * 5},
        ValueError,
        "valid: expected the shape of the anchors of logits (6,), got shape (5,)",
    ),
    "weights of a dense batch": (
        {"anchor_weights": np.ones((2, 3))},
        ValueError,
        "anchor_weights: expected the shape of the anchors of logits (6,), got shape (2, 3)",
    ),
    "offsets beyond the end": (
        {"sample_offsets": [0, 2, 7]},
        ValueError,
        "sample_offsets: expected numbers that never fall, from 0 to the 6 of logits, got [0, 2, 7]",
    ),
    "offsets that fall": ({"sample_offsets": [0, 4, 2, 6]}, ValueError, "sample_offsets: .* got [0, 4, 2, 6]"),
    "no offsets": (
        {"sample_offsets": np.empty(0, int)},
        ValueError,
        "sample_offsets: expected a (B + 1,) array, got",
    ),
    "fractions of offsets": (
        {"sample_offsets": [0.0, 6.0]},
        TypeError,
        "sample_offsets: expected whole numbers, got",
    ),
    "classes first": ({"class_axis": 1}, ValueError, "class_axis: expected -1 with sample_offsets, got 1"),
    "an unknown axis": ({"class_axis": 3}, ValueError, "class_axis: expected -1, 2 or 1, got 3"),
    "a quota for each of two": (
        {"num_negatives": [1, 2]},
        ValueError,
        "num_negatives: expected one number, or one per sample (4,), got shape (2,)",
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", RAGGED)
def test_bad_ragged_batches_get_their_error(case, function):
    changes, error, message = RAGGED[case]
    call = {
        "logits": LOGITS.reshape(6, 4),
        "labels": CLASSES.reshape(-1),
        "sample_offsets": [0, 2, 2, 5, 6],
    } | changes
    with pytest.raises(error, match=pattern(message)):
        function(**call, background=0)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ((5, 4), (5, 4), "loc_pred: expected one box for each of the anchors (6,), got shape (5, 4)"),
        ((2, 3, 4), (2, 3, 4), "loc_pred: expected one box for each of the anchors (6,), got shape (2, 3, 4)"),
        ((6, 4), (6, 5), "loc_target: expected the shape of loc_pred (6, 4), got shape (6, 5)"),
        ((6, 0), (6, 0), "loc_pred: expected one box for each of the anchors (6,), got shape (6, 0)"),
    ],
)
def test_boxes_of_another_shape_than_a_ragged_batch_are_refused(pred, target, message):
    ragged = LOGITS.reshape(6, 4), CLASSES.reshape(-1), np.zeros(pred), np.zeros(target)
    with pytest.raises(ValueError, match=pattern(message)):
        sm.multibox_loss(*ragged, background=0, sample_offsets=[0, 2, 6])
