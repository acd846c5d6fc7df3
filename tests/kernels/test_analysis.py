"""The kernels of the analysis against the reference, against calls one by one, and on real detector outputs."""

import json
import math
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssd_mining as sm
from ssd_mining.analysis.one_pass import bins_of
from ssd_mining.engine.run import empty_mined
from ssd_mining.inputs.arrays import read_only
from ssd_mining.inputs.batch import check_losses
from ssd_mining.kernels import records
from ssd_mining.kernels.cpu import analysis as cpu_analysis
from ssd_mining.kernels.cpu import mining as cpu
from ssd_mining.kernels.records import BINS, DONE, EVEN, KEPT, NEGATIVE_SUM, NUM_KEPT, ODD, POSITIVES, TABLES, Tally
from ssd_mining.mining_rule import Mining
from tests.support.analysis import analysed, blocks, dumped
from tests.support.batches import LOSSES, REAL_FILES, ROOT, batches, generated, load_real, losses

# Some of the data sets that are drawn have positives alone.
pytestmark = pytest.mark.filterwarnings("ignore::ssd_mining.HazardWarning")

RATIOS = (3, 0, 1.7, 1, 40, 0.5, 10)


def similar(got, expected, where=""):
    """Compare results as JSON holds them: text and counts are equal, sums nearly."""
    if isinstance(expected, dict):
        assert list(got) == list(expected), where
        for name, value in expected.items():
            if name != "backend":
                similar(got[name], value, f"{where}.{name}")
    elif isinstance(expected, list) and expected and isinstance(expected[0], float):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=where)
    elif isinstance(expected, float):
        similar([got], [expected], where)
    else:
        assert got == expected, where


def both(batch, chosen):
    """Return the results of both backends."""
    results = []
    for backend in ("cpu", "reference"):
        analysis = sm.LossAnalysis(**chosen, backend=backend)
        analysis.update(**blocks(batch, [])[0])
        results.append(analysis.result().to_dict())
    return results


@generated(600)
@given(analysed())
def test_the_kernels_equal_the_reference(drawn):
    batch, chosen = drawn
    similar(*both(batch, chosen | {"top": 0}))  # sums in the last place may order the worst otherwise


@generated(60)
@given(analysed(max_anchors=3000))
def test_the_kernels_equal_the_reference_on_long_rows(drawn):
    batch, chosen = drawn
    similar(*both(batch, chosen | {"top": 0}))


