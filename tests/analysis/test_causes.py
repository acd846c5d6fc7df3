"""The causes of every sample against plain loops over samples, objects and anchors."""

import json
import math

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.boxes import grid_anchors

pytestmark = pytest.mark.filterwarnings("ignore::ssd_mining.HazardWarning")

NUM_CLASSES = 5


def drawn(seed, num_samples=6, *, with_nan=False):
    """Draw logits, what matching says of random boxes, locations and anchors."""
    rng = np.random.default_rng(seed)
    anchors = grid_anchors(rng)
    boxes = [rng.uniform(0, 0.6, (n, 2)) for n in rng.integers(0, 6, num_samples)]
    boxes = [
        np.concatenate([low, low + rng.uniform(0.05, 0.4, low.shape)], axis=1).astype(np.float32) for low in boxes
    ]
    classes = [rng.integers(1, NUM_CLASSES, len(each)) for each in boxes]
    matched = sm.match_anchors(boxes, classes, anchors)
    shape = matched.labels.shape
    logits = rng.normal(0, 2, (*shape, NUM_CLASSES)).astype(np.float32)
    if with_nan:
        logits[0, :3] = np.nan
    return {
        "values": logits,
        "labels": matched.labels,
        "matched": matched.matched,
        "overlaps": matched.overlaps,
        "loc_pred": rng.normal(0, 1, (*shape, 4)).astype(np.float32),
        "loc_target": rng.normal(0, 1, (*shape, 4)).astype(np.float32),
        "anchors": anchors,
    }


def overlap(a, b):
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    common = sides[0] * sides[1]
    return common / (sum(areas) - common)


def probability(scores, kind):
    """Return the foreground class with the largest logit, and its probability, one anchor at a time."""
    label = max(range(1, NUM_CLASSES), key=lambda c: scores[c])
    if isinstance(kind, sm.Softmax):
        return label, 1 / sum(math.exp(float(x) - float(scores[label])) for x in scores)
    return label, 1 / (1 + math.exp(-float(scores[label])))


def by_hand(given, losses, kind):
    """Compute the causes of every sample with loops, as docs/analysis.md defines them."""
    rows = []
    for i, labels in enumerate(given["labels"]):
        objects = {}
        for a in np.flatnonzero(labels > 0):
            objects.setdefault(given["matched"][i, a], []).append(float(losses[i, a]))
        free = [a for a in range(labels.size) if labels[a] == 0 and given["overlaps"][i, a] < 0.1]
        free = sorted(free, key=lambda a: (-losses[i, a], a))[:32]
        chances = {a: probability(given["values"][i, a], kind)[1] for a in free}
        heads = []
        for a in sorted(free, key=lambda a: (-chances[a], a)):
            boxes = given["anchors"]
            if chances[a] >= 0.5 and all(overlap(boxes[a], boxes[b]) <= 0.5 for b in heads):
                heads.append(a)
        distance = np.abs(given["loc_pred"][i].astype(float) - given["loc_target"][i])
        cost = np.where(distance < 1, distance**2 / 2, distance - 0.5).sum(axis=1)[labels > 0].sum()
        rows.append(
            {
                "unrecognised": softened([sum(each) / len(each) for each in objects.values()]),
                "false_alarm": max(chances.values(), default=0.0),
                "num_false_alarms": len(heads),
                "misplaced": cost / max(1, (labels > 0).sum()),
                "heads": heads,
            }
        )
    return rows


def softened(values):
    return math.log(sum(math.exp(4 * value) for value in values) / len(values)) / 4 if values else 0.0


