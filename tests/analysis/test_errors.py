"""The table of bad inputs of the analysis: each with its error."""

import numpy as np
import pytest

import ssd_mining as sm

LOSS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
CLASSES = np.array([[1, 0, 0], [0, 0, 2]])
LOGITS = np.zeros((2, 3, 4), np.float32)

SETTINGS = {
    "a ratio below 0": ({"ratios": [1, -1]}, ValueError, "ratios: expected a finite number of at least 0, got -1"),
    "NaN as a ratio": ({"ratios": [np.nan]}, ValueError, "ratios: expected a finite number of at least 0, got nan"),
    "a word as a ratio": ({"ratios": ["x"]}, TypeError, "ratios: expected a number, got 'x'"),
    "words as ratios": ({"ratios": "123"}, TypeError, "ratios: expected a sequence of numbers, got '123'"),
    "one ratio": ({"ratios": 3}, TypeError, "ratios: expected a sequence of numbers, got 3"),
    "a ratio twice": ({"ratios": [3, 3.0]}, ValueError, r"ratios: expected numbers that differ, got \[3, 3.0\]"),
    "an empty level": ({"levels": [3, 0]}, ValueError, "levels: expected a whole number of at least 1, got 0"),
    "half a level": ({"levels": [1.5]}, TypeError, "levels: expected a whole number of at least 1, got 1.5"),
    "top below 0": ({"top": -1}, ValueError, "top: expected a whole number of at least 0, got -1"),
    "half a top": ({"top": 0.5}, TypeError, "top: expected a whole number of at least 0, got 0.5"),
    "a word as a loss": ({"classification": "softmax"}, TypeError, "classification: expected a Softmax, .* got str"),
    "a batch as one": (
        {"scope": "batch"},
        ValueError,
        'scope: expected "sample", for other scopes depend .* got \'batch',
    ),
    "draws": ({"pool_size": 2}, ValueError, "pool_size: expected 1, for draws depend on how .*, got 2"),
    "masks": ({"valid": LOSS > 0}, TypeError, "valid: expected it beside each block, in update, got it here"),
    "ranks": ({"rank_by": LOSS}, TypeError, "rank_by: expected it beside each block, in update, got it here"),
    "an unknown keyword": ({"ratio": 3}, TypeError, "ratio: no such keyword"),
    "both": ({"mining": sm.Mining(background=0)}, TypeError, "mining: expected either mining= or keywords"),
    "no device": ({"backend": "cuda"}, NotImplementedError, "backend: 'cuda' does not do analyses"),
    "no threads": (
        {"num_threads": 0},
        ValueError,
        "num_threads: expected a whole number of at least 1 or None, got 0",
    ),
    "an axis": ({"class_axis": 3}, ValueError, "class_axis: expected -1, 2 or 1, got 3"),
}


