"""``mine``: what it prints and writes, in blocks of any size, of every kind of labels and files."""

import csv
import dataclasses
import json
import math
import re
from typing import get_args

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining import choices, losses
from tests.support.batches import REAL_FILES, load_real
from tests.support.commands import run, shell, summary_of


@pytest.mark.parametrize("max_memory", [1, 2, 256])
def test_mine_in_blocks_equals_one_call_on_everything(demo, tmp_path, max_memory):
    folder, _ = demo
    words = (folder / "losses.npy", folder / "labels.npy", "--background", 0, "--max-memory", max_memory)
    got = summary_of(*words, "--out", tmp_path / "i")
    assert summary_of(*words, "--out", tmp_path / "m", "--save", "masks") == got
    assert json.loads((tmp_path / "i" / "summary.json").read_text()) == got

    arrays = np.load(folder / "losses.npy"), np.load(folder / "labels.npy")
    res = sm.mine_hard_negatives(*arrays, background=0)
    out = sm.confidence_loss(*arrays, background=0)
    offsets, anchors = res.indices()
    np.testing.assert_array_equal(np.load(tmp_path / "i" / "offsets.npy"), offsets, strict=True)
    np.testing.assert_array_equal(np.load(tmp_path / "i" / "anchors.npy"), anchors, strict=True)
    mask = np.load(tmp_path / "m" / "hard_negative_mask.npy")
    np.testing.assert_array_equal(mask, res.hard_negative_mask, strict=True)

    worst = np.argsort(-out.confidence_loss, kind="stable")[:5]
    assert got == {
        "losses": str(folder / "losses.npy"),
        "labels": str(folder / "labels.npy"),
        "num_samples": 12,
        "num_without_pos": int((res.num_pos == 0).sum()),
        "num_anchors": 12 * 8732,
        "num_pos": int(res.num_pos.sum()),
        "num_neg": int(res.num_neg.sum()),
        "num_kept": int(res.num_kept.sum()),
        "positive_sum": math.fsum(res.positive_sum),
        "negative_sum": math.fsum(res.negative_sum),
        "loss_sum": math.fsum(out.confidence_loss),
        "loss": out.loss,
        "normalize": "batch",
        "hazards": [],
        "top_samples": {
            "sample": worst.tolist(),
            **{name: getattr(out, name)[worst].tolist() for name in ("confidence_loss", "num_pos", "num_kept")},
        },
        "mining": dataclasses.asdict(sm.Mining(background=0)),
    }
    for kind in "im":
        with (tmp_path / kind / "per_sample.csv").open() as table:
            rows = list(csv.DictReader(table))
        expected = {"sample": np.arange(12), "confidence_loss": out.confidence_loss} | res.to_dict()
        assert set(rows[0]) == set(expected)
        for name, column in expected.items():
            np.testing.assert_array_equal([float(row[name]) for row in rows], column)


def test_a_process_of_its_own_prints_the_same_summary(demo):
    folder, _ = demo
    words = (folder / "losses.npy", folder / "labels.npy", "--background", 0)
    process = shell("mine", *words, "--json", "--max-memory", 2)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert json.loads(out) == summary_of(*words)


TABLE = """\
samples                                2
samples without positives              1
anchors                            3,000
positives                              1     0.03%
negatives                          2,999    99.97%
ignored                                0     0.00%
kept negatives                         3     0.10%
loss of positives                      4  nats
loss of kept negatives               1.5  nats
confidence loss                      5.5  nats, normalize=positives

                    largest losses, nats   positives   kept negatives
                       1          5.5000           1                3
                       0          0.0000           0                0
"""


def test_anchors_that_are_neither_positive_nor_negative_are_ignored(tmp_path):
    np.save(tmp_path / "losses.npy", np.ones((1, 8)))
    np.save(tmp_path / "labels.npy", [[2, 0, 0, 0, 0, 0, -1, -1]])
    words = ("mine", tmp_path / "losses.npy", tmp_path / "labels.npy", "--background", 0, "--ignore-index", -1)
    assert "ignored                                2    25.00%\n" in run(*words)[1]


def test_mine_and_report_say_the_same_of_a_file(demo):
    folder, _ = demo
    words = (folder / "losses.npy", folder / "labels.npy", "--background", 0)
    mined, reported = (json.loads(run(command, *words, "--json")[1]) for command in ("mine", "report"))
    same = set(mined) & set(reported) - {"top_samples", "hazards"}
    assert same == {"num_samples", "num_without_pos", "num_anchors", "num_pos", "num_neg", "num_kept",
                    "positive_sum", "negative_sum", "loss_sum", "loss"}  # fmt: skip
    for name in same:
        assert mined[name] == pytest.approx(reported[name], rel=1e-12), name
    for name, column in mined["top_samples"].items():
        np.testing.assert_allclose(column, reported["top_samples"][name][:5], rtol=1e-12)
    tables = [run(command, *words)[1].splitlines()[:10] for command in ("mine", "report")]
    assert tables[0] == tables[1]


