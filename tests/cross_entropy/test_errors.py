"""The table of bad logits, targets and settings: each with its exact error."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.refusals import pattern

LOGITS = np.arange(24.0).reshape(2, 3, 4)
CLASSES = np.array([[1, 0, 0], [0, 0, 2]])
ONE_HOT = np.eye(4)[CLASSES]
BAD = {
    "logits of rank 2": (
        {"logits": LOGITS[0]},
        ValueError,
        "logits: expected a (B, A, C) array, got shape (3, 4)",
    ),
    "logits of rank 2, classes second": (
        {"logits": LOGITS[0], "class_axis": 1},
        ValueError,
        "logits: expected a (B, C, A) array, got shape (3, 4)",
    ),
    "integer logits": (
        {"logits": LOGITS.astype(np.int32)},
        TypeError,
        "logits: expected float16, float32 or float64 values, got dtype int32",
    ),
    "long double logits": ({"logits": LOGITS.astype(np.longdouble)}, TypeError, "logits: .* got dtype float128"),
    "masked logits": ({"logits": np.ma.masked_greater(LOGITS, 5)}, TypeError, "logits: .* got a masked array"),
    "no classes": (
        {"logits": LOGITS[..., :0]},
        ValueError,
        "logits: expected at least one class, got shape (2, 3, 0)",
    ),
    "an unknown axis": ({"class_axis": 0}, ValueError, "class_axis: expected -1, 2 or 1, got 0"),
    "a bool axis": ({"class_axis": True}, ValueError, "class_axis: expected -1, 2 or 1, got True"),
    "labels of another shape": (
        {"labels": CLASSES[:, :2]},
        ValueError,
        "labels: expected shape (2, 3) of the anchors of logits, or one-hot scores (2, 3, 4), got shape (2, 2)",
    ),
    "labels of rank 1": ({"labels": CLASSES[0]}, ValueError, "labels: expected shape (2, 3) .* got shape (3,)"),
    "scores of another shape": (
        {"labels": ONE_HOT[..., :3]},
        ValueError,
        "labels: expected the shape of logits (2, 3, 4), classes last, got shape (2, 3, 3)",
    ),
    "float classes": (
        {"labels": CLASSES.astype(float)},
        TypeError,
        "labels: expected integer classes of shape (B, A), or one-hot scores of shape (B, A, C), got dtype float64",
    ),
    "a mask for labels": (
        {"labels": CLASSES > 0},
        TypeError,
        (
            "labels: expected integer classes or one-hot scores, got dtype bool, which does not tell the class of a "
            "positive; pass integer classes"
        ),
    ),
    "string labels": ({"labels": CLASSES.astype(str)}, TypeError, "labels: .* got dtype <U21"),
    "a label beyond the classes": (
        {"labels": [[1, 0, 0], [0, 4, 2]]},
        ValueError,
        (
            "labels: expected class numbers from 0 to 3, got 4 at (sample 1, anchor 1); name the label of ignored "
            "anchors in ignore_index"
        ),
    ),
    "a label below the classes": ({"labels": [[1, 0, -1], [0, 0, 2]]}, ValueError, "got -1 at (sample 0, anchor 2)"),
    "a label beside an ignored one": (
        {"labels": [[1, 0, -1], [0, 9, 2]], "ignore_index": -1},
        ValueError,
        "labels: expected class numbers from 0 to 3 or ignore_index (-1), got 9 at (sample 1, anchor 1)",
    ),
    "a label at a valid anchor": (
        {"labels": [[9, 0, 8], [0, 0, 2]], "valid": [[False, True, True], [True, True, True]]},
        ValueError,
        "got 8 at (sample 0, anchor 2)",
    ),
    "a label beyond 32 bits": ({"labels": CLASSES + 2**32}, ValueError, "got 4294967297 at (sample 0, anchor 0)"),
    "an ignore_index with scores": (
        {"labels": ONE_HOT, "ignore_index": -1},
        TypeError,
        "ignore_index: expected None for one-hot labels, got -1 with one-hot labels; use valid=",
    ),
    "a fractional ignore_index": (
        {"ignore_index": 0.5},
        TypeError,
        "ignore_index: expected a whole number or None, got 0.5",
    ),
    "a bool background": ({"background": False}, TypeError, "background: expected a whole number or None, got False"),
    "a background below the classes": (
        {"background": -5},
        ValueError,
        "background: expected a class of logits, -4 to .* got -5",
    ),
    "an ignored background": (
        {"background": -1, "ignore_index": 3},
        ValueError,
        "ignore_index: expected a label other than background, got 3 for both",
    ),
    "integers for valid": ({"valid": CLASSES}, TypeError, "valid: expected a bool array, .* got dtype int64"),
    "valid of another shape": (
        {"valid": [[True, False]]},
        ValueError,
        "valid: expected the shape of the anchors of logits (2, 3), got shape (1, 2)",
    ),
    "an unknown backend": ({"backend": "gpu"}, ValueError, "backend: expected 'cpu', 'cuda', 'reference' or None"),
    "no threads": (
        {"num_threads": 0},
        ValueError,
        "num_threads: expected a whole number of at least 1 or None, got 0",
    ),
}
SETTINGS = [
    (
        sm.softmax_cross_entropy,
        {"background": 4},
        ValueError,
        "background: expected a class of logits, -4 to 3, got 4",
    ),
    (
        sm.sigmoid_cross_entropy,
        {"background": 5},
        ValueError,
        "background: expected a class of logits, -4 to 4, got 5",
    ),
    (
        sm.softmax_cross_entropy,
        {"class_weights": [1, 2]},
        ValueError,
        "class_weights: expected one weight for each of 4 classes, got 2",
    ),
    (
        sm.softmax_cross_entropy,
        {"class_weights": 2.0},
        TypeError,
        "class_weights: expected one number per class or None, got 2.0",
    ),
    (
        sm.sigmoid_cross_entropy,
        {"class_weights": [1, -2, 0, 0]},
        ValueError,
        "class_weights[1]: expected a number of at least 0, finite, got -2",
    ),
    (
        sm.sigmoid_cross_entropy,
        {"class_weights": [1, 1, 1, float("inf")]},
        ValueError,
        "class_weights[3]: expected a number of at least 0, finite, got inf",
    ),
    (
        sm.softmax_cross_entropy,
        {"class_weights": "1234"},
        TypeError,
        "class_weights[0]: expected a number .* got '1'",
    ),
    (
        sm.softmax_cross_entropy,
        {"label_smoothing": 1.5},
        ValueError,
        "label_smoothing: expected a number from 0 to 1, got 1.5",
    ),
    (sm.softmax_cross_entropy, {"label_smoothing": None}, TypeError, "label_smoothing: .* got None"),
    (sm.softmax_cross_entropy, {"label_smoothing": float("nan")}, ValueError, "label_smoothing: .* got nan"),
    (
        sm.softmax_cross_entropy,
        {"prob_floor": 1},
        ValueError,
        "prob_floor: expected a number of at least 0 and below 1, got 1",
    ),
    (sm.softmax_cross_entropy, {"prob_floor": True}, TypeError, "prob_floor: .* got True"),
    (sm.focal_loss, {"alpha": -0.1}, ValueError, "alpha: expected a number from 0 to 1, or None, got -0.1"),
    (sm.focal_loss, {"gamma": -1}, ValueError, "gamma: expected a number of at least 0, finite, got -1"),
    (sm.focal_loss, {"gamma": "2"}, TypeError, "gamma: .* got '2'"),
    (sm.focal_loss, {"gamma": float("inf")}, ValueError, "gamma: .* got inf"),
]
FUNCTIONS = [sm.softmax_cross_entropy, sm.sigmoid_cross_entropy, sm.focal_loss]
TWO_ONES = ONE_HOT + np.eye(4)[0] * (CLASSES == 2)[..., None]
SCORES = [
    (sm.softmax_cross_entropy, TWO_ONES, "one-hot or soft scores, .* got [1., 0., 1., 0.] at (sample 1, anchor 2)"),
    (sm.softmax_cross_entropy, ONE_HOT * 2 - 0.25, "one-hot or soft scores, .* at (sample 0, anchor 0)"),
    (sm.sigmoid_cross_entropy, ONE_HOT * 2, "a target from 0 to 1 for each class, got .* at (sample 0, anchor 0)"),
    (sm.focal_loss, ONE_HOT - 0.25, "a target from 0 to 1 for each class, got .* at (sample 0, anchor 0)"),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_its_error(case, function, backend):
    changes, error, message = BAD[case]
    call = {"logits": LOGITS, "labels": CLASSES, "backend": backend} | changes
    with pytest.raises(error, match=pattern(message)):
        function(**call)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("function", "labels", "message"), SCORES)
def test_bad_scores_get_their_error(function, labels, message, backend):
    with pytest.raises(ValueError, match=pattern(f"labels: expected {message}")):
        function(LOGITS, labels, backend=backend)


@pytest.mark.parametrize(("function", "changes", "error", "message"), SETTINGS)
def test_bad_settings_get_their_error(function, changes, error, message):
    with pytest.raises(error, match=pattern(message)):
        function(LOGITS, CLASSES, **changes)


def test_a_later_block_reports_the_sample_of_the_batch(monkeypatch):
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 12)
    labels = np.zeros((7, 3), np.int64)
    labels[5, 2] = 4
    with pytest.raises(ValueError, match=r"got 4 at \(sample 5, anchor 2\)"):
        sm.softmax_cross_entropy(np.zeros((7, 3, 4)), labels)
    scores = np.eye(4)[labels % 4]
    scores[6, 1] = 1
    with pytest.raises(ValueError, match=r"at \(sample 6, anchor 1\)"):
        sm.softmax_cross_entropy(np.zeros((7, 3, 4)), scores)


def test_specs_are_values():
    assert sm.Softmax(class_weights=np.ones(3, np.float32)) == sm.Softmax(class_weights=[1, 1, 1])
    assert (
        len({sm.Softmax(class_weights=[1, 2]), sm.Softmax(class_weights=(1.0, 2.0)), sm.Focal(), sm.Sigmoid()}) == 3
    )
    with pytest.raises(AttributeError):
        sm.Focal().gamma = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"loc_pred": np.zeros((3, 4))}, ValueError, "loc_pred: expected a (B, A, 4) array, got shape (3, 4)"),
        ({"loc_pred": np.zeros((2, 3, 0))}, ValueError, "loc_pred: expected a (B, A, 4) array, got shape (2, 3, 0)"),
        (
            {"loc_target": np.zeros((2, 3, 5))},
            ValueError,
            "loc_target: expected the shape of loc_pred (2, 3, 4), got",
        ),
        ({"loc_target": np.zeros((2, 3, 4), complex)}, TypeError, "loc_target: .* got dtype complex128"),
        ({"beta": -1}, ValueError, "beta: expected a finite number of at least 0, got -1"),
        ({"beta": float("nan")}, ValueError, "beta: .* got nan"),
        ({"beta": None}, TypeError, "beta: .* got None"),
    ],
)
def test_bad_locations_get_their_error(changes, error, message):
    with pytest.raises(error, match=pattern(message)):
        sm.smooth_l1(**({"loc_pred": np.zeros((2, 3, 4)), "loc_target": np.zeros((2, 3, 4))} | changes))