@pytest.mark.parametrize(("settings", "error", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_bad_settings_are_refused_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        sm.LossAnalysis(background=0, **settings)


BLOCKS = {
    "losses of rank 1": ({"values": LOSS[0]}, ValueError, r"conf_loss: expected a \(B, A\) array"),
    "other labels": ({"labels": CLASSES[:, :2]}, ValueError, r"labels: expected the shape of conf_loss \(2, 3\)"),
    "a sample twice": (
        {"first_sample": 9},
        ValueError,
        "first_sample: expected samples .* seen before, got sample 10",
    ),
    "a sample below 0": (
        {"first_sample": -1},
        ValueError,
        "first_sample: expected a whole number of at least 0, got -1",
    ),
    "half a sample": ({"first_sample": 0.5}, TypeError, "first_sample: expected a whole number"),
    "too few ids": ({"ids": ["a"]}, ValueError, "ids: expected one for each of 2 samples, got 1"),
    "an id twice": ({"ids": ["a", "a"]}, ValueError, "ids: expected another for every sample, got 'a' twice"),
    "a float as id": ({"ids": [1.5, "a"]}, TypeError, "ids: expected strings or whole numbers, got 1.5 at 0"),
    "a bool as id": (
        {"ids": np.array([True, False])},
        TypeError,
        "ids: expected strings or whole numbers, got True at 0",
    ),
    "one word as ids": ({"ids": "ab"}, TypeError, "ids: expected a sequence of ids, got 'ab'"),
    "a number as ids": ({"ids": 7}, TypeError, "ids: expected a sequence of ids, got 7"),
    "levels of another A": (
        {"levels": [2, 2]},
        ValueError,
        r"levels: .* add up to the 3 anchors, got \[2, 2\], which ma",
    ),
    "levels of ragged samples": (
        {"levels": [3], "values": LOSS[0], "labels": CLASSES[0], "sample_offsets": [0, 1, 3]},
        TypeError,
        "sample_offsets: expected none beside levels, which every sample must have alike, got both",
    ),
    "quotas beside ratios": (
        {"num_negatives": 1},
        ValueError,
        "num_negatives: expected none beside ratios, .* got both",
    ),
    "another form of labels": (
        {"labels": CLASSES > 0, "background": None},
        ValueError,
        "labels: expected classes, as in the blocks before, got a pos_mask",
    ),
    "NaN": ({"values": LOSS * np.nan}, ValueError, r"conf_loss: .*got NaN at \(sample 0, anchor 0\)"),
    "a rule beside a block": ({"neg_pos_ratio": 1}, TypeError, "mining: expected either mining= or keywords"),
    "losses as logits": ({"classification": sm.Softmax()}, ValueError, r"logits: expected a \(B, A, C\) array"),
}


@pytest.mark.parametrize(("block", "error", "message"), BLOCKS.values(), ids=BLOCKS.keys())
def test_bad_blocks_are_refused_and_nothing_of_them_stays(block, error, message):
    chosen = {name: block[name] for name in ("levels", "classification") if name in block}
    rest = {name: value for name, value in block.items() if name not in (*chosen, "background")}
    analysis = sm.LossAnalysis(background=0, **chosen)
    if not chosen:
        analysis.update(LOSS, CLASSES, first_sample=10)
    if "background" in block:
        analysis = sm.LossAnalysis()
        analysis.update(LOSS, np.eye(3)[CLASSES], first_sample=10)
        message = message.replace("classes", "scores")
    before = analysis.to_state()
    with pytest.raises(error, match=message):
        analysis.update(**{"values": LOSS, "labels": CLASSES} | rest)
    assert analysis.to_state() == before


def test_analyses_that_do_not_belong_together_are_not_merged():
    def made(labels=CLASSES, first_sample=0, **settings):
        analysis = sm.LossAnalysis(**({"background": 0} if labels.dtype != bool else {}), **settings)
        analysis.update(LOSS, labels, first_sample=first_sample)
        return analysis

    whole = made()
    before = whole.to_state()
    for other, message in (
        (made(first_sample=1), "other: expected samples that are not in this one, got sample 1 in both"),
        (made(first_sample=5, top=3), "other: expected an analysis with the same settings, top=50, got 3"),
        (made(first_sample=5, ratios=(1,)), r"other: .* ratios=\[1.0, 2.0, 3.0, 5.0, 10.0\], got \[1.0\]"),
        (made(first_sample=5, neg_pos_ratio=1), "other: expected an analysis with the same settings, mining="),
    ):
        with pytest.raises(ValueError, match=message):
            whole.merge(other)
    masks = made(CLASSES > 0)
    scores = sm.LossAnalysis()
    scores.update(LOSS, np.eye(3)[CLASSES], first_sample=5)
    with pytest.raises(ValueError, match="other: expected an analysis of a pos_mask, got one of scores"):
        masks.merge(scores)
    with pytest.raises(TypeError, match="other: expected a LossAnalysis, got dict"):
        whole.merge({})
    with pytest.raises(ValueError, match="other: expected samples that are not in this one, got sample 0 in both"):
        whole.merge(whole)
    assert whole.to_state() == before


@pytest.mark.parametrize("state", [{}, {"schema": 3}, [], None])
def test_a_state_of_another_kind_is_refused(state):
    with pytest.raises(ValueError, match="state: expected what to_state returns, of schema 2, got"):
        sm.LossAnalysis.from_state(state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("summary"),
        lambda s: s["spec"].update(top=-1),
        lambda s: s.update(spec={}),
        lambda s: s["summary"].update(histograms=[]),
        lambda s: s["summary"].update(seen=[1]),
    ],
)
def test_a_damaged_state_is_refused(damage):
    analysis = sm.LossAnalysis(background=0)
    analysis.update(LOSS, CLASSES)
    state = analysis.to_state()
    damage(state)
    with pytest.raises(ValueError, match="state: expected what to_state returns, got a damaged one: "):
        sm.LossAnalysis.from_state(state)


FUNCTIONS = {
    "no ratios": (
        lambda **k: sm.ratio_sweep(LOSS, CLASSES, ratios=[], **k),
        ValueError,
        "ratios: expected at least one",
    ),
    "quotas": (
        lambda **k: sm.ratio_sweep(LOSS, CLASSES, num_negatives=1, **k),
        ValueError,
        "num_negatives: expected none",
    ),
    "a pool": (
        lambda **k: sm.ratio_sweep(LOSS, CLASSES, pool_size=2, **k),
        ValueError,
        "pool_size: expected 1, for draws",
    ),
    "a divisor": (lambda **k: sm.ratio_sweep(LOSS, CLASSES, normalize="x", **k), ValueError, "normalize: expected"),
    "zeros": (
        lambda **k: sm.ratio_sweep(LOSS, CLASSES, zero_positives="x", **k),
        ValueError,
        "zero_positives: expected",
    ),
    "k": (
        lambda **k: sm.top_losses(LOSS, CLASSES, -1, **k),
        ValueError,
        "k: expected a whole number of at least 0, got",
    ),
    "by": (
        lambda **k: sm.top_losses(LOSS, CLASSES, 1, by="x", **k),
        ValueError,
        "by: expected 'sample' or 'unrecognised' or 'false_alarm' or 'misplaced' or 'anchor', got 'x'",
    ),
    "levels": (
        lambda **k: sm.level_table(LOSS, CLASSES, [1], **k),
        ValueError,
        "levels: expected sizes that add up to the 3",
    ),
    "class masks": (
        lambda **_: sm.class_table(LOSS, CLASSES > 0),
        TypeError,
        "labels: .* got a pos_mask, which tells no",
    ),
    "a loss of losses": (
        lambda **k: sm.class_table(LOSS, CLASSES, classification=sm.Softmax(), **k),
        TypeError,
        "classification: expected None beside losses, got Softmax",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_bad_arguments_of_the_functions(call, error, message):
    with pytest.raises(error, match=message):
        call(background=0)


def test_bad_questions_to_a_histogram():
    analysis = sm.LossAnalysis(background=0)
    analysis.update(LOSS, CLASSES)
    histogram = analysis.result().distributions["negatives"]
    with pytest.raises(ValueError, match=r"probability: expected a number from 0 to 1, got 1\.5"):
        histogram.quantile(1.5)
    with pytest.raises(ValueError, match="per_octave: expected a power of two from 1 to 128, got 3"):
        histogram.log_bins(3)


def test_no_data_and_no_positives():
    res = sm.LossAnalysis(background=0, levels=[3]).result()
    assert (res.num_samples, res.loss, res.classes) == (0, 0.0, None)
    assert res.top_samples.sample.size == 0
    assert np.isnan(res.distributions["positives"].quantile(0.5))
    analysis = sm.LossAnalysis(background=0)
    analysis.update(LOSS, CLASSES * 0)
    assert (analysis.result().num_without_pos, analysis.result().loss) == (2, 0.0)


def test_ids_of_every_kind_come_back():
    for ids in (["a", "bc"], [5, 2**70], ["a", 7], np.array([3, 4], np.uint8), np.array(["x", "y"])):
        analysis = sm.LossAnalysis(background=0)
        columns = analysis.update(LOSS, CLASSES, ids=ids)
        assert columns["id"].tolist() == list(ids)
        assert sorted(analysis.result().top_samples.id.tolist(), key=str) == sorted(np.asarray(ids, object), key=str)