def test_the_table_is_aligned_and_names_its_units(tmp_path):
    conf_loss = np.full((2, 1500), 0.5)
    conf_loss[1, 7] = 4
    np.save(tmp_path / "losses.npy", conf_loss)
    np.save(tmp_path / "mask.npy", conf_loss == 4)
    words = ("mine", tmp_path / "losses.npy", tmp_path / "mask.npy", "--normalize", "positives")
    assert run(*words) == (0, TABLE, "")


@pytest.mark.parametrize("save", ["indices", "masks"])
def test_all_kinds_of_labels_and_files_give_the_same_result(batch, save):
    folder, arrays = batch
    np.save(folder / "fortran.npy", np.asfortranarray(arrays["one_hot"]))
    np.save(folder / "big_endian.npy", arrays["losses"].astype(">f4"))
    losses_file, archive = folder / "losses.npy", f"{folder}/all.npz"
    results = []
    for i, words in enumerate(
        [
            (losses_file, folder / "labels.npy", "--background", 0),
            (losses_file, folder / "mask.npy"),
            (losses_file, folder / "one_hot.npy"),
            (losses_file, folder / "one_hot.npy", "--background", -1),
            (folder / "big_endian.npy", folder / "fortran.npy"),
            (f"{archive}:losses", f"{archive}:labels", "--background", 0),
            (f"{archive}:losses", f"{archive}:mask"),
        ]
    ):
        summary_of(*words, "--out", folder / f"out{i}", "--save", save)
        names = ["hard_negative_mask.npy"] if save == "masks" else ["anchors.npy", "offsets.npy"]
        results.append([(folder / f"out{i}" / name).read_bytes() for name in [*names, "per_sample.csv"]])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize(
    ("words", "selection"),
    [
        (["--neg-pos-ratio", "1.5"], {"neg_pos_ratio": 1.5}),
        (["--min-negatives", "4"], {"min_negatives": 4}),
        (
            ["--min-negatives", "4", "--min-negatives-when", "no_positives"],
            {"min_negatives": 4, "min_negatives_when": "no_positives"},
        ),
        (["--max-negatives", "0"], {"max_negatives": 0}),
        (["--ignore-index", "2"], {"ignore_index": 2}),
        (["--nan-policy", "omit"], {"nan_policy": "omit"}),
        (["--all-zero", "raise"], {"all_zero": "raise"}),
        (["--num-threads", "1"], {}),
    ],
)
def test_every_option_reaches_the_rule_that_it_names(batch, words, selection):
    folder, arrays = batch
    got = summary_of(folder / "losses.npy", folder / "labels.npy", "--background", 0, *words)
    out = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0, **selection)
    assert got["mining"] == dataclasses.asdict(sm.Mining(background=0, **selection))
    for name in ("num_pos", "num_neg", "num_kept"):
        assert got[name] == getattr(out, name).sum()
    assert (got["num_anchors"], got["loss"]) == (1200, out.loss)
    assert got["num_without_pos"] == (out.num_pos == 0).sum() > 0


def test_every_normaliser_gives_the_loss_of_the_library(batch):
    folder, arrays = batch
    assert sorted(choices.NORMALIZE) == sorted(get_args(losses.Normalize))
    for normalize in choices.NORMALIZE:
        words = (folder / "losses.npy", folder / "labels.npy", "--background", 0, "--normalize", normalize)
        got = summary_of(*words)
        out = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0, normalize=normalize)
        assert (got["loss"], got["loss_sum"]) == (out.loss, math.fsum(out.confidence_loss))


def test_the_worst_samples_come_worst_first_and_nan_before_all(batch):
    folder, arrays = batch
    arrays["losses"][[11, 3], 0] = np.inf, np.nan
    arrays["labels"][[11, 3], 0] = 1
    np.save(folder / "losses.npy", arrays["losses"])
    np.save(folder / "labels.npy", arrays["labels"])
    words = (folder / "losses.npy", folder / "labels.npy", "--background", 0, "--nan-policy", "propagate", "--top", 3)
    got = summary_of(*words)
    assert got["top_samples"]["sample"][:2] == [3, 11]
    assert got["top_samples"]["confidence_loss"][:2] == [None, None]  # JSON has no NaN, no inf
    assert got["loss"] is None
    _, table, _ = run("mine", *words)
    assert table.splitlines()[-3].split()[:2] == ["3", "nan"]
    assert table.splitlines()[-2].split()[:2] == ["11", "inf"]


