"""The laws of the analysis: any split and any merge give the same bytes, sums are exact, quantiles are near."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.analysis.exact_sums import Totals
from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.one_pass import bins_of
from ssd_mining.analysis.state import Intervals
from ssd_mining.kernels.records import BINS
from tests.support.analysis import analysed, blocks, dumped
from tests.support.batches import generated, losses

# Some of the data sets that are drawn have positives alone.
pytestmark = pytest.mark.filterwarnings("ignore::ssd_mining.HazardWarning")


@generated(200)
@given(analysed(), st.data())
def test_any_split_and_any_order_of_merges_give_the_same_bytes(drawn, data):
    batch, chosen = drawn
    num_samples = batch.offsets.size - 1
    whole = sm.LossAnalysis(**chosen)
    columns = [whole.update(**block) for block in blocks(batch, [])]
    cuts = data.draw(st.lists(st.integers(0, num_samples), max_size=4))
    shards = [sm.LossAnalysis(**chosen) for _ in range(data.draw(st.integers(1, 3)))]
    pieces = data.draw(st.permutations(blocks(batch, cuts)))
    split = [data.draw(st.sampled_from(shards)).update(**piece) for piece in pieces]
    while len(shards) > 1:  # any tree of merges
        shards = data.draw(st.permutations(shards))
        merged = shards.pop().merge(shards.pop())
        kept = json.loads(json.dumps(merged.to_state())) if data.draw(st.booleans()) else merged.to_state()
        shards.append(sm.LossAnalysis.from_state(kept))
    assert dumped(shards[0]) == dumped(whole)
    for name, column in columns[0].items():
        together = np.concatenate([piece[name] for piece in split])[
            np.argsort(np.concatenate([piece["sample"] for piece in split]), kind="stable")
        ]
        np.testing.assert_array_equal(together, column)


@generated(400)
@given(analysed())
def test_counts_and_sums_are_those_of_the_samples(drawn):
    batch, chosen = drawn
    analysis = sm.LossAnalysis(**chosen)
    (columns,) = (analysis.update(**block) for block in blocks(batch, []))
    res = analysis.result()
    expected = batch.expected
    assert res.num_samples == len(expected)
    assert res.num_anchors == batch.conf_loss.size
    assert res.num_pos == sum(sample.num_pos for sample in expected)
    assert res.num_neg == sum(sample.num_neg for sample in expected)
    assert res.num_kept == sum(sample.num_kept for sample in expected)
    assert res.num_without_pos == sum(sample.num_pos == 0 for sample in expected)
    for name, column in (
        ("positive_sum", columns["positive_sum"]),
        ("negative_sum", columns["negative_sum"]),
        ("loss_sum", columns["confidence_loss"]),
    ):
        np.testing.assert_equal(getattr(res, name), fsum(column))
    np.testing.assert_equal(res.loss, res.loss_sum / max(1, len(expected)))
    np.testing.assert_allclose(columns["negative_sum"], [s.negative_sum for s in expected], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(columns["threshold"], [s.threshold for s in expected])


@generated(400)
@given(analysed())
def test_distributions_worst_and_tables_are_those_of_the_anchors(drawn):
    batch, chosen = drawn
    analysis = sm.LossAnalysis(**chosen)
    analysis.update(**blocks(batch, [])[0])
    res = analysis.result()
    loss = (batch.conf_loss if batch.weighted is None else batch.weighted).ravel()
    counts = ~(np.isnan(loss) | np.isnan(batch.rank.ravel())) if batch.omit_nan else np.ones(loss.size, bool)
    pos_mask, neg_mask = batch.pos_mask.ravel() & counts, batch.neg_mask.ravel() & counts
    kept = np.concatenate([np.empty(0, bool), *(sample.hard_negative_mask for sample in batch.expected)])
    for name, mask in (("positives", pos_mask), ("negatives", neg_mask), ("kept", kept)):
        check_histogram(res.distributions[name], loss[mask])
    sample = np.repeat(np.arange(len(batch.expected)), np.diff(batch.offsets))
    anchor = np.arange(loss.size) - batch.offsets[sample]
    selected = np.flatnonzero(pos_mask | kept)
    worst = sorted(selected.tolist(), key=lambda i: hardest(loss[i], i))[: chosen["top"]]
    np.testing.assert_array_equal(res.top_anchors.sample, sample[worst])
    np.testing.assert_array_equal(res.top_anchors.anchor, anchor[worst])
    np.testing.assert_array_equal(res.top_anchors.loss, loss[worst])
    np.testing.assert_array_equal(res.top_anchors.is_positive, pos_mask[worst])
    np.testing.assert_array_equal(res.top_anchors.id, [f"picture {i}" for i in sample[worst]])
    check_levels(res.levels, chosen.get("levels"), (loss, anchor), (pos_mask, neg_mask, kept))
    check_classes(res.classes, batch, loss, pos_mask)


@generated(400)
@given(analysed())
def test_the_worst_samples_are_sorted_by_their_loss(drawn):
    batch, chosen = drawn
    analysis = sm.LossAnalysis(**chosen)
    columns = analysis.update(**blocks(batch, [])[0])
    loss = columns["confidence_loss"]
    worst = sorted(range(loss.size), key=lambda i: hardest(loss[i], i))[: chosen["top"]]
    top = analysis.result().top_samples
    np.testing.assert_array_equal(top.sample, worst)
    np.testing.assert_array_equal(top.confidence_loss, loss[worst])
    np.testing.assert_array_equal(top.num_kept, columns["num_kept"][worst])
    np.testing.assert_array_equal(top.id, columns["id"][worst])


def fsum(values):
    """Sum exactly and round once; infinities and NaN as IEEE 754 says."""
    if np.isfinite(values).all():
        try:
            return math.fsum(values)
        except OverflowError:
            pass
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sum(values))


def hardest(loss, place):
    return (False, 0.0, place) if np.isnan(loss) else (True, -loss, place)


def extremes_of(values):
    known = values[~np.isnan(values)]
    return (known.min(), known.max()) if known.size else (np.nan, np.nan)


def described(values):
    return LossHistogram.of(np.bincount(bins_of(values), minlength=BINS), *extremes_of(values))


def check_histogram(histogram, values):
    assert histogram.count == values.size
    assert histogram.num_nan == np.isnan(values).sum()
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        rounded = values.astype(np.float32)
    assert histogram.num_negative == (rounded <= -1e-40).sum()
    assert histogram.num_inf == np.isinf(rounded).sum()
    np.testing.assert_array_equal([histogram.least, histogram.largest], extremes_of(values))
    numbers = np.sort(np.where(np.isinf(rounded), rounded, values)[~np.isnan(values)])
    for probability in (0, 0.01, 0.1, 0.5, 0.9, 1):
        got = histogram.quantile(probability)
        if not numbers.size:
            assert np.isnan(got)
            continue
        expected = numbers[max(1, math.ceil(probability * numbers.size)) - 1]
        np.testing.assert_allclose(got, expected, rtol=0.004, atol=1e-39)
        assert np.isinf(got) or histogram.least <= got <= histogram.largest


def near(got, losses):
    np.testing.assert_allclose(got, fsum(losses.astype(np.float64)), rtol=1e-12, atol=1e-12)


def check_levels(table, levels, where, masks):
    if levels is None:
        assert table is None
        return
    (loss, anchor), (pos_mask, neg_mask, kept) = where, masks
    starts = np.cumsum(levels) - levels
    np.testing.assert_array_equal(table.first_anchor, starts)
    for i, (start, size) in enumerate(zip(starts, levels, strict=True)):
        inside = (anchor >= start) & (anchor < start + size)
        assert table.num_pos[i] == (pos_mask & inside).sum()
        assert table.num_neg[i] == (neg_mask & inside).sum()
        assert table.num_kept[i] == (kept & inside).sum()
        near(table.positive_sum[i], loss[pos_mask & inside])
        near(table.negative_sum[i], loss[kept & inside])


def check_classes(table, batch, loss, pos_mask):
    labels = batch.labels
    if labels.dtype == bool:
        assert table is None
        return
    if "sample_offsets" in batch.keywords:
        classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
    else:
        classes = (labels if labels.ndim == 2 else labels.argmax(axis=2)).ravel()
    present = np.unique(classes[pos_mask])
    np.testing.assert_array_equal(table.label, present)
    for i, label in enumerate(present):
        mine = pos_mask & (classes == label)
        assert table.num_pos[i] == mine.sum()
        near(table.positive_sum[i], loss[mine])
    assert not table.num_kept.any()


@generated(300)
@given(st.lists(st.tuples(st.floats(), st.integers(-3, 3)), max_size=40), st.integers(0, 40))
def test_totals_are_exact_and_add_up_in_any_order(pairs, cut):
    values, groups = np.array([p[0] for p in pairs], np.float64), np.array([p[1] for p in pairs], np.int64)
    whole, first, second = Totals(), Totals(), Totals()
    whole.add(values, groups)
    first.add(values[:cut], groups[:cut])
    second.add(values[cut:], groups[cut:])
    second.merge(first)
    assert second.to_state() == whole.to_state()
    assert Totals.from_state(json.loads(json.dumps(whole.to_state()))).to_state() == whole.to_state()
    for group in range(-3, 4):
        assert whole.count_of(group) == (groups == group).sum()
        mine = values[groups == group]
        if np.isfinite(mine).all():
            exact = sum(map(fraction, mine.tolist()))
            assert whole.sum_of(group) == rounded(exact)
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                np.testing.assert_equal(whole.sum_of(group), float(mine[~np.isfinite(mine)].sum()))


def fraction(value):
    from fractions import Fraction

    return Fraction(value)


def rounded(exact):
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def test_totals_of_groups_far_apart_and_of_parts_that_count_several():
    totals = Totals()
    totals.add([1.0, 2.0, 4.0], [-(10**18), 10**18, -(10**18)], counts=[5, 0, 1])
    assert totals.sums_of([-(10**18), 10**18, 7]).tolist() == [5.0, 2.0, 0.0]
    assert totals.counts_of([-(10**18), 10**18, 7]).tolist() == [6, 0, 0]


@generated(300)
@given(st.lists(st.floats(width=32), max_size=30))
def test_every_float32_is_within_the_promise_of_its_bin(numbers):
    values = np.array(numbers, np.float32)
    check_histogram(described(values), values)


def test_the_corners_of_the_bins():
    tiny, most = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    nans = np.array([0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF], np.uint32).view(np.float32)
    values = np.concatenate([nans, np.float32([0, -0.0, tiny, -tiny, most, -most, np.inf, -np.inf])])
    histogram = described(values)
    assert (histogram.num_nan, histogram.num_zero, histogram.num_inf, histogram.num_negative) == (4, 2, 2, 3)
    assert histogram.quantile(0) == -np.inf
    assert histogram.quantile(1) == np.inf
    assert not np.signbit(histogram.quantile(0.5))  # of zeros, the sign is not kept
    np.testing.assert_allclose(histogram.values[1:3], [-most, -tiny], rtol=0.004)
    assert described(np.array([1e300, -1e300])).num_inf == 2  # what float32 cannot hold


@pytest.mark.parametrize("per_octave", [1, 4, 128])
def test_logarithmic_bins_hold_every_finite_loss_above_zero(per_octave):
    values = np.random.default_rng(0).gamma(0.3, 1.0, 5000).astype(np.float32)
    values[:7] = [0, -1, np.inf, -np.inf, np.nan, 1.0, 2.0]
    edges, counts = described(values).log_bins(per_octave)
    chosen = values[(values > 0) & (values < np.inf)]
    assert counts.sum() == chosen.size
    np.testing.assert_array_equal(counts, np.histogram(chosen, np.append(edges[:-1], np.inf))[0])
    assert edges[0] <= chosen.min()
    assert edges[-1] > chosen.max()
    assert (np.diff(edges) > 0).all()
    assert 1.0 in edges
    np.testing.assert_allclose(edges[per_octave:] / edges[:-per_octave], 2)


@generated(300)
@given(st.permutations([(0, 3), (3, 4), (5, 9), (9, 9), (12, 20)]))
def test_stretches_join_and_know_what_they_hold(pairs):
    seen = Intervals()
    for start, stop in pairs:
        assert seen.first_of(start, stop) is None
        seen.add(start, stop)
    assert list(seen) == [(0, 4), (5, 9), (12, 20)]
    assert seen.stop == 20
    held = {*range(4), *range(5, 9), *range(12, 20)}
    for start in range(22):
        for stop in range(start, 22):
            assert seen.first_of(start, stop) == min(held & set(range(start, stop)), default=None)


def test_the_worst_of_float64_are_no_trouble_to_float32_after_them():
    analysis = sm.LossAnalysis(background=0, top=1)
    analysis.update(np.array([[1e300, 1.0, 2.0]]), [[1, 0, 0]])
    analysis.update(np.array([[1.0, 2.0, 3.0]], np.float32), [[1, 0, 0]])
    assert analysis.result().to_dict()["top_anchors"]["loss"] == [1e300]


def test_a_refused_block_leaves_the_analysis_as_it_was():
    analysis = sm.LossAnalysis(background=0)
    loss, labels = losses("gamma", (3, 80), np.random.default_rng(0)), np.zeros((3, 80), np.uint8)
    labels[:, 0] = 1
    analysis.update(loss, labels)
    before = analysis.to_state()
    loss[2, 5] = np.nan
    with pytest.raises(ValueError, match=r"conf_loss: .*got NaN at \(sample 2, anchor 5\)"):
        analysis.update(loss, labels)
    assert analysis.to_state() == before
    assert pickle.loads(pickle.dumps(analysis)).to_state() == before  # noqa: S301 - our own
    assert analysis.update(loss[:2], labels[:2])["sample"].tolist() == [3, 4]