KINDS = {"softmax": (sm.Softmax(), sm.softmax_cross_entropy), "sigmoid": (sm.Sigmoid(), sm.sigmoid_cross_entropy)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_the_causes_are_those_of_the_definitions(kind, seed):
    given, (how, cross_entropy) = drawn(seed), KINDS[kind]
    losses = cross_entropy(given["values"], given["labels"], background=0)
    analysis = sm.LossAnalysis(background=0, classification=how, top=1000, neg_overlap=2)
    columns, expected = analysis.update(**given), by_hand(given, losses, how)
    for name in ("unrecognised", "false_alarm", "num_false_alarms", "misplaced"):
        np.testing.assert_allclose(columns[name], [row[name] for row in expected], rtol=1e-6, err_msg=name)
    res = analysis.result()
    for name, worst in res.causes.items():
        order = np.argsort(-columns[name], kind="stable")
        order = order[columns[name][order] > 0]
        np.testing.assert_array_equal(worst.sample, order)
        for column in ("unrecognised", "false_alarm", "misplaced", "num_pos"):
            np.testing.assert_array_equal(getattr(worst, column), columns[column][order])
    heads = {(i, a) for i, row in enumerate(expected) for a in row["heads"]}
    alarms = res.top_false_alarms
    sure = alarms.probability >= 0.5
    assert {*zip(alarms.sample[sure].tolist(), alarms.anchor[sure].tolist(), strict=True)} == heads
    assert res.num_false_alarms == len(heads)


@pytest.mark.parametrize("has_numbers", [True, False])
def test_a_list_has_one_entry_for_each_object_and_says_what_it_is_taken_for(has_numbers):
    given = drawn(1)
    positive, matched = given["labels"] > 0, given["matched"]
    if not has_numbers:  # every positive is an object
        del given["matched"]
        matched = np.where(positive, np.arange(matched.shape[1]), -1)
    analysis = sm.LossAnalysis(background=0, classification=sm.Softmax(), top=100, neg_overlap=2)
    analysis.update(**given)
    for listed, losses in (
        (analysis.result().top_objects, sm.softmax_cross_entropy(given["values"], given["labels"], background=0)),
        (analysis.result().top_boxes, sm.smooth_l1(given["loc_pred"].astype(float), given["loc_target"])),
    ):
        assert listed.sample.size == sum(np.unique(row[row >= 0]).size for row in matched)
        assert (np.diff(listed.loss) <= 0).all()
        for sample, number, anchor, loss, count, label, taken in zip(
            listed.sample, listed.object, listed.anchor, listed.loss, listed.num_anchors, listed.label,
            listed.taken_for, strict=True,
        ):  # fmt: skip
            own = np.flatnonzero(matched[sample] == (number if has_numbers else anchor))
            assert (number >= 0) == has_numbers
            assert (count, anchor) == (own.size, own[losses[sample, own].argmax()])
            assert loss == pytest.approx(losses[sample, own].mean(dtype=float), rel=1e-12)
            assert label == given["labels"][sample, anchor]
            assert taken == given["values"][sample, anchor].argmax()


def test_confusions_count_positives_and_kept_negatives():
    given = drawn(2)
    analysis = sm.LossAnalysis(background=0, classification=sm.Softmax(), neg_overlap=2)
    analysis.update(**given)
    table = analysis.result().confusions
    mined = sm.mine_logits(given["values"], given["labels"], background=0)
    expected = {}
    for label, scores in zip(given["labels"][mined.pos_mask], given["values"][mined.pos_mask], strict=True):
        expected[label, scores.argmax()] = expected.get((label, scores.argmax()), 0) + 1
    for scores in given["values"][mined.hard_negative_mask]:
        pair = 0, 1 + scores[1:].argmax()
        expected[pair] = expected.get(pair, 0) + 1
    wrong = {pair: count for pair, count in expected.items() if pair[0] != pair[1]}
    assert dict(zip(zip(table.label, table.taken_for, strict=True), table.count, strict=True)) == wrong
    assert (np.diff(table.count) <= 0).all()


def test_an_anchor_that_is_bad_everywhere_is_in_the_lists_once():
    given = drawn(3, num_samples=12)
    given["values"][:, 7, 3] += 15  # it sees class 3 in every image
    given["labels"][:, 7], given["matched"][:, 7], given["overlaps"][:, 7] = 0, -1, 0
    analysis = sm.LossAnalysis(background=0, classification=sm.Softmax(), top=10, neg_overlap=2)
    other = analysis.empty()
    for each, start, stop in ((analysis, 0, 5), (other, 5, 12)):
        part = {name: array if name == "anchors" else array[start:stop] for name, array in given.items()}
        each.update(**part, first_sample=start)
    res = analysis.merge(other).result()
    assert res.positions.anchor[0] == 7
    assert (res.positions.num_samples[0], res.positions.share[0], res.positions.num_worst_pos[0]) == (12, 1, 0)
    assert res.positions.anchor[res.positions.is_stuck].tolist() == [7]
    place = res.top_false_alarms.anchor.tolist().index(7)
    assert (res.top_false_alarms.anchor == 7).sum() == 1
    assert res.top_false_alarms.num_folded[place] == 11
    assert res.top_false_alarms.label[place] == 3


def test_localization_equals_that_of_multibox_loss():
    given = drawn(4)
    analysis = sm.LossAnalysis(background=0, classification=sm.Softmax(), beta=0.3, levels=[100, 47], neg_overlap=2)
    columns = analysis.update(**given)
    arrays = [given[name] for name in ("values", "labels", "loc_pred", "loc_target")]
    out = sm.multibox_loss(*arrays, background=0, beta=0.3)
    np.testing.assert_allclose(columns["misplaced"] * np.maximum(1, out.num_pos), out.loc_sum, rtol=1e-12)
    res = analysis.result()
    assert res.localization_sum == pytest.approx(out.loc_sum.sum(), rel=1e-12)
    for table in (res.classes, res.levels):
        assert table.localization_sum.sum() == pytest.approx(res.localization_sum, rel=1e-12)


@pytest.mark.parametrize("with_nan", [False, True])
def test_any_split_and_any_order_give_the_same_bytes(with_nan):
    given = drawn(5, num_samples=9, with_nan=with_nan)
    how = {"background": 0, "classification": sm.Softmax(), "top": 4, "neg_overlap": 2, "nan_policy": "propagate"}
    whole = sm.LossAnalysis(**how)
    whole.update(**given)
    first, second = sm.LossAnalysis(**how), sm.LossAnalysis(**how)
    for analysis, start, stop in ((first, 4, 5), (second, 5, 9), (first, 0, 4)):
        part = {name: array if name == "anchors" else array[start:stop] for name, array in given.items()}
        analysis.update(**part, first_sample=start)
    merged = second.merge(sm.LossAnalysis.from_state(json.loads(json.dumps(first.to_state()))))
    assert json.dumps(merged.result().to_dict()) == json.dumps(whole.result().to_dict())


def test_a_sample_without_negatives_changes_no_alarm_of_the_next():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 0.3, (2, 80, 3)).astype(np.float32), np.zeros((2, 80), int)
    labels[0] = 1
    together, apart = (sm.LossAnalysis(background=0, classification=sm.Softmax()) for _ in range(2))
    together.update(logits, labels)
    for i in range(2):
        apart.update(logits[i : i + 1], labels[i : i + 1])
    assert json.dumps(together.to_state()) == json.dumps(apart.to_state())
    assert set(together.result().top_false_alarms.sample) == {1}


