"""Bad calls of `ohem`: each with its exact error."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.refusals import CLASSES, LOC, NAN, pattern

OHEM = {
    "losses of rank 1": ({"loss": [1.0]}, ValueError, "loss: expected a (B, A) array, got shape (1,)"),
    "bool losses": ({"loss": CLASSES > 0}, TypeError, "loss: expected float16, .* or integer values, got dtype bool"),
    "masked losses": ({"loss": np.ma.masked_equal(CLASSES, 1)}, TypeError, "loss: .* got a masked array"),
    "NaN": ({"loss": NAN[..., 1]}, ValueError, "loss: expected no NaN, got NaN at (sample 1, anchor 1)"),
    "no places": ({"num_hard": 0}, ValueError, "num_hard: expected a whole number of at least 1, got 0"),
    "half a place": ({"num_hard": 0.5}, TypeError, "num_hard: expected a whole number of at least 1, got 0.5"),
    "boxes without a threshold": (
        {"boxes": LOC},
        TypeError,
        "iou_threshold: expected a value, for boxes is given, got None",
    ),
    "a threshold without boxes": (
        {"iou_threshold": 0.5},
        TypeError,
        "boxes: expected a value, for iou_threshold is given, got None",
    ),
    "a threshold above 1": (
        {"boxes": LOC, "iou_threshold": 1.5},
        ValueError,
        "iou_threshold: expected a number from 0 to 1, got 1.5",
    ),
    "a threshold below 0": (
        {"boxes": LOC, "iou_threshold": -0.5},
        ValueError,
        "iou_threshold: expected a finite number of at least 0, got -0.5",
    ),
    "a threshold that is no number": (
        {"boxes": LOC, "iou_threshold": "0.5"},
        TypeError,
        "iou_threshold: expected a number, got '0.5'",
    ),
    "boxes of another shape": (
        {"boxes": LOC[..., :2], "iou_threshold": 1},
        ValueError,
        "boxes: expected shape (2, 3, 4), got shape (2, 3, 2)",
    ),
    "complex boxes": ({"boxes": LOC * 1j, "iou_threshold": 1}, TypeError, "boxes: .* got dtype complex128"),
    "a box of NaN": (
        {"boxes": np.where(np.arange(24).reshape(2, 3, 4) == 22, np.nan, 0), "iou_threshold": 1},
        ValueError,
        "boxes: expected corners with x1 <= x2 and y1 <= y2, none beyond 1e+150, got [0.0, 0.0, nan, 0.0] at (s",
    ),
    "an endless box": (
        {"boxes": LOC + np.array([0, 0, np.inf, 0]), "iou_threshold": 1},
        ValueError,
        "boxes: .* got .*inf",
    ),
    "a box too large for its area": (
        {"boxes": LOC + np.array([0, 0, 1e200, 1e200]), "iou_threshold": 1},
        ValueError,
        "boxes: .* none beyond 1e+150, got [0.0, 0.0, 1e+200, 1e+200] at (sample 0, anchor 0)",
    ),
    "a box inside out": (
        {"boxes": LOC + np.array([0, 2, 1, 1]), "iou_threshold": 1},
        ValueError,
        "boxes: expected corners with x1 <= x2 and y1 <= y2, .* got [0.0, 2.0, 1.0, 1.0] at (sample 0, anchor 0)",
    ),
    "a ratio without labels": (
        {"neg_pos_ratio": 3},
        TypeError,
        "labels: expected labels, for neg_pos_ratio is given, got None",
    ),
    "a background without labels": (
        {"background": 0},
        TypeError,
        "labels: expected labels, for background is given, got None",
    ),
    "an ignored label without labels": (
        {"ignore_index": -1},
        TypeError,
        "labels: expected labels, for ignore_index is given, got None",
    ),
    "a minimum without a ratio": (
        {"labels": CLASSES, "background": 0, "min_negatives": 2},
        TypeError,
        "neg_pos_ratio: expected a number, for min_negatives is given, got None",
    ),
    "a negative ratio": (
        {"labels": CLASSES, "background": 0, "neg_pos_ratio": -1},
        ValueError,
        "neg_pos_ratio: expected a finite number of at least 0, got -1",
    ),
    "a negative minimum": ({"min_negatives": -1}, ValueError, "min_negatives: expected a whole number of at least 0"),
    "labels without a background": ({"labels": CLASSES}, ValueError, "background: expected the background class"),
    "a mask with a background": (
        {"labels": CLASSES > 0, "background": 0},
        TypeError,
        "background: expected None for a pos_mask, got background=0 with bool labels",
    ),
    "labels of another shape": (
        {"labels": CLASSES[:1], "background": 0},
        ValueError,
        "labels: expected the shape of loss (2, 3), or that and one axis of classes, got shape (1, 3)",
    ),
    "labels out of range": (
        {"labels": -CLASSES, "background": 0},
        ValueError,
        "labels: expected class numbers of at least 0, got -1 at (sample 0, anchor 0)",
    ),
    "numbers for valid": (
        {"valid": np.ones((2, 3))},
        TypeError,
        "valid: expected a bool array, .* got dtype float64",
    ),
    "valid of another shape": (
        {"valid": [[True]]},
        ValueError,
        "valid: expected the shape of loss (2, 3), got shape (1, 1)",
    ),
    "an unknown backend": ({"backend": "gpu"}, ValueError, "backend: expected 'cpu', 'cuda', 'reference' or None"),
    "an endless loss": (
        {"min_loss": float("inf")},
        ValueError,
        "min_loss: expected a number that is finite, got inf",
    ),
    "a loss that is no number": (
        {"min_loss": "0.5"},
        TypeError,
        "min_loss: expected a number that is finite, got '0.5'",
    ),
    "a loss beside boxes": (
        {"min_loss": 0.5, "boxes": LOC, "iou_threshold": 1},
        TypeError,
        "min_loss: expected None, for boxes is given, got 0.5",
    ),
    "an unknown scope": ({"scope": "image"}, ValueError, "scope: expected 'sample' or 'batch', got 'image'"),
    "boxes of a whole batch": (
        {"scope": "batch", "boxes": LOC, "iou_threshold": 1},
        TypeError,
        "scope: expected \"sample\", for boxes is given, got 'batch'",
    ),
    "a ratio of a whole batch": (
        {"scope": "batch", "labels": CLASSES, "background": 0, "neg_pos_ratio": 1},
        TypeError,
        "scope: expected \"sample\", for neg_pos_ratio is given, got 'batch'",
    ),
    "no threads": (
        {"num_threads": 0},
        ValueError,
        "num_threads: expected a whole number of at least 1 or None, got 0",
    ),
}


@pytest.mark.parametrize("case", OHEM)
def test_ohem_refuses_what_it_cannot_use(case):
    changes, error, message = OHEM[case]
    with pytest.raises(error, match=pattern(message)):
        sm.ohem(**{"loss": CLASSES.astype(float)} | changes)
