"""The laws of `compare_recipes`: matrices, and every hazard when and only when it is there. Recipes as values."""

import copy
import dataclasses
import pickle
import pydoc

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.multibox import NUM_CLASSES, draw

RANGE, INFINITE, EMPTY, EXHAUSTED, TIED, SATURATED = (
    "out of range",
    "the loss is",
    "without positives",
    "every negative of",
    "not kept at a tie that the index decides",
    "of no loss by the usual float32 formula",
)
HAZARDS = (RANGE, INFINITE, EMPTY, EXHAUSTED, TIED, SATURATED)


def compare(call, **keywords):
    return sm.compare_recipes(*call.arrays, **{"background": 0, "recipes": {"one": {}}} | keywords)


def hazards(call, **keywords):
    """Return the hazards of the one recipe that is compared."""
    (found,) = compare(call, **keywords).hazards.values()
    return found


def safe(**keywords):
    """Draw a call without any hazard."""
    return draw(1, num_anchors=40, **keywords)


def test_the_matrices():
    call = draw(2, positives=(3, 0, 2), num_anchors=30)
    found = compare(call, recipes=None)
    assert found.names == tuple(sm.recipes)
    num = len(found.names)
    assert found.overlap.shape == found.loss_difference.shape == (num, num)
    np.testing.assert_array_equal(found.overlap, found.overlap.T)
    np.testing.assert_array_equal(np.diag(found.overlap), 1)
    assert ((found.overlap >= 0) & (found.overlap <= 1)).all()
    np.testing.assert_array_equal(found.loss_difference, -found.loss_difference.T)
    np.testing.assert_array_equal(found.loss_difference, found.loss[None] - found.loss[:, None])
    masks = {}
    for i, name in enumerate(found.names):
        keywords = {**sm.recipes[name], "background": 0, "rng": 0}
        out = sm.multibox_loss(*call.arrays, **keywords)
        np.testing.assert_array_equal(found.loss[i], out.loss)
        np.testing.assert_array_equal(found.num_kept[i], out.num_kept)
        of_mining = {
            k: v for k, v in keywords.items() if k in (*sm.Mining.__dataclass_fields__, "classification", "rng")
        }
        masks[name] = sm.mine_logits(call.logits, call.labels, **of_mining).hard_negative_mask
    for i, one in enumerate(masks.values()):
        for j, two in enumerate(masks.values()):
            assert found.overlap[i, j] == (one & two).sum() / (one | two).sum()


def test_recipes_that_keep_nothing_overlap_wholly():
    found = compare(draw(2, positives=(0, 0)), recipes=["seed", "torchvision", "mmocr"])
    np.testing.assert_array_equal(found.overlap, 1)
    assert found.num_kept.sum() == 0


def test_a_batch_without_hazards_has_none():
    assert hazards(safe()) == ()
    assert str(compare(safe())).splitlines()[-1].endswith("1.000  one")


def told(found, *expected):
    """Say whether these hazards are told, and no others."""
    return [any(hazard in text for text in found) for hazard in HAZARDS] == [h in expected for h in HAZARDS]


def test_labels_out_of_range_are_ignored_and_told():
    call = safe()
    call.labels[0, np.flatnonzero(call.labels[0] == 0)[0]] = NUM_CLASSES
    found = hazards(call)
    assert told(found, RANGE)
    assert found == ("1 label out of range",)
    call.labels[1, np.flatnonzero(call.labels[1] == 0)[:2]] = -1
    assert hazards(call) == ("3 labels out of range",)
    valid = (call.labels >= 0) & (call.labels < NUM_CLASSES)
    expected = sm.multibox_loss(
        call.logits, np.where(valid, call.labels, 0), *call.arrays[2:], background=0, valid=valid
    )
    np.testing.assert_array_equal(compare(call).loss, expected.loss)
    assert hazards(call, valid=valid) == ()
    assert hazards(call, ignore_index=-1) == ("1 label out of range",)
    assert hazards(call, recipes={"one": {"ignore_index": -1}}) == ("1 label out of range",)
    assert (call.labels == -1).sum() == 2  # nothing was written


def test_a_background_of_sigmoids_without_a_column_is_in_range():
    call = safe()
    call.labels = np.where(call.labels == 0, NUM_CLASSES, call.labels)
    assert hazards(call, background=NUM_CLASSES, recipes={"one": {"classification": sm.Sigmoid()}}) == ()


