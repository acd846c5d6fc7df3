"""Which recipes a printed loss is of, and which are equal on a batch."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.multibox import draw


def compared(positives=(2, 1), **keywords):
    arrays = draw(3, positives=positives, num_anchors=40).arrays
    return sm.compare_recipes(*arrays, **{"background": 0} | keywords)


def test_every_recipe_would_print_its_own_loss_with_any_number_of_digits():
    found = compared()
    for name, loss in zip(found.names, found.loss.tolist(), strict=True):
        for printed in (loss, f"{loss:.7g}", f" {loss:.4f}\n", f"{loss:.3e}", np.float32(loss)):
            assert name in found.would_print(printed), (name, printed)


def test_each_digit_counts_and_the_nearest_comes_first():
    losses = {"a": 4.0, "b": 4.04, "c": 4.1}
    recipes = {name: {"normalize": "none"} for name in losses}
    found = compared(recipes=recipes)
    object.__setattr__(found, "loss", np.array(list(losses.values())))
    assert found.would_print("4") == ("a", "b", "c")
    assert found.would_print("4.0") == ("a", "b")
    assert found.would_print(4.1) == ("c",)
    assert found.would_print("4.04") == ("b",)
    assert found.would_print("4.00") == ("a",)
    assert found.would_print("4.045", rtol=2e-3) == ("b",)
    assert found.would_print("4.045") == found.would_print("1e400") == found.would_print("nan") == ()


def test_what_float32_rounds_is_near_enough():
    found = compared(recipes=["torchvision"])
    loss = found.loss[0]
    assert found.would_print(f"{loss * (1 + 5e-6):.12g}") == ("torchvision",)
    assert found.would_print(f"{loss * (1 + 5e-5):.12g}") == ()


def test_nan_is_the_loss_of_those_that_divide_by_no_positives():
    found = compared(positives=(0, 0))
    assert {"amdegroot", "sgrvinod"} <= set(found.would_print("nan")) < set(found.names)
    assert "torchvision" in found.would_print(0.0)


def test_recipes_that_are_equal_on_the_batch_are_a_group():
    found = compared(positives=(2, 2))  # the mean of the samples is that of the batch
    groups = {name: group for group in found.groups for name in group}
    assert sorted(groups) == sorted(found.names)
    assert {"torchvision", "nvidia", "mlperf"} <= set(groups["torchvision"])
    assert "seed" not in groups["torchvision"]
    assert "nvidia" not in {name: g for g in compared(positives=(3, 1)).groups for name in g}["torchvision"]
    for line in str(found).splitlines()[1:]:
        assert line.count(", ") == 0 or line.split("  ")[-1].split(", ") in [list(group) for group in found.groups]


def test_equal_losses_with_other_negatives_are_no_group():
    found = compared(recipes={"a": {}, "b": {}, "c": {"normalize": "none"}})
    assert found.groups == (("a", "b"), ("c",))
    object.__setattr__(found, "overlap", np.full((3, 3), 0.5))
    assert found.groups == (("a",), ("b",), ("c",))


@pytest.mark.parametrize(
    ("loss", "error", "got"), [(None, TypeError, "None"), (True, TypeError, "True"), ("x", ValueError, "'x'")]
)
def test_a_loss_that_is_none_is_refused(loss, error, got):
    with pytest.raises(error, match=f"loss: expected a number, got {got}"):
        compared(recipes=["seed"]).would_print(loss)