def test_infinities_of_both_signs_are_nan_without_a_warning(tmp_path):
    np.save(tmp_path / "losses.npy", [[np.inf, -np.inf], [np.inf, 0], [-np.inf, 0]])
    np.save(tmp_path / "mask.npy", np.array([[True, False]] * 3))
    got = summary_of(tmp_path / "losses.npy", tmp_path / "mask.npy", "--out", tmp_path / "out")
    assert got["top_samples"]["sample"] == [0, 1, 2]
    with (tmp_path / "out" / "per_sample.csv").open() as table:
        assert [row["confidence_loss"] for row in csv.DictReader(table)] == ["nan", "inf", "-inf"]


def test_no_worst_samples_are_listed_if_none_are_asked_for(batch):
    folder, _ = batch
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--top", 0)
    assert "largest losses" not in run(*words)[1]


def test_a_file_without_samples_is_mined(tmp_path):
    np.save(tmp_path / "losses.npy", np.zeros((0, 8), np.float32))
    np.save(tmp_path / "labels.npy", np.zeros((0, 8), np.int64))
    words = (tmp_path / "losses.npy", tmp_path / "labels.npy", "--background", 0, "--out", tmp_path / "out")
    got = summary_of(*words)
    assert (got["num_samples"], got["loss"], got["top_samples"]["sample"]) == (0, 0, [])
    assert np.load(tmp_path / "out" / "offsets.npy").tolist() == [0]
    assert np.load(tmp_path / "out" / "anchors.npy").shape == (0,)


@pytest.mark.parametrize("name", REAL_FILES)
@pytest.mark.parametrize("background", ["first", "last"])
def test_the_real_files_give_the_numbers_of_their_readme(tmp_path, name, background):
    real = load_real(name, background)
    np.save(tmp_path / "losses.npy", real["losses"])
    labels = real["labels"]
    if background == "last":
        labels = np.eye(real["logits"].shape[2], dtype=np.float32)[labels]  # the notebook's gt_cl
    np.save(tmp_path / "labels.npy", labels)
    words = [] if background == "last" else ["--background", 0]
    got = summary_of(tmp_path / "losses.npy", tmp_path / "labels.npy", *words, "--max-memory", 8)
    assert f"{got['loss']:.6f}" == REAL_FILES[name]


def test_the_rules_of_the_library_can_be_asked_for(demo):
    folder, _ = demo
    losses_of, labels = np.load(folder / "losses.npy"), np.load(folder / "labels.npy")
    for words, keywords in [
        (("--rounding", "ceil", "--neg-pos-ratio", 0.7), {"rounding": "ceil", "neg_pos_ratio": 0.7}),
        (("--scope", "batch", "--extra-negatives", 2), {"scope": "batch", "extra_negatives": 2}),
        (("--skip-hardest", 5, "--tie-policy", "all"), {"skip_hardest": 5, "tie_policy": "all"}),
        (("--pool-size", 2, "--seed", 9), {"pool_size": 2, "rng": 9}),
        (("--min-negatives", 0.01), {"min_negatives": 0.01}),
    ]:
        code, out, err = run(
            *("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--json"), *words
        )
        assert (code, err) == (0, "")
        expected = sm.confidence_loss(losses_of, labels, background=0, **keywords)
        assert json.loads(out)["loss"] == pytest.approx(expected.loss, rel=1e-12)
        assert json.loads(out)["num_kept"] == expected.num_kept.sum()


def test_the_sizes_of_the_blocks_change_no_draw(demo):
    folder, _ = demo
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--pool-size", 3, "--json")
    whole, in_blocks = (json.loads(run(*words, "--max-memory", most)[1]) for most in (256, 2))
    assert whole["num_kept"] == in_blocks["num_kept"]
    assert whole["top_samples"] == in_blocks["top_samples"]


def test_a_scope_that_needs_the_whole_file_says_how_much_that_is(demo):
    folder, _ = demo
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--scope", "batch")
    code, _, err = run(*words, "--max-memory", 1)
    assert code == 2
    told = r"--scope: expected --max-memory (\d+), for batch takes the whole file at once, got 1"
    need = int(re.search(told, err)[1])
    assert run(*words, "--max-memory", need)[0] == 0
    assert run(*words, "--max-memory", need - 1)[0] == 2
