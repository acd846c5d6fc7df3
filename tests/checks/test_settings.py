"""Settings: NumPy scalars are numbers, and a mistyped keyword is told from the others."""

import json
import pickle

import numpy as np
import pytest

import ssd_mining as sm

NUMBERS = {
    "background": 1,
    "neg_pos_ratio": 2,
    "extra_negatives": 1,
    "min_negatives": 2,
    "max_negatives": 5,
    "skip_hardest": 1,
    "pool_size": 1,
    "neg_overlap": 1,
    "ignore_index": 3,
}
WHOLE = ["background", "extra_negatives", "min_negatives", "max_negatives", "skip_hardest", "ignore_index"]
FEW_BITS = [np.int8, np.uint8, np.int16, np.uint64]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("kind", [*FEW_BITS, *FLOATS])
def test_a_numpy_scalar_is_the_number_that_it_prints(name, kind):
    if name in WHOLE and kind in FLOATS:
        with pytest.raises(TypeError if name != "min_negatives" else ValueError, match=f"{name}: expected a whole"):
            sm.Mining(**{"background": 0, name: kind(NUMBERS[name])})
        return
    got = sm.Mining(**{"background": 0, name: kind(NUMBERS[name])})
    assert got == sm.Mining(**{"background": 0, name: NUMBERS[name]})
    assert type(getattr(got, name)) in (int, float)
    assert "np." not in repr(got)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ["neg_pos_ratio", "min_negatives", "neg_overlap"])
def test_a_float_of_few_bits_means_the_decimal_that_it_prints(name, kind):
    assert getattr(sm.Mining(**{name: kind("0.29")}), name) == 0.29


@pytest.mark.parametrize("flag", [True, np.True_])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_flag_is_a_number(name, flag):
    with pytest.raises(TypeError, match=rf"{name}: expected a .*number.*, got .*True"):
        sm.Mining(**{name: flag})


