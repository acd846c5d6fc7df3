"""A background that labels no anchor is named, with the number of anchors."""

import warnings

import numpy as np
import pytest

import ssd_mining as sm

LOSS, LABELS = np.random.default_rng(0).random((4, 500)), np.zeros((4, 500), np.uint8)
LABELS[:, ::50] = 3
LOGITS = np.random.default_rng(0).normal(size=(4, 500, 9)).astype(np.float32)
SENTENCE = "background 7 labels none of the 2,000 anchors: all of them are positives"


def one_hot():
    return np.eye(9, dtype=np.float32)[LABELS]


CALLS = {
    "mine_hard_negatives": lambda: sm.mine_hard_negatives(LOSS, LABELS, background=7),
    "hard_negative_mask": lambda: sm.hard_negative_mask(LOSS, LABELS, background=7),
    "confidence_loss": lambda: sm.confidence_loss(LOSS, LABELS, background=7),
    "mine_logits": lambda: sm.mine_logits(LOGITS, LABELS, background=7),
    "multibox_loss": lambda: sm.multibox_loss(LOGITS, LABELS, background=7),
    "scores": lambda: sm.confidence_loss(LOSS, one_hot(), background=7),
    "ratio_sweep": lambda: sm.ratio_sweep(LOSS, LABELS, ratios=[1, 2], background=7),
    "top_losses": lambda: sm.top_losses(LOSS, LABELS, 3, background=7),
    "class_table": lambda: sm.class_table(LOSS, LABELS, background=7),
    "level_table": lambda: sm.level_table(LOSS, LABELS, [400, 100], background=7),
    "compare_recipes": lambda: sm.compare_recipes(LOGITS, LABELS, background=7, recipes=["seed", "caffe"]),
    "ragged": lambda: sm.confidence_loss(LOSS.ravel(), LABELS.ravel(), background=7, sample_offsets=[0, 700, 2000]),
    "one sample": lambda: sm.confidence_loss(LOSS.reshape(1, -1), LABELS.reshape(1, -1), background=7),
    "reference": lambda: sm.confidence_loss(LOSS, LABELS, background=7, backend="reference"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_background_without_an_anchor_is_named_once_at_the_line_of_the_caller(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[name]()
    assert [str(w.message) for w in caught] == [SENTENCE]
    assert (caught[0].category, caught[0].filename) == (sm.HazardWarning, __file__)


def test_an_analysis_is_asked_as_a_whole():
    analysis = sm.LossAnalysis(background=7)
    for sample in range(4):  # without a word
        analysis.update(LOSS[sample : sample + 1], LABELS[sample : sample + 1])
    other = sm.LossAnalysis(background=7)
    other.update(LOSS, LABELS, first_sample=4)
    with pytest.warns(sm.HazardWarning, match="background 7 labels none of the 4,000 anchors") as caught:
        hazards = other.merge(analysis).result().hazards
    assert caught[0].filename == __file__
    assert hazards == ("background 7 labels none of the 4,000 anchors: all of them are positives",)
    other.update(LOSS, LABELS + 7, first_sample=8)
    with pytest.warns(sm.HazardWarning, match="more than half of the anchors, 4,040 of 6,000, are positives"):
        other.result()


@pytest.mark.parametrize(
    "keywords",
    [
        {"ignore_index": 0},
        {"valid": LABELS == 3},
    ],
    ids=["ignore_index", "valid"],
)
def test_ignored_anchors_are_not_counted(keywords):
    analysis = sm.LossAnalysis(background=7, ignore_index=keywords.pop("ignore_index", None))
    analysis.update(LOSS, LABELS, **keywords)
    with pytest.warns(sm.HazardWarning, match="none of the 40 anchors that are not ignored"):
        analysis.result()


QUIET = {
    "a background that labels one anchor": lambda: sm.confidence_loss(LOSS, LABELS, background=3),
    "a pos_mask": lambda: sm.confidence_loss(LOSS, np.ones(LOSS.shape, bool)),
    "a small batch": lambda: sm.confidence_loss(LOSS[:, :249], LABELS[:, :249], background=7),
    "a small sample alone": lambda: sm.top_losses(LOSS[:1], LABELS[:1], 1, background=7),
    "no anchors": lambda: sm.confidence_loss(LOSS[:, :0], LABELS[:, :0], background=7),
    "no samples": lambda: sm.confidence_loss(LOSS[:0], LABELS[:0], background=7),
    "all ignored": lambda: sm.confidence_loss(LOSS, LABELS, background=7, valid=np.zeros(LOSS.shape, bool)),
    "no positives": lambda: sm.confidence_loss(LOSS, 0 * LABELS, background=0),
    "an analysis of nothing": lambda: sm.LossAnalysis(background=7).result(),
}


@pytest.mark.parametrize("name", QUIET)
def test_what_may_be_meant_is_not_named(name):
    QUIET[name]()  # warnings are errors here
