"""Every recipe reproduces its system: 26 batches of each of the nine kinds, 234 a recipe."""

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import examples
from tests.support.systems.cases import CASES, SAMPLERS, selection
from tests.support.systems.draws import KINDS, TIED, draw
from tests.support.systems.parts import cross_entropy

pytestmark = pytest.mark.generated
ROUNDS = examples(26)
SUMS_ONLY = ("seed", "ljanyst", "sgrvinod", "db", "mmocr")  # they sort losses, and never know which anchors they kept


def question(name, kind, number):
    """Draw a batch, and ask the oracle; return both with the keywords of the same question to us."""
    case = CASES[name]
    rng = np.random.default_rng([list(KINDS).index(kind), list(CASES).index(name), number])
    batch = draw(kind, rng, last=case.last, num_classes=case.num_classes)
    rule, ours = case.extras(rng, batch)
    arrays = batch.arrays if case.localization else (batch.logits, batch.labels, batch.loc_target, batch.loc_target)
    return batch, arrays, case.rule(*arrays, **rule), {**sm.recipes[name], **ours}


def test_every_system_has_a_recipe_and_every_recipe_an_oracle():
    assert sorted(sm.recipes) == sorted([*CASES, *SAMPLERS])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_the_recipe_gives_the_loss_of_the_system(name, kind):
    for number in range(ROUNDS):
        batch, arrays, theirs, keywords = question(name, kind, number)
        got = sm.multibox_loss(*arrays, **keywords)
        told = f"{name}, {kind}, batch {number}"
        np.testing.assert_allclose(got.conf_loss, theirs.conf_loss, rtol=1e-9, atol=1e-12, err_msg=told)
        np.testing.assert_allclose(got.loss, theirs.loss, rtol=1e-9, atol=1e-12, err_msg=told)
        if keywords.get("loc_weight", 1) == 1:
            np.testing.assert_allclose(got.loc_loss, theirs.loc_loss, rtol=1e-9, atol=1e-12, err_msg=told)
        assert got.num_pos.tolist() == (batch.labels != batch.background).sum(axis=1).tolist(), told
        if name not in SUMS_ONLY and kind not in TIED:
            assert got.num_kept.tolist() == theirs.hard_negatives.sum(axis=1).tolist(), told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in CASES if name not in SUMS_ONLY])
def test_the_recipe_keeps_the_negatives_of_the_system(name, kind):
    for number in range(ROUNDS):
        batch, _, theirs, keywords = question(name, kind, number)
        got = sm.mine_logits(batch.logits, batch.labels, **selection(keywords)).hard_negative_mask
        told = f"{name}, {kind}, batch {number}"
        if kind in TIED:
            losses = cross_entropy(batch.logits, batch.labels) * keywords.get("anchor_weights", 1)
            lost, expected = (np.sort(losses[mask & (losses > 1e-12)]) for mask in (got, theirs.hard_negatives))
            np.testing.assert_allclose(lost, expected, rtol=1e-9, err_msg=told)
        else:
            np.testing.assert_array_equal(got, theirs.hard_negatives, err_msg=told)


def test_one_percent_of_many_anchors_is_rounded_up_for_paddledetection():
    rng = np.random.default_rng(5)
    case = CASES["paddledetection"]
    for num_anchors, kept in ((100, 1), (101, 2), (250, 3), (700, 7)):
        batch = draw("no_positives", rng, last=True, num_anchors=num_anchors)
        batch.labels[0, 9] = 0  # one positive asks for three, not for one percent
        got = sm.multibox_loss(*batch.arrays, **sm.recipes["paddledetection"])
        assert got.num_kept.tolist() == [3, *[kept] * (batch.labels.shape[0] - 1)]
        np.testing.assert_allclose(got.loss, case.rule(*batch.arrays).loss, rtol=1e-9)


@pytest.mark.parametrize("name", ["rykov8", "bubbliiiing"])
def test_a_hundred_negatives_of_a_large_batch_without_positives(name):
    batch = draw("no_positives", np.random.default_rng(6), num_anchors=150)
    theirs = CASES[name].rule(*batch.arrays)
    got = sm.multibox_loss(*batch.arrays, **sm.recipes[name])
    np.testing.assert_allclose(got.loss, theirs.loss, rtol=1e-9)
    assert got.num_kept.tolist() == theirs.hard_negatives.sum(axis=1).tolist()


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
def test_the_four_normalizations_of_caffe(mode):
    ours = {"FULL": "anchors", "VALID": "positives", "BATCH_SIZE": "batch", "NONE": "none"}
    for number in range(20):
        rng = np.random.default_rng(number)
        batch = draw("some_empty", rng)
        overlaps = rng.random(batch.labels.shape)
        theirs = CASES["caffe"].rule(*batch.arrays, overlaps=overlaps, normalization=mode)
        keywords = {**sm.recipes["caffe"], "overlaps": overlaps, "normalize": ours[mode]}
        np.testing.assert_allclose(sm.multibox_loss(*batch.arrays, **keywords).loss, theirs.loss, rtol=1e-9)


def test_the_fallback_of_mmocr_where_the_batch_has_no_positive():
    for number in range(20):
        batch = draw("no_positives", np.random.default_rng(number), num_classes=2)
        arrays = batch.logits, batch.labels, batch.loc_target, batch.loc_target
        theirs = CASES["mmocr"].rule(*arrays, fallback=number)
        least = {"min_negatives": number, "min_negatives_when": "no_positives"}
        got = sm.multibox_loss(*arrays, **{**sm.recipes["mmocr"], **least})
        np.testing.assert_allclose(got.loss, theirs.loss, rtol=1e-9)


def test_a_recipe_cannot_be_written_to():
    with pytest.raises(TypeError, match="does not support item assignment"):
        sm.recipes["torchvision"]["neg_pos_ratio"] = 1
    with pytest.raises(TypeError, match="does not support item assignment"):
        sm.recipes["torchvision"] = {}
