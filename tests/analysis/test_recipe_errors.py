"""Bad calls of `compare_recipes`: each with its exact error."""

import pytest

import ssd_mining as sm
from tests.support.refusals import CLASSES, LOC, LOGITS, ONE_HOT, pattern

COMPARISON = {
    "no such recipe": (
        {"recipes": ["seed", "mine"]},
        ValueError,
        "recipes: expected names of ssd_mining.recipes, got 'mine'",
    ),
    "no such recipe alone": (
        {"recipes": "mine"},
        ValueError,
        "recipes: expected names of ssd_mining.recipes, got 'mine'",
    ),
    "a list of lists": (
        {"recipes": [["seed"]]},
        ValueError,
        "recipes: expected names of ssd_mining.recipes, got ['seed']",
    ),
    "a number of recipes": (
        {"recipes": 5},
        TypeError,
        "recipes: expected names, or a mapping of names to keywords, got 5",
    ),
    "no recipes": ({"recipes": []}, ValueError, "recipes: expected at least one recipe, got none"),
    "a number for keywords": (
        {"recipes": {"mine": 3}},
        TypeError,
        "recipes: expected a mapping of keywords for 'mine', got 3",
    ),
    "a keyword that is none": (
        {"recipes": {"mine": {"ratio": 3}}},
        TypeError,
        "ratio: no such keyword; did you mean neg_pos_ratio",
    ),
    "a keyword for all that is none": ({"with_gradients": True}, TypeError, "with_gradients: no such keyword"),
    "no background": ({"background": None}, TypeError, "background: expected a whole number, got None"),
    "a background beyond the logits": ({"background": 4}, ValueError, "background: expected a class of logits"),
    "one-hot labels": (
        {"labels": ONE_HOT},
        TypeError,
        "labels: expected integer classes of shape (B, A), got dtype float64 of shape (2, 3, 4)",
    ),
    "a mask": (
        {"labels": CLASSES > 0},
        TypeError,
        "labels: expected integer classes of shape (B, A), got dtype bool",
    ),
    "logits of other anchors": (
        {"logits": LOGITS[:, :2]},
        ValueError,
        "logits: expected a (B, A, C) array for labels (2, 3), got shape (2, 2, 4)",
    ),
    "logits of rank 2": ({"logits": LOGITS[0]}, ValueError, "logits: expected a (B, A, C) array .* got shape (3, 4)"),
    "classes in the wrong place": (
        {"class_axis": 1},
        ValueError,
        "logits: expected a (B, C, A) array for labels (2, 3), got shape (2, 3, 4)",
    ),
    "an unknown axis": ({"class_axis": 0}, ValueError, "class_axis: expected -1, 2 or 1, got 0"),
    "integer logits": ({"logits": LOGITS.astype(int)}, TypeError, "logits: expected float16, float32 or float64"),
    "no classes": ({"logits": LOGITS[..., :0]}, ValueError, "logits: expected at least one class"),
    "numbers for valid": ({"valid": CLASSES}, TypeError, "valid: expected a bool array, .* got dtype int64"),
    "valid of another shape": (
        {"valid": [[True]]},
        ValueError,
        "valid: expected the shape of labels (2, 3), got shape (1, 1)",
    ),
    "a fraction to ignore": ({"ignore_index": 0.5}, TypeError, "ignore_index: expected a whole number, got 0.5"),
    "targets alone": (
        {"loc_target": LOC},
        TypeError,
        "loc_pred: expected an array, for loc_target is given, got None",
    ),
}


@pytest.mark.parametrize("case", COMPARISON)
def test_a_comparison_refuses_what_it_cannot_use(case):
    changes, error, message = COMPARISON[case]
    call = {"logits": LOGITS, "labels": CLASSES, "background": 0, "recipes": ["seed"]} | changes
    with pytest.raises(error, match=pattern(message)):
        sm.compare_recipes(**call)
