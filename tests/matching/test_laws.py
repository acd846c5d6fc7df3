"""Laws of matching, on boxes drawn at random; the kernel against the reference, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssd_mining as sm
from tests.support.batches import examples, generated
from tests.support.boxes import KINDS, draw

FIELDS = ("labels", "matched", "overlaps", "num_anchors_of", "best_iou", "unmatched")
FORCES = ("bipartite", "argmax", "argmax_all", "own_best", "none")


@st.composite
def rules(draw):
    """Draw the fields of a `Matching`."""
    pos = draw(st.sampled_from([0.05, 0.3, 0.5, 0.7, 1.0]))
    low = draw(st.sampled_from([0.0, pos / 4, pos / 2]))
    return {
        "pos_iou": pos,
        "neg_iou": draw(st.sampled_from([None, pos, (low, pos * 0.75)])),
        "force": draw(st.sampled_from(FORCES)),
        "contested": draw(st.sampled_from(["last", "first"])),
        "force_iou": draw(st.sampled_from([0.0, 1e-6, 0.2])),
        "ignore_ioa": draw(st.sampled_from([0.0, 0.5, 0.8])),
        "crowd_first": draw(st.booleans()),
        "background": draw(st.sampled_from([0, 99])),
    }


@generated(300)
@given(
    rules(),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_the_kernel_and_the_reference_agree(rule, seed, dtype, extras):
    with_crowd, with_valid, own_anchors = extras
    rng = np.random.default_rng(seed)
    num_samples = int(rng.integers(1, 4))
    drawn = [draw(str(rng.choice(KINDS)), rng, touching=False) for _ in range(num_samples)]
    size = min(len(anchors) for _, anchors in drawn)
    anchors = np.stack([anchors[:size] for _, anchors in drawn]) if own_anchors else drawn[0][1]
    boxes = [objects.astype(dtype) for objects, _ in drawn]
    call = {
        "boxes": boxes,
        "classes": [rng.integers(1, 9, len(each)) for each in boxes],
        "anchors": anchors.astype(dtype),
        "crowd": [rng.random(len(each)) < 0.2 for each in boxes] if with_crowd else None,
        "valid": rng.random(anchors.shape[:-1]) < 0.8 if with_valid else None,
        **rule,
    }
    got = sm.match_anchors(**call, num_threads=1)
    expected = sm.match_anchors(**call, backend="reference")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name, strict=True)
    # What the result says of itself.
    matched, labels = got.matched, got.labels
    assert ((matched >= 0) == ~np.isin(labels, (rule["background"], -1))).all()
    assert ((matched == -2) == (labels == -1)).all()
    assert got.num_anchors_of.sum() == (matched >= 0).sum()
    # A batch equals its samples, one by one, and the same boxes with offsets.
    for i in range(num_samples):
        one = {name: [call[name][i]] if call[name] is not None else None for name in ("boxes", "classes", "crowd")}
        own = anchors[i] if own_anchors else anchors
        valid = None if call["valid"] is None else call["valid"][i] if own_anchors else call["valid"]
        alone = sm.match_anchors(**{**call, **one, "anchors": own.astype(dtype), "valid": valid})
        np.testing.assert_array_equal(alone.matched[0], got.matched[i])
    flat = {name: np.concatenate(call[name]) for name in ("boxes", "classes") + ("crowd",) * with_crowd}
    offsets = np.cumsum([0, *map(len, boxes)])
    again = sm.match_anchors(**{**call, **flat}, box_offsets=offsets)
    np.testing.assert_array_equal(again.labels, got.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_more_threads_and_blocks_give_the_same_bits(kind, monkeypatch):
    rng = np.random.default_rng(2)
    _, anchors = draw(kind, rng)
    boxes = [draw(kind, rng)[0] for _ in range(9)]
    classes = [np.ones(len(each), int) for each in boxes]
    expected = sm.match_anchors(boxes, classes, anchors, num_threads=1)
    monkeypatch.setattr("ssd_mining.matching.match.PAIRS_EACH", 1)
    for most in (10**8, 1, 3 * len(anchors) * 4):
        monkeypatch.setattr("ssd_mining.matching.match.BLOCK_PAIRS", most)
        got = sm.match_anchors(boxes, classes, anchors)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@pytest.mark.generated
@pytest.mark.parametrize("force", ["bipartite", "none", "own_best"])
@pytest.mark.parametrize("kind", ["free", "tiny"])  # without equal overlaps, no rule asks for the order
def test_permuting_objects_changes_nothing_but_their_numbers(kind, force):
    for seed in range(examples(100)):
        rng = np.random.default_rng(seed)
        objects, anchors = draw(kind, rng)
        classes, order = np.arange(1, len(objects) + 1), rng.permutation(len(objects))
        one = sm.match_anchors([objects], [classes], anchors, force=force)
        other = sm.match_anchors([objects[order]], [classes[order]], anchors, force=force)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.overlaps, other.overlaps)
        np.testing.assert_array_equal(one.num_anchors_of[order], other.num_anchors_of)


@pytest.mark.generated
@pytest.mark.parametrize("force", FORCES)
@pytest.mark.parametrize("kind", KINDS)
def test_scaling_everything_by_a_power_of_two_changes_nothing(kind, force):
    for seed in range(examples(40)):
        objects, anchors = draw(kind, np.random.default_rng(seed))
        classes = [np.arange(1, len(objects) + 1)]
        one = sm.match_anchors([objects], classes, anchors, force=force)
        other = sm.match_anchors([objects * np.float32(512)], classes, anchors * np.float32(512), force=force)
        np.testing.assert_array_equal(one.matched, other.matched)
        np.testing.assert_array_equal(one.overlaps, other.overlaps)


@pytest.mark.generated
@pytest.mark.parametrize("rule", list(sm.matching_rules))
def test_an_object_that_is_an_anchor_gets_it(rule):
    for seed in range(examples(40)):
        rng = np.random.default_rng(seed)
        _, anchors = draw("free", rng)
        chosen = rng.choice(len(anchors), min(3, len(anchors)), replace=False)
        res = sm.match_anchors([anchors[chosen]], [np.arange(1, len(chosen) + 1)], anchors, rule=rule)
        assert res.matched[0, chosen].tolist() == list(range(len(chosen)))
        assert (res.overlaps[0, chosen] == 1).all()
        assert (res.best_iou == 1).all()


@pytest.mark.generated
@pytest.mark.parametrize("kind", KINDS)
def test_the_bipartite_rule_leaves_no_object_without_an_anchor_while_one_that_it_touches_is_free(kind):
    num_left = 0
    for seed in range(examples(100)):
        objects, anchors = draw(kind, np.random.default_rng(seed), touching=False)
        classes = [np.arange(1, len(objects) + 1)]
        res = sm.match_anchors([objects], classes, anchors, pos_iou=1.0, force="bipartite")
        for i in res.unmatched:
            alone = sm.match_anchors([objects[[i]]], [[1]], anchors).overlaps[0]
            assert (res.matched[0][alone > 0] >= 0).all()
            num_left += 1
        assert (res.num_anchors_of <= 1).all() or (res.overlaps == 1).any()
    assert num_left or kind in ("grid", "tiny")


def test_inputs_of_any_layout_are_read_and_never_written():
    objects, anchors = draw("free", np.random.default_rng(1))
    classes = np.arange(1, len(objects) + 1)
    expected = sm.match_anchors([objects], [classes], anchors).labels
    for boxes in (np.asfortranarray(objects), objects.astype(">f4"), objects.tolist(), objects[::-1][::-1]):
        copy = np.asfortranarray(anchors)
        copy.flags.writeable = False
        got = sm.match_anchors([boxes], [classes.astype(np.uint8)], copy).labels
        if not isinstance(boxes, list):  # floats of Python are float64
            np.testing.assert_array_equal(got, expected)
    for box_format, convert in (
        ("cxcywh", lambda b: np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1)),
        ("xywh", lambda b: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1)),
    ):
        got = sm.match_anchors(
            [convert(objects)], [classes], convert(anchors), box_format=box_format, anchor_format=box_format
        )
        np.testing.assert_allclose(got.overlaps, sm.match_anchors([objects], [classes], anchors).overlaps, atol=1e-5)