LOSS, LABELS = np.linspace(2, 1, 400, dtype=np.float32).reshape(2, 200), np.zeros((2, 200), int)
LABELS[:, :100] = 1
LOGITS = np.random.default_rng(0).normal(size=(2, 200, 100))
CALLS = {
    "confidence_loss": lambda i, f: sm.confidence_loss(
        LOSS, LABELS, background=i(0), neg_pos_ratio=f(0.5), max_negatives=i(100), num_threads=i(1)
    ).num_kept.tolist(),
    "multibox_loss": lambda i, f: (
        sm.multibox_loss(
            LOGITS, LABELS, background=i(-100), loc_weight=f(0.5), beta=f(0.5), class_axis=i(2), num_threads=i(1)
        ).loss
    ),
    "sigmoid_cross_entropy": lambda i, _: sm.sigmoid_cross_entropy(LOGITS, LABELS, background=i(100)).sum(),
    "focal_loss": lambda _, f: sm.focal_loss(LOGITS, LABELS, alpha=f(0.25), gamma=f(2)).sum(),
    "softmax_cross_entropy": lambda _, f: sm.softmax_cross_entropy(
        LOGITS, LABELS, label_smoothing=f(0.25), prob_floor=f(0.5), class_weights=[f(0.5)] * 100
    ).sum(),
    "smooth_l1": lambda _, f: sm.smooth_l1(LOGITS, 0 * LOGITS, beta=f(0.5)).sum(),
    "ohem": lambda i, f: sm.ohem(
        LOSS, num_hard=i(120), labels=LABELS, background=i(0), neg_pos_ratio=f(1000), min_negatives=i(1)
    ).num_kept.tolist(),
    "ratio_sweep": lambda i, f: sm.ratio_sweep(LOSS, LABELS, ratios=[f(0.5), i(100)], background=i(0)).loss.tolist(),
    "top_losses": lambda i, _: sm.top_losses(LOSS, LABELS, i(1), background=i(0)).sample.tolist(),
    "level_table": lambda i, _: sm.level_table(LOSS, LABELS, [i(100), i(100)], background=0).num_pos.tolist(),
    "compare_recipes": lambda i, f: sm.compare_recipes(
        LOGITS, LABELS, background=i(-100), recipes={"own": {"neg_pos_ratio": f(0.5)}}, rng=i(3)
    ).loss.tolist(),
    "relabel": lambda i, _: (
        sm.mine_hard_negatives(LOSS, LABELS, background=0)
        .relabel(LABELS.astype(np.int8), ignore_index=i(-1))
        .tolist()
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_takes_numpy_scalars_without_a_warning(name):
    assert CALLS[name](np.int8, np.float16) == CALLS[name](int, float)  # warnings are errors here


def test_an_analysis_with_numpy_scalars_is_the_one_with_numbers_of_python():
    def analysed(i, f):
        analysis = sm.LossAnalysis(
            ratios=np.array([0.5, 3], f) if f is not float else [0.5, 3],
            levels=[i(100), i(100)],
            top=i(3),
            neg_pos_ratio=f(0.5),
            background=i(0),
            class_axis=i(-1),
            num_threads=i(1),
        )
        analysis.update(LOSS, LABELS, first_sample=i(126), ids=[i(3), i(4)])
        return analysis

    got, expected = analysed(np.int8, np.float16), analysed(int, float)
    assert got.spec == expected.spec
    assert json.dumps(got.to_state()) == json.dumps(expected.to_state())
    kept = got.result().distributions["kept"]
    assert kept.quantile(np.float16(0.5)) == kept.quantile(0.5)
    np.testing.assert_array_equal(kept.log_bins(np.int8(8))[1], kept.log_bins(8)[1])


def test_a_pickle_of_the_recipes_is_the_recipes():
    assert pickle.loads(pickle.dumps(sm.recipes)) is sm.recipes  # noqa: S301 - our own
    assert pickle.loads(pickle.dumps(dict(sm.recipes))) == dict(sm.recipes)  # noqa: S301
    assert repr(sm.recipes).startswith("<recipes: seed, ljanyst,")
    with pytest.raises(TypeError, match="does not support item assignment"):
        sm.recipes["mine"] = {}


TYPOS = {
    "neg_pos_ration": "neg_pos_ratio",
    "backgroud": "background",
    "num_thread": "num_threads",
    "normalise": "normalize",
    "min_negative": "min_negatives",
    "sample_ofsets": "sample_offsets",
}


@pytest.mark.parametrize("typo", TYPOS)
def test_a_mistyped_keyword_is_told_which_is_near(typo):
    with pytest.raises(TypeError) as error:
        sm.confidence_loss(LOSS, LABELS, **{typo: 0})
    assert str(error.value) == f"{typo}: no such keyword; did you mean {TYPOS[typo]}?"


def test_a_keyword_that_is_near_none_is_only_refused():
    with pytest.raises(TypeError, match=r"^colour: no such keyword$"):
        sm.mine_hard_negatives(LOSS, LABELS, colour="red")


def test_the_keywords_of_another_function_are_not_near():
    with pytest.raises(TypeError, match=r"^normalize: no such keyword$"):
        sm.mine_hard_negatives(LOSS, LABELS, background=0, normalize="batch")


def test_a_mistyped_recipe_is_told_which_is_near():
    with pytest.raises(
        ValueError, match=r"^recipes: expected names of ssd_mining\.recipes, got 'torchvison'; did you "
    ):
        sm.compare_recipes(LOGITS, LABELS, background=0, recipes=["torchvison"])


def test_numpy_scalars_are_numbers_in_a_matching_too():
    given = {"pos_iou": np.float32(0.4), "neg_iou": (np.float16(0.1), np.float32(0.3)), "force_iou": np.float32(0.2)}
    got = sm.Matching(**given, background=np.int8(2), ignore_index=np.int16(-1))
    assert got == sm.Matching(pos_iou=0.4, neg_iou=(0.1, 0.3), force_iou=0.2, background=2)
    assert (got.rule.pos_iou, got.rule.neg_low, got.rule.neg_high, got.rule.force_iou) == (0.4, 0.1, 0.3, 0.2)
    assert "np." not in repr(got)
    assert sm.Matching(neg_iou=np.float32(0.3)).neg_iou == 0.3
