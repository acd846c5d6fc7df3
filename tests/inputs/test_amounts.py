"""Every optional array of a batch is checked: amounts, masks, counts, offsets, draws."""

import numpy as np
import pytest

import ssd_mining as sm

LOSS, LABELS = np.ones((2, 3)), np.array([[1, 0, 0], [0, 1, 0]])
GOOD = np.full((2, 3), 0.25)
LOGITS = np.zeros((2, 3, 4))


def mined(**extras):
    return sm.mine_hard_negatives(LOSS, LABELS, background=0, **extras)


def from_logits(**extras):
    return sm.multibox_loss(LOGITS, LABELS, background=0, **extras)


def of_ragged(**extras):
    flat = {name: np.ravel(value) for name, value in extras.items()}
    return sm.confidence_loss(LOSS.ravel(), LABELS.ravel(), background=0, sample_offsets=[0, 3, 6], **flat)


def by_reference(**extras):
    return sm.confidence_loss(LOSS, LABELS, background=0, backend="reference", **extras)


def analysed(**extras):
    return sm.LossAnalysis(background=0, ratios=()).update(LOSS, LABELS, **extras)


def swept(**extras):
    return sm.ratio_sweep(LOSS, LABELS, ratios=[1], background=0, **extras)


WAYS = [mined, from_logits, of_ragged, by_reference, analysed, swept]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["overlaps", "anchor_weights"])
@pytest.mark.parametrize("bad", [np.nan, -0.5, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_amount_is_finite_and_at_least_0(way, name, bad, dtype):
    array = GOOD.astype(dtype)
    array[1, 2] = bad
    message = rf"{name}: expected finite numbers of at least 0, got {bad} at \(sample 1, anchor 2\)"
    with pytest.raises(sm.InputError, match=message) as error:
        way(**{name: array})
    assert (error.value.sample, error.value.anchor) == (1, 2)
    way(**{name: np.asfortranarray(GOOD.astype(dtype))})
    way(**{name: array, "valid": np.array([[True] * 3, [True, True, False]])})  # it is not read there


@pytest.mark.parametrize("name", ["overlaps", "anchor_weights"])
def test_whole_numbers_and_empty_batches_are_amounts(name):
    mined(**{name: [[0, 1, 2], [0, 0, 0]]})
    with pytest.raises(ValueError, match=rf"{name}: .* got -1 at \(sample 0, anchor 0\)"):
        mined(**{name: -np.ones((2, 3), int)})
    assert (
        sm.confidence_loss(np.empty((0, 3)), np.empty((0, 3), int), background=0, **{name: np.empty((0, 3))}).loss
        == 0
    )


@pytest.mark.parametrize("way", [mined, from_logits, by_reference, swept])
@pytest.mark.parametrize(("bad", "kind"), [(-1, ValueError), (0.5, TypeError), ("x", TypeError), (True, TypeError)])
def test_a_seed_is_a_whole_number_of_at_least_0(way, bad, kind):
    with pytest.raises(kind, match="rng: expected a whole number of at least 0"):
        way(rng=bad)
    way(rng=np.uint8(3))


BAD = {
    "valid of numbers": ({"valid": np.ones((2, 3))}, "valid: expected a bool array"),
    "quotas of NaN": ({"num_negatives": [np.nan, 1]}, "num_negatives: expected whole numbers"),
    "quotas of bools": ({"num_negatives": [True, False]}, "num_negatives: expected whole numbers"),
    "a negative quota": ({"num_negatives": [1, -1]}, "num_negatives: expected numbers of at least 0, got -1"),
    "ranks of bools": ({"rank_by": np.ones((2, 3), bool)}, "rank_by: expected float16"),
    "complex weights": ({"anchor_weights": np.ones((2, 3), complex)}, "anchor_weights: expected float16"),
    "overlaps of words": ({"overlaps": np.full((2, 3), "a")}, "overlaps: expected float16"),
    "masked overlaps": ({"overlaps": np.ma.masked_less(GOOD, 1)}, "overlaps: expected an array without a mask"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", [mined, by_reference, analysed])
def test_the_other_arrays_are_refused_as_well(name, way):
    extras, message = BAD[name]
    with pytest.raises((TypeError, ValueError), match=message):
        way(**extras)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1, 1 + 1j, True, "x"])
def test_a_class_weight_is_finite_and_at_least_0(bad):
    with pytest.raises((TypeError, ValueError), match=r"class_weights\[1\]: expected a number of at least 0, finite"):
        sm.Softmax(class_weights=[1, bad])


@pytest.mark.parametrize("bad", [[[0, 3, 6]], [0, 4, 3, 6], [0, 7], [1, 6], [0.0, 6.0], [0, 2**63]])
def test_offsets_never_fall_and_end_at_the_end(bad):
    with pytest.raises((TypeError, ValueError), match="sample_offsets: expected"):
        sm.confidence_loss(LOSS.ravel(), LABELS.ravel(), background=0, sample_offsets=np.array(bad))