def test_a_number_before_nan_is_listed_after_it():
    losses, labels = np.random.default_rng(0).random((3, 100)), np.zeros((3, 100), int)
    losses[:, 10], losses[0, 1], labels[:, :20:4] = np.nan, 5, 1
    together, apart = (sm.LossAnalysis(background=0, top=1, nan_policy="propagate") for _ in range(2))
    together.update(losses, labels)
    for i in (2, 0, 1):
        apart.update(losses[i : i + 1], labels[i : i + 1], first_sample=i)
    assert json.dumps(together.to_state()) == json.dumps(apart.to_state())
    assert together.result().top_negatives.anchor.tolist() == [10]


def test_losses_alone_say_the_probability_of_all_foreground_classes_together():
    losses, labels = np.array([[0.1, 2.0, 0.7, 5.0]]), [[0, 0, 0, 1]]
    columns = sm.LossAnalysis(background=0).update(losses, labels, overlaps=[[0.0, 0.2, 0.05, 0.6]])
    assert columns["false_alarm"].tolist() == pytest.approx([1 - math.exp(-0.7)])
    assert (columns["num_false_alarms"].tolist(), columns["unrecognised"].tolist()) == ([1], [5.0])
    assert sm.LossAnalysis(background=0).update(losses, labels)["false_alarm"][0] == pytest.approx(1 - math.exp(-2))


def test_the_worst_of_many_objects_counts_a_little_less_than_one_that_is_alone():
    losses, labels = np.array([[5.0, 0, 0, 0], [5.0, np.inf, 0, 0], [5.0, np.nan, 0, 0]]), np.ones((3, 4), np.int64)
    analysis = sm.LossAnalysis(background=0, nan_policy="omit")
    columns = analysis.update(losses, labels, matched=np.tile(np.arange(4), (3, 1)))
    np.testing.assert_allclose(columns["unrecognised"], [5 - math.log(4) / 4, np.inf, 5 - math.log(3) / 4], rtol=1e-6)
    alone = sm.LossAnalysis(background=0).update(losses[:1], [[1, 0, 0, 0]], matched=[[0, -1, -1, -1]])
    assert alone["unrecognised"].tolist() == [5.0]


def test_a_sample_that_ties_with_the_last_of_a_full_list_has_its_place_by_its_number():
    logits, labels = np.tile(np.array([[4.0, 0], [0, 1], [0, 1]]), (12, 1, 1)), np.tile([1, 0, 0], (12, 1))
    for order in (range(12), range(11, -1, -1)):
        analysis = sm.LossAnalysis(background=0, classification=sm.Softmax(), top=2)
        for i in order:
            analysis.update(logits[i : i + 1], labels[i : i + 1], first_sample=i)
        res = analysis.result()
        assert [res.top_false_alarms.sample.tolist(), res.top_false_alarms.anchor.tolist()] == [[0, 0], [1, 2]]
        assert res.top_negatives.sample.tolist() == [0, 0]