def test_a_loss_that_is_not_finite_is_told():
    empty = draw(3, positives=(0, 0), num_anchors=40)
    assert hazards(empty, recipes=["sgrvinod"]) == ("the loss is nan", "2 samples without positives")
    call = safe()
    call.logits[0, np.flatnonzero(call.labels[0])[0], 0] = np.inf  # of a positive: inf - inf
    assert told(hazards(call, recipes={"one": {"nan_policy": "propagate"}}), INFINITE)
    call.logits[0] = np.clip(call.logits[0], -50, 50)
    positive = np.flatnonzero(call.labels[0])[0]
    call.logits[0, positive, call.labels[0, positive]] = -np.inf
    assert hazards(call) == ("the loss is inf",)
    assert hazards(call, recipes={"one": {"classification": sm.Softmax(prob_floor=1e-7)}}) == ()


def test_samples_without_positives_are_told():
    assert hazards(draw(4, positives=(2, 0, 1), num_anchors=40)) == ("1 sample without positives",)
    assert hazards(draw(4, positives=(0, 0), num_anchors=40)) == ("2 samples without positives",)


def test_samples_all_of_whose_negatives_are_kept_are_told():
    found = hazards(draw(5, positives=(4, 1), num_anchors=16))  # 12 of 12, 3 of 15
    assert found == ("every negative of 1 sample is kept",)
    assert hazards(draw(5, positives=(3, 1), num_anchors=13)) == ()  # 9 of 10
    assert hazards(draw(5, positives=(4, 4), num_anchors=16)) == ("every negative of 2 samples is kept",)
    assert hazards(draw(5, positives=(6, 1), num_anchors=6)) == ()  # 0 of 0, 3 of 5
    all_of_the_empty = {"one": {"min_negatives": 9, "min_negatives_when": "no_positives"}}
    assert told(hazards(draw(5, positives=(0, 1), num_anchors=9), recipes=all_of_the_empty), EMPTY)


def tied():
    """Draw a call in which the hardest negative of sample 1 that is not kept ties with the easiest kept one."""
    call = safe()
    losses = np.where(call.labels[1] == 0, sm.softmax_cross_entropy(call.logits, call.labels)[1], -1)
    quota = 3 * int((call.labels[1] > 0).sum())
    last, next_one = np.argsort(-losses)[quota - 1 : quota + 1]
    call.logits[1, next_one] = call.logits[1, last]
    return call


def test_ties_at_the_cut_that_the_index_decides_are_told():
    assert hazards(tied()) == ("1 negative not kept at a tie that the index decides",)
    for policy in ("strict", "all"):  # they do what they do with every order of the anchors
        assert hazards(tied(), recipes={"one": {"tie_policy": policy}}) == ()
    assert hazards(tied(), recipes={"one": {"pool_size": 2.0}}) == ()
    equal = safe()
    equal.logits[:] = 0
    assert told(hazards(equal), TIED)
    assert hazards(equal, neg_pos_ratio=1000) == ("every negative of 3 samples is kept",)


def test_kept_negatives_that_single_precision_takes_for_0_are_told():
    call = safe()
    call.logits[call.labels == 0] += [30, 0, 0, 0]
    found = hazards(call)
    assert found == ("18 kept negatives of no loss by the usual float32 formula",)
    assert compare(call).num_kept.sum() == 18
    for classification in (None, sm.Softmax(prob_floor=1e-7)):
        assert told(hazards(call, recipes={"one": {"classification": classification}}), SATURATED)
    assert not any(SATURATED in text for text in hazards(call, recipes={"one": {"classification": sm.Focal()}}))
    limit = np.full((1, 3, 2), 0.0)
    labels = np.array([[1, 0, 0]])
    for logit, is_told in ((16.0, False), (17.5, True)):  # 1.1e-7 and 2.5e-8 nats
        limit[0, 1] = [logit, 0]
        found = sm.compare_recipes(limit, labels, background=0, recipes={"one": {"neg_pos_ratio": 2}})
        assert (SATURATED in " ".join(found.hazards["one"])) == is_told


def test_every_hazard_may_stand_beside_the_others():
    call = draw(6, positives=(2, 0, 1), num_anchors=6)
    call.logits[:] = 0
    call.logits[call.labels == 0] += [30, 0, 0, 0]
    call.labels[1, 0] = 9
    found = compare(call, recipes={"one": {"normalize": "sample_positives", "zero_positives": "nan"}})
    assert told(found.hazards["one"], *HAZARDS)
    assert found.to_dict()["hazards"][0].count(";") == len(HAZARDS) - 1