@generated(600)
@given(
    batches(),
    st.sampled_from(["none", "batch", "positives", "sample_selected"]),
    st.sampled_from(["cpu", "reference"]),
)
def test_a_sweep_equals_a_call_for_every_ratio(batch, normalize, backend):
    keywords = {name: value for name, value in batch.keywords.items() if name not in ("num_negatives", "pool_size")}
    keywords["backend"] = backend
    sweep = sm.ratio_sweep(batch.conf_loss, batch.labels, ratios=RATIOS, normalize=normalize, **keywords)
    for i, ratio in enumerate(RATIOS):
        own = keywords | {"neg_pos_ratio": ratio}
        one = sm.confidence_loss(batch.conf_loss, batch.labels, normalize=normalize, **own)
        np.testing.assert_array_equal(sweep.num_kept[i], one.num_kept)
        np.testing.assert_allclose(sweep.negative_sum[i], one.negative_sum, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(sweep.confidence_loss[i], one.confidence_loss, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(sweep.loss[i], one.loss, rtol=1e-12, atol=1e-12)
        mined = sm.mine_hard_negatives(batch.conf_loss, batch.labels, **own)
        np.testing.assert_array_equal(sweep.threshold[i], mined.threshold)
    np.testing.assert_array_equal(sweep.positive_sum, one.positive_sum)
    np.testing.assert_array_equal(sweep.ratio, RATIOS)


@pytest.mark.full_size
@pytest.mark.parametrize("share", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_sweep_at_full_size(kind, share):
    rng = np.random.default_rng(0)
    conf_loss, labels = losses(kind, (5, 8732), rng), rng.random((5, 8732)) < share
    sweep = sm.ratio_sweep(conf_loss, labels, ratios=RATIOS)
    for i, ratio in enumerate(RATIOS):
        one = sm.mine_hard_negatives(conf_loss, labels, neg_pos_ratio=ratio)
        np.testing.assert_array_equal(sweep.num_kept[i], one.num_kept)
        np.testing.assert_array_equal(sweep.threshold[i], one.threshold)
        np.testing.assert_allclose(sweep.negative_sum[i], one.negative_sum, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("policy", ["propagate", "omit"])
@pytest.mark.parametrize("num_anchors", [40, 64, 200])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_of_any_bits_is_nan_and_nothing_else(num_anchors, policy, dtype):
    conf_loss = np.full((3, num_anchors), np.inf, dtype)
    labels = np.zeros((3, num_anchors), np.int8)
    labels[:, :4], labels[:, 4:8] = 1, -1
    bits = {
        4: [0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF],
        8: [2**63 - 1, -1, 0x7FF << 52 | 1, 0x7FF << 52 | 2**51],
    }
    nans = np.array(bits[np.dtype(dtype).itemsize]).astype(f"i{np.dtype(dtype).itemsize}").view(dtype)
    conf_loss[:, :4] = conf_loss[:, 4:8] = conf_loss[:, -4:] = nans
    analysis = sm.LossAnalysis(background=0, ignore_index=-1, nan_policy=policy)
    analysis.update(conf_loss, labels)
    found = analysis.result().distributions
    expected = 12 if policy == "propagate" else 0
    assert (found["positives"].count, found["positives"].num_nan) == (expected, expected)
    assert (found["negatives"].num_nan, found["negatives"].num_inf) == (expected, 3 * (num_anchors - 12))
    assert found["negatives"].count == analysis.result().num_neg


def test_a_smaller_ratio_may_end_where_the_ties_of_a_larger_one_begin():
    conf_loss = np.full((1, 80), 4.0)
    conf_loss[0, 10], conf_loss[0, 20] = 5, 6
    pos_mask = np.arange(80)[None] == 0
    sweep = sm.ratio_sweep(conf_loss, pos_mask, ratios=[1, 2, 3])
    assert sweep.threshold[:, 0].tolist() == [6, 5, 4]
    assert sweep.negative_sum[:, 0].tolist() == [6, 11, 15]


def test_one_nan_is_all_that_a_ratio_keeps():
    conf_loss = np.ones((1, 80), np.float32)
    conf_loss[0, 7] = np.array([0xFF800001], np.uint32).view(np.float32)[0]
    pos_mask = np.arange(80)[None] == 0
    sweep = sm.ratio_sweep(conf_loss, pos_mask, ratios=[2, 1], nan_policy="propagate", neg_pos_ratio=5)
    assert sweep.num_kept[:, 0].tolist() == [2, 1]
    assert np.isnan(sweep.negative_sum).all()
    np.testing.assert_array_equal(sweep.threshold[:, 0], [1, np.nan])
    analysis = sm.LossAnalysis(nan_policy="propagate", ratios=[2, 1])
    analysis.update(conf_loss, pos_mask)
    found = analysis.result().distributions
    assert (found["negatives"].count, found["negatives"].num_nan, found["kept"].num_nan) == (79, 1, 1)
    assert np.isnan(analysis.result().ratio_sweep.negative_sum).all()


@pytest.mark.parametrize("label", [0, 1])
def test_where_nan_is_omitted_the_rank_counts_as_well(label):
    conf_loss, rank = np.ones((1, 80), np.float32), np.ones((1, 80), np.float32)
    labels = (np.arange(80)[None] % 2).astype(np.uint8)
    conf_loss[0, label], rank[0, label] = 9, np.nan
    analysis = sm.LossAnalysis(background=0, nan_policy="omit", ratios=[1])
    analysis.update(conf_loss, labels, rank_by=rank)
    found = analysis.result().distributions
    assert [found["negatives"].count, found["positives"].count] == [39 + label, 40 - label]
    assert analysis.result().top_anchors.loss.max() == 1


@pytest.mark.full_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_result_does_not_depend_on_the_threads(dtype):
    rng = np.random.default_rng(0)
    conf_loss, labels = losses("gamma", (60, 8732), rng).astype(dtype), rng.random((60, 8732)) < 0.01
    conf_loss[3, 5:50] = np.nan
    dumps = []
    for num_threads in (1, 2, None):
        analysis = sm.LossAnalysis(levels=[8000, 732], nan_policy="propagate", num_threads=num_threads)
        analysis.update(conf_loss, labels)
        dumps.append(dumped(analysis))
    assert dumps[0] == dumps[1] == dumps[2]


@pytest.mark.full_size
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_give_their_expected_results(name):
    real = load_real(name)
    analysis, from_logits = (
        sm.LossAnalysis(background=0, classification=kind, num_threads=1) for kind in (None, sm.Softmax())
    )
    columns = analysis.update(real["losses"], real["labels"])
    from_logits.update(real["logits"].astype(np.float32), real["labels"])
    np.testing.assert_array_equal(columns["num_kept"], real["exp_k"])
    np.testing.assert_allclose(columns["confidence_loss"], real["exp_total"], rtol=3e-7, atol=0)
    res, other = analysis.result(), from_logits.result()
    assert f"{res.loss:.6f}" == REAL_FILES[name]
    assert res.num_kept == real["exp_k"].sum()
    np.testing.assert_array_equal(res.classes.num_pos, class_counts(real["labels"][real["labels"] > 0])[1])
    np.testing.assert_allclose(res.classes.positive_sum.sum(), math.fsum(real["exp_pos_sum"]), rtol=3e-7)
    check_confusion(other.classes, real)
    top = sm.top_losses(real["losses"], real["labels"], 3, background=0)
    assert top.sample.tolist() == np.argsort(-real["exp_total"], kind="stable")[:3].tolist()
    negatives = np.sort(real["losses"][real["labels"] == 0])
    got = res.distributions["negatives"].quantile(0.9)
    np.testing.assert_allclose(got, negatives[math.ceil(0.9 * negatives.size) - 1], rtol=0.004)


def class_counts(labels):
    return np.unique(labels, return_counts=True)


def check_confusion(table, real):
    """Count by hand which foreground class the kept negatives are taken for."""
    mined = sm.mine_logits(real["logits"].astype(np.float32), real["labels"], background=0)
    taken = real["logits"][..., 1:].argmax(axis=2)[mined.hard_negative_mask] + 1
    label, count = class_counts(taken)
    np.testing.assert_array_equal(table.label[table.num_kept > 0], label)
    np.testing.assert_array_equal(table.num_kept[table.num_kept > 0], count)
    np.testing.assert_allclose(table.negative_sum.sum(), mined.negative_sum.sum(), rtol=1e-12)


@pytest.mark.parametrize("background", [0, 2, -1])
@pytest.mark.parametrize("classification", [sm.Softmax(), sm.Sigmoid(), sm.Focal()])
def test_negatives_are_counted_by_what_they_are_taken_for(classification, background):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (2, 70, 5)).astype(np.float32), np.full((2, 70), background % 5)
    labels[:, :3] = (background + 1) % 5
    call = {"classification": classification, "background": background}
    table, mined = sm.class_table(logits, labels, **call), sm.mine_logits(logits, labels, **call)
    others = logits.copy()
    others[..., background] = -np.inf
    taken = others.argmax(axis=2)[mined.hard_negative_mask]
    assert dict(zip(table.label, table.num_kept, strict=True)) == {
        label: (taken == label).sum() for label in {*taken.tolist(), (background + 1) % 5}
    }
    top = sm.LossAnalysis(**call, top=3)
    top.update(logits, labels)
    worst = top.result().top_anchors
    for sample, anchor, label in zip(worst.sample, worst.anchor, worst.label, strict=True):
        is_positive = labels[sample, anchor] != background % 5
        assert label == (labels[sample, anchor] if is_positive else others[sample, anchor].argmax())


def test_a_background_without_a_column_and_a_head_without_foreground():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (2, 90, 3)).astype(np.float32), np.full((2, 90), 3)
    labels[:, 0] = 1
    table = sm.class_table(logits, labels, background=3, classification=sm.Sigmoid())
    assert table.label.tolist() == [0, 1, 2]
    assert (table.num_kept.sum(), table.num_pos.tolist()) == (6, [0, 2, 0])
    alone = sm.class_table(logits[..., :1], np.zeros((2, 90), int), background=0, min_negatives=2)
    assert (alone.label.tolist(), alone.num_kept.tolist()) == ([-1], [4])


def test_ragged_logits_give_the_tables_of_dense_ones():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (4, 90, 5)).astype(np.float32), rng.integers(0, 5, (4, 90))
    labels[:, 20:] = 0
    dense, ragged = (sm.LossAnalysis(background=0, classification=sm.Softmax()) for _ in range(2))
    dense.update(logits, labels)
    ragged.update(logits.reshape(-1, 5), labels.reshape(-1), sample_offsets=np.arange(5) * 90)
    both = [analysis.result().to_dict() for analysis in (ragged, dense)]
    for each in both:
        del each["positions"]  # those of ragged samples have nothing in common
    assert json.dumps(both[0]) == json.dumps(both[1])


LEVELS = read_only(np.array([0, 200, 300]))
RATIOS = read_only(np.array([9.0, 3.0, 0.5]))
ROOM = 7 * 300 + 5


def by_hand(num_workers):
    """Run the kernel on 7 samples: what it was told, and all that it has filled."""
    rng = np.random.default_rng(5)
    conf_loss, pos_mask = losses("gamma", (7, 300), rng), rng.random((7, 300)) < 0.1
    rows, mined = check_losses(conf_loss, pos_mask, Mining()).rows(slice(0, 7), None, None), empty_mined(7, 0)
    tally = Tally(
        np.zeros((7, 3), np.int64),
        *np.empty((2, 7, 3)),
        np.zeros((num_workers, TABLES, BINS), np.int64),
        np.zeros((num_workers, 2), np.int64),
        np.full((num_workers, 2), np.nan),
        np.full((records.LISTS, ROOM), -7),
        np.full((records.LISTS, ROOM), np.nan, np.float32),
        np.zeros((num_workers, records.LISTS, 2), np.int64),
        np.zeros(7, np.int64),
        np.empty((7, records.FREE_NUMBERS)),
    )
    is_free = read_only((np.arange(2100) % 7 != 0).astype(np.uint8))
    cpu_analysis.analyse(rows, Mining().rule, RATIOS, LEVELS, is_free, mined, tally, num_workers)
    return rows, mined, tally


def counted(values):
    return np.bincount(bins_of(values), minlength=BINS)


def found(array, tally, role):
    return np.concatenate([array[role, start:stop] for start, stop in tally.places[:, role]])


def test_both_drivers_say_the_same_with_any_number_of_workers():
    rows, mined, tally = by_hand(1)
    positive = rows.labels != rows.codes[0]
    tables = tally.tables[0]
    np.testing.assert_array_equal(tables[EVEN] + tables[ODD], counted(rows.loss[~positive]))
    np.testing.assert_array_equal(tables[POSITIVES], counted(rows.loss[positive]))
    assert tally.extremes[0].tolist() == [rows.loss[~positive].min(), rows.loss[~positive].max()]
    np.testing.assert_array_equal(tables[KEPT], counted(found(tally.losses, tally, 1)))
    np.testing.assert_array_equal(found(tally.anchors, tally, 0), np.flatnonzero(positive) % 300)
    np.testing.assert_array_equal(
        tally.levels[0], np.add.reduceat(~positive.reshape(7, 300), [0, 200], axis=1).sum(0)
    )
    for num_workers in (2, 3, 7, 8):
        _, other, got = by_hand(num_workers)
        assert mined.counts[DONE].all()
        for one, another in zip((*mined, *tally[:3]), (*other, *got[:3]), strict=True):
            np.testing.assert_array_equal(one, another)
        np.testing.assert_array_equal(got.tables[:, POSITIVES:].sum(axis=0), tables[POSITIVES:])
        np.testing.assert_array_equal(got.tables[:, : ODD + 1].sum(axis=(0, 1)), tables[EVEN] + tables[ODD])
        np.testing.assert_array_equal(got.levels.sum(axis=0), tally.levels[0])
        assert [np.nanmin(got.extremes), np.nanmax(got.extremes)] == tally.extremes[0].tolist()
        np.testing.assert_array_equal(got.num_free, tally.num_free)
        for role in range(records.LISTS):
            for one, another in ((tally.anchors, got.anchors), (tally.losses, got.losses)):
                np.testing.assert_array_equal(found(one, tally, role), found(another, got, role))


def test_what_is_found_equals_what_is_mined():
    rows, mined, tally = by_hand(1)
    masked = empty_mined(7, 2100)
    cpu.mine(rows, Mining().rule, masked, 1)
    np.testing.assert_array_equal(mined.counts, masked.counts)
    np.testing.assert_allclose(mined.sums, masked.sums, rtol=1e-15)
    np.testing.assert_array_equal(tally.num_kept[:, 1], masked.counts[NUM_KEPT])
    np.testing.assert_array_equal(tally.negative_sum[:, 1], mined.sums[NEGATIVE_SUM])
    for role, mask in enumerate((masked.pos_mask, masked.hard_negative_mask)):
        np.testing.assert_array_equal(found(tally.anchors, tally, role), np.flatnonzero(mask) % 300)
        np.testing.assert_array_equal(found(tally.losses, tally, role), rows.loss[mask])


def test_the_hardest_free_negatives_are_listed():
    rows, _, tally = by_hand(1)
    loss, negative = rows.loss.reshape(7, 300), (rows.labels == rows.codes[0]).reshape(7, 300)
    ranks = np.where(negative & (np.arange(2100) % 7 != 0).reshape(7, 300), -loss, 1)
    expected = np.sort(np.argsort(ranks, axis=1, kind="stable")[:, : records.MOST_FREE], axis=1)
    np.testing.assert_array_equal(found(tally.anchors, tally, records.FREE_LIST), expected.ravel())
    listed = np.sort(np.take_along_axis(loss, expected, axis=1))  # all different
    np.testing.assert_array_equal(tally.free, listed[:, [-1, -records.WORST_FREE, 0]])


def called_by_a_kernel(helper, *arguments):
    numba.njit(lambda *given: helper(*given))(*arguments)


@pytest.mark.parametrize("room", [0, 3, 9])
def test_anchors_stay_in_their_room_whatever_the_arrays_say(room):
    """A caller may change his arrays meanwhile: what is found is then not what was counted."""
    rows, *_ = by_hand(1)
    negatives, reaching = np.array([~0x1F0 & (1 << 64) - 1, 0, 0, 0, 0], np.uint64), np.arange(4, 9)
    tables, anchors, values = np.zeros((TABLES, BINS), np.int64), np.full(20, -7), np.full(20, -7, np.float32)
    own = anchors[:room], values[:room]
    called_by_a_kernel(cpu_analysis._list_hardest, rows.loss[:300], reaching, -1.0, 0, *own)
    assert anchors.tolist() == [4, 5, 6, 7, 8, 0, 0, 0, 0][:room] + [-7] * (20 - room)
    anchors[:] = -7
    alone = rows._replace(labels=np.ones_like(rows.labels), offsets=rows.offsets[:2])
    called_by_a_kernel(cpu_analysis._take_back, alone, Mining().rule, negatives, tables, 0, *own)
    assert anchors.tolist() == [4, 5, 6, 7, 8, *range(64, 68)][:room] + [-7] * (20 - room)


def test_a_sample_that_no_thread_has_done_is_seen(monkeypatch):
    monkeypatch.setattr(cpu_analysis, "_ANALYSE", [lambda *_: None])
    with pytest.raises(RuntimeError, match="sample 0 was not mined: a worker thread was lost"):
        sm.LossAnalysis(background=0).update(np.ones((7, 300)), np.zeros((7, 300), int))


WARM = """
import numpy as np
import ssd_mining as sm
from ssd_mining.kernels.cpu import jit as _jit
sm.warmup(loss_dtypes=["float32"], label_dtypes=["uint8"], analysis=True)
before = _jit.counts()
analysis = sm.LossAnalysis(background=0, levels=[200, 100])
analysis.update(np.ones((7, 300), np.float32), np.zeros((7, 300), np.uint8))
analysis.update(np.ones((40, 300), np.float16), np.zeros((40, 300), np.int8), valid=np.ones((40, 300), bool))
print(_jit.counts() == before)
"""


@pytest.mark.slow
@pytest.mark.full_size
def test_after_a_warmup_for_it_an_analysis_compiles_nothing():
    done = subprocess.run([sys.executable, "-c", WARM], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "True\n"