def test_a_list_that_was_read_before_it_was_full_takes_what_is_smaller():
    analysis = sm.LossAnalysis(background=0, top=4)
    for i, loss in enumerate([5.0, 3.0, 1.0]):
        analysis.update([[loss, loss / 2]], [[1, 0]], first_sample=i)
        res = analysis.result()
        assert res.top_objects.loss.tolist() == [5.0, 3.0, 1.0][: i + 1]
        assert res.top_negatives.loss.tolist() == [2.5, 1.5, 0.5][: i + 1]
        assert res.top_false_alarms.sample.tolist() == list(range(i + 1))


def test_top_losses_lists_samples_by_any_cause():
    given = drawn(6)
    losses = sm.softmax_cross_entropy(given["values"], given["labels"], background=0)
    beside = {name: given[name] for name in ("matched", "loc_pred", "loc_target")}
    columns = sm.LossAnalysis(background=0).update(losses, given["labels"], **beside)
    for cause in ("unrecognised", "false_alarm", "misplaced"):
        top = sm.top_losses(losses, given["labels"], 2, by=cause, background=0, **beside)
        np.testing.assert_array_equal(top.sample, np.argsort(-columns[cause], kind="stable")[:2])
    with pytest.raises(TypeError, match="loc_pred: expected an array, for by='misplaced' is given, got None"):
        sm.top_losses(losses, given["labels"], 2, by="misplaced", background=0)


REFUSED = {
    "a float": ({"matched": np.zeros((2, 3))}, "matched: expected whole numbers, got dtype float64"),
    "a shape": ({"matched": [0, 1]}, r"matched: expected one number for each of the anchors \(2, 3\), got shape"),
    "no object": (
        {"matched": [[0, -1, -1], [-1, -1, -1]]},
        r"matched: expected the number of an object for every positive, got -1 at \(sample 1, anchor 2\)",
    ),
    "half a pair": ({"loc_pred": np.zeros((2, 3, 4))}, "loc_target: expected an array, for loc_pred is given"),
    "other anchors": ({"anchors": np.zeros((2, 4))}, r"anchors: expected the corners of 3 anchors, \(A, 4\), got"),
    "swapped": (
        {"anchors": [[0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 1]]},
        r"anchors: expected corners x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got \[1.0, 0.0, 0.0, 1.0\] at anchor 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_leaves_nothing(name):
    beside, message = REFUSED[name]
    analysis = sm.LossAnalysis(background=0)
    before = json.dumps(analysis.to_state())
    with pytest.raises((ValueError, TypeError), match=message):
        analysis.update(np.ones((2, 3)), [[1, 0, 0], [0, 0, 1]], **beside)
    assert json.dumps(analysis.to_state()) == before
    analysis.update(np.ones((2, 3)), [[1, 0, 0], [0, 0, 1]])
    assert analysis.result().num_samples == 2


def test_blocks_and_shards_tell_the_same_or_are_refused():
    losses, labels = np.ones((1, 3)), [[1, 0, 0]]
    analysis, other = sm.LossAnalysis(background=0), sm.LossAnalysis(background=0)
    analysis.update(losses, labels)
    with pytest.raises(ValueError, match="expected none, as in the blocks before, got matched"):
        analysis.update(losses, labels, matched=[[0, -1, -1]])
    other.update(losses, labels, matched=[[0, -1, -1]], first_sample=1)
    with pytest.raises(ValueError, match="an analysis with none beside the labels, got one with matched"):
        analysis.merge(other)


HAZARDS = {
    "no positive": ({}, 0, "none of the 4 samples has a positive"),
    "omitted": ({"nan_policy": "omit"}, None, "2.0% of the anchors are NaN and were omitted"),
    "flat": ({}, 3.0, "all losses of a sample are equal, in 4 of 4 samples"),
    "probabilities": ({}, 0.9, "half of the losses of negatives are above 0.9"),
    "logits": ({"classification": sm.Softmax()}, None, "rows of logits that were looked at lie between 0 and 1"),
}


@pytest.mark.parametrize("name", HAZARDS)
def test_input_that_is_surely_a_mistake_is_named_with_its_number(name):
    settings, value, sentence = HAZARDS[name]
    rng = np.random.default_rng(0)
    labels, losses = np.zeros((4, 500), np.uint8), rng.gamma(1, 1, (4, 500))
    if name != "no positive":
        labels[:, :5] = 1
    if name == "flat":
        losses[...] = value
    if name == "probabilities":
        losses = rng.uniform(0.9, 1, (4, 500))
    if name == "omitted":
        losses[:, 10:20] = np.nan
    if name == "logits":
        losses = rng.dirichlet(np.ones(3), (4, 500))
    analysis = sm.LossAnalysis(background=0, **settings)
    analysis.update(losses, labels)
    with pytest.warns(sm.HazardWarning, match=sentence):
        assert len(analysis.result().hazards) == 1