def test_every_recipe_draws_the_same_and_the_generator_is_left_alone():
    call = draw(7, num_anchors=40)
    drawing = {name: {"pool_size": 5.0, "normalize": name} for name in ("none", "batch", "anchors")}
    for rng in (None, 3, np.random.default_rng(3)):
        found = compare(call, recipes=drawing, rng=rng)
        np.testing.assert_array_equal(found.overlap, 1)
        np.testing.assert_allclose(found.loss[0] / found.loss[1:], [3, 120], rtol=1e-12)
    fresh = np.random.default_rng(3)
    assert rng.bit_generator.state == fresh.bit_generator.state
    expected = sm.multibox_loss(*call.arrays, background=0, pool_size=5.0, rng=fresh, normalize="none").loss
    assert found.loss[0] == expected
    default = compare(call, recipes=drawing)
    assert (
        default.loss[0] == sm.multibox_loss(*call.arrays, background=0, pool_size=5.0, rng=0, normalize="none").loss
    )


def test_classes_may_stand_on_the_second_axis():
    call = draw(8, num_anchors=20)
    expected = compare(call, recipes=None)
    call.logits = call.logits.transpose(0, 2, 1)
    got = compare(call, recipes=None, class_axis=1)
    np.testing.assert_array_equal(got.loss, expected.loss)
    assert got.hazards == expected.hazards


def test_recipes_are_chosen_by_name_by_mapping_or_all():
    call = draw(9)
    assert compare(call, recipes="seed").names == ("seed",)
    assert compare(call, recipes=("caffe", "seed")).names == ("caffe", "seed")
    assert compare(call, recipes=iter(["caffe"])).names == ("caffe",)
    mine = compare(call, recipes={"mine": {**sm.recipes["seed"], "neg_pos_ratio": 1}, "seed": sm.recipes["seed"]})
    assert mine.num_kept.sum(axis=1).tolist() == [6, 18]
    assert compare(call, recipes=["seed"], neg_pos_ratio=1).loss == mine.loss[0]  # for every recipe


def test_the_table_and_the_columns_can_be_read():
    found = compare(draw(10, positives=(2, 0), num_anchors=20), recipes=["seed", "tf_object_detection"])
    header, *rows, common = str(found).splitlines()
    assert header.split("  ")[-2:] == ["overlap with seed", "recipes"]
    assert [row.split()[3] for row in rows] == ["seed", "tf_object_detection"]
    assert rows[0].split()[1:3] == ["6", "1.000"]
    assert rows[0].index("6  ") == rows[1].index("6  ")
    assert common == "in all of them: 1 sample without positives"
    assert {name: len(column) for name, column in found.to_dict().items()} == {
        "recipe": 2,
        "loss": 2,
        "num_kept": 2,
        "hazards": 2,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.loss = None  # type: ignore[misc]


def test_nothing_is_written_and_labels_of_every_type_will_do():
    call = draw(11)
    expected = compare(call).loss
    before = [array.copy() for array in call.arrays]
    for array in call.arrays:
        array.flags.writeable = False
    for dtype in ("uint8", "int16", ">i8"):
        call.labels = call.labels.astype(dtype)
        assert compare(call).loss == expected
    for ours, theirs in zip(before, call.arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", sm.recipes)
def test_a_recipe_is_a_frozen_mapping_that_can_be_copied_and_pickled(name):
    recipe = sm.recipes[name]
    for same in (copy.copy(recipe), copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):  # noqa: S301 - ours
        assert type(same) is sm.Recipe
        assert same == recipe
        assert dict(same) == {**recipe}
        assert (same.name, same.system, same.quirks) == (recipe.name, recipe.system, recipe.quirks)
        assert same.__doc__ == recipe.__doc__
    for attribute in ("name", "system", "quirks", "_keywords", "anything"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{attribute}'"):
            setattr(recipe, attribute, "x")
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'name'"):
        del recipe.name
    with pytest.raises(TypeError, match="does not support item assignment"):
        recipe["background"] = 1  # type: ignore[index]
    with pytest.raises(TypeError, match="does not support item assignment"):
        sm.recipes[name] = recipe  # type: ignore[index]
    assert len(recipe) == len(dict(recipe)) == len(list(recipe))
    assert {**recipe, "neg_pos_ratio": 1}["neg_pos_ratio"] == 1


@pytest.mark.parametrize("name", sm.recipes)
def test_a_recipe_can_be_read(name):
    recipe = sm.recipes[name]
    text = repr(recipe)
    assert text.startswith(f"<recipe {name}: ")
    assert all(f"{keyword}={value!r}" in text for keyword, value in recipe.items())
    page = pydoc.render_doc(recipe, renderer=pydoc.plaintext)
    assert recipe.system in page
    assert "Not reproduced: " in page
    assert (recipe.quirks or "nothing is known.") in page
