"""The command line: what it prints and writes, its exit codes, its errors, its manners when it is stopped."""

import contextlib
import csv
import dataclasses
import json
import re
import shlex
import signal
import statistics
import time
import tracemalloc
from importlib import metadata
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining import choices, cli, losses, mining_rule
from ssd_mining.cli import mine, synthetic
from ssd_mining.files import output, sources
from tests.batches import REAL_FILES, ROOT, load_real
from tests.tools.commands import run, shell

USED = "expected a new name or an empty directory, got one that is in use; name another with --out"


def summary_of(*words):
    code, out, err = run("mine", *words, "--json")
    assert (code, err) == (0, "")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(out, parse_constant=refuse)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Write a demo of 12 samples; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("cli") / "demo"
    code, out, err = run("demo", "--samples", 12, "--seed", 3, "--out", folder)
    assert (code, err) == (0, "")
    return folder, out


@pytest.fixture
def batch(tmp_path):
    """Save a small batch with every kind of labels; return its folder and its arrays."""
    rng = np.random.default_rng(7)
    labels = rng.choice([0, 1, 2], p=[0.9, 0.05, 0.05], size=(40, 30))
    labels[5] = 0
    arrays = {
        "losses": np.round(rng.gamma(0.3, size=labels.shape), 2).astype(np.float32),
        "labels": labels,
        "mask": labels > 0,
        "one_hot": np.eye(3, dtype=np.float32)[labels][..., [1, 2, 0]],  # background last
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.savez_compressed(tmp_path / "all.npz", **arrays)
    return tmp_path, arrays


# The demo


def test_the_demo_writes_the_synthetic_data_and_says_that_it_is_synthetic(demo):
    folder, out = demo
    for i in (0, 11):
        expected = synthetic.sample(3, i)
        np.testing.assert_array_equal(np.load(folder / "losses.npy")[i], expected.conf_loss, strict=True)
        np.testing.assert_array_equal(np.load(folder / "labels.npy")[i], expected.labels, strict=True)
    assert np.load(folder / "losses.npy").shape == np.load(folder / "labels.npy").shape == (12, 8732)
    np.testing.assert_array_equal(np.load(folder / "default_boxes.npy"), synthetic.default_boxes(), strict=True)
    readme = (folder / "README.txt").read_text()
    assert readme.startswith("SYNTHETIC DATA, as drawn by `ssd-mining demo --samples 12 --seed 3`. No detector saw")
    assert out.startswith(
        f"Synthetic data (seed 3), which no detector ever saw, written to {folder}. Mined, it gives:"
    )
    assert sorted(path.name for path in folder.parent.iterdir()) == ["demo"]


def test_the_command_that_the_demo_ends_with_prints_the_table_of_the_demo(demo):
    folder, out = demo
    command = shlex.split(out.splitlines()[-1])
    assert command[:2] == ["ssd-mining", "mine"]
    code, got, err = run(*command[1:])
    assert (code, err) == (0, "")
    table = out[out.index("samples  ") : out.index("\nMine it yourself")]
    assert got == f"{table}\nwritten to {folder}/mined\n"
    assert sorted(path.name for path in (folder / "mined").iterdir()) == [
        "anchors.npy",
        "offsets.npy",
        "per_sample.csv",
        "summary.json",
    ]


def test_the_demo_does_not_touch_a_directory_in_use(demo):
    folder, _ = demo
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run("demo", "--out", folder) == (2, "", f"ssd-mining: error: {folder}: {USED}\n")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# What mine says and writes


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

    worst = np.argsort(-out.per_sample, kind="stable")[:5]
    assert got == {
        "losses": str(folder / "losses.npy"),
        "labels": str(folder / "labels.npy"),
        "samples": 12,
        "samples_without_positives": int((res.num_pos == 0).sum()),
        "hazards": [],
        "anchors_per_sample": 8732,
        "positives": int(res.num_pos.sum()),
        "negatives": int(res.num_neg.sum()),
        "ignored": 0,
        "kept_negatives": int(res.num_kept.sum()),
        "mean_confidence_loss": out.loss,
        "batch_loss": out.loss,
        "normalize": "batch",
        "worst_samples": [
            {
                "sample": i,
                "confidence_loss": out.per_sample[i],
                "num_pos": res.num_pos[i],
                "num_kept": res.num_kept[i],
            }
            for i in worst
        ],
        "mining": dataclasses.asdict(sm.Mining(background=0)),
    }
    for kind in "im":
        with (tmp_path / kind / "per_sample.csv").open() as table:
            rows = list(csv.DictReader(table))
        expected = {"sample": np.arange(12), "confidence_loss": out.per_sample} | res.to_dict()
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
anchors per sample                 1,500
positives                              1     0.03%
negatives                          2,999    99.97%
ignored                                0     0.00%
kept negatives                         3     0.10%
mean confidence loss                2.75  nats per sample
batch loss                           5.5  nats, normalize=positives

worst samples   confidence loss   positives   kept negatives
            1            5.5000           1                3
            0            0.0000           0                0
"""


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
    counts = (out.num_pos.sum(), out.num_neg.sum(), out.num_kept.sum(), 1200 - (out.num_pos + out.num_neg).sum())
    assert tuple(got[name] for name in ("positives", "negatives", "kept_negatives", "ignored")) == counts
    assert got["batch_loss"] == out.loss
    assert got["samples_without_positives"] == (out.num_pos == 0).sum() > 0


def test_every_normaliser_gives_the_loss_of_the_library(batch):
    folder, arrays = batch
    assert sorted(choices.NORMALIZE) == sorted(get_args(losses.Normalize))
    for normalize in choices.NORMALIZE:
        words = (folder / "losses.npy", folder / "labels.npy", "--background", 0, "--normalize", normalize)
        got = summary_of(*words)
        out = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0, normalize=normalize)
        assert (got["batch_loss"], got["mean_confidence_loss"]) == (out.loss, out.per_sample.mean())


def test_the_worst_samples_come_worst_first_and_nan_before_all(batch):
    folder, arrays = batch
    arrays["losses"][[11, 3], 0] = np.inf, np.nan
    arrays["labels"][[11, 3], 0] = 1
    np.save(folder / "losses.npy", arrays["losses"])
    np.save(folder / "labels.npy", arrays["labels"])
    words = (folder / "losses.npy", folder / "labels.npy", "--background", 0, "--nan-policy", "propagate", "--top", 3)
    got = summary_of(*words)
    assert [row["sample"] for row in got["worst_samples"]][:2] == [3, 11]
    assert [row["confidence_loss"] for row in got["worst_samples"]][:2] == [None, None]  # JSON has no NaN, no inf
    assert got["batch_loss"] is None
    _, table, _ = run("mine", *words)
    assert table.splitlines()[-3].split()[:2] == ["3", "nan"]
    assert table.splitlines()[-2].split()[:2] == ["11", "inf"]


def test_infinities_of_both_signs_are_nan_without_a_warning(tmp_path):
    np.save(tmp_path / "losses.npy", [[np.inf, -np.inf], [np.inf, 0], [-np.inf, 0]])
    np.save(tmp_path / "mask.npy", np.array([[True, False]] * 3))
    got = summary_of(tmp_path / "losses.npy", tmp_path / "mask.npy", "--out", tmp_path / "out")
    assert [row["sample"] for row in got["worst_samples"]] == [0, 1, 2]
    with (tmp_path / "out" / "per_sample.csv").open() as table:
        assert [row["confidence_loss"] for row in csv.DictReader(table)] == ["nan", "inf", "-inf"]


def test_no_worst_samples_are_listed_if_none_are_asked_for(batch):
    folder, _ = batch
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--top", 0)
    assert "worst" not in run(*words)[1]


def test_a_file_without_samples_is_mined(tmp_path):
    np.save(tmp_path / "losses.npy", np.zeros((0, 8), np.float32))
    np.save(tmp_path / "labels.npy", np.zeros((0, 8), np.int64))
    words = (tmp_path / "losses.npy", tmp_path / "labels.npy", "--background", 0, "--out", tmp_path / "out")
    got = summary_of(*words)
    assert (got["samples"], got["batch_loss"], got["worst_samples"]) == (0, 0, [])
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
    assert f"{got['batch_loss']:.6f}" == REAL_FILES[name]


# Errors


def test_options_that_cannot_be_meant_end_with_2(batch):
    folder, _ = batch
    words = ("mine", folder / "losses.npy", folder / "labels.npy")
    for options, expected in {
        (): "--background: expected the background class, for integer labels, got None; systems differ between first "
        "and last class, so there is no default (often background=0)",
        ("--background", "-1"): "--background: expected a class number of at least 0, for integer labels, got -1; "
        "integer labels do not tell how many classes there are",
        ("--neg-pos-ratio", "-1"): "--neg-pos-ratio: expected a finite number of at least 0, got -1.0",
        ("--neg-pos-ratio", "nan"): "--neg-pos-ratio: expected a finite number of at least 0, got nan",
        ("--min-negatives", "-1"): "--min-negatives: expected a whole number of at least 0, got -1",
        (
            "--min-negatives",
            "3",
            "--max-negatives",
            "2",
        ): "--min-negatives: expected at most max_negatives (2), got 3",
        ("--background", "0", "--ignore-index", "0"): "--ignore-index: expected a label other than background, got 0 "
        "for both",
        ("--background", "0", "--save", "masks"): "--save: expected --out DIR beside --save masks, got none",
        ("--background", "0", "--out", str(folder)): f"{folder}: {USED}",
    }.items():
        assert run(*words, *options) == (2, "", f"ssd-mining: error: {expected}\n")


def test_words_that_argparse_does_not_know_end_with_2(batch):
    folder, _ = batch
    words = ("mine", folder / "losses.npy", folder / "labels.npy")
    for command, prog, expected in [
        ((), "", "the following arguments are required: COMMAND"),
        (("mine", "a.npy"), " mine", "the following arguments are required: LABELS"),
        (("demo", "--samples", "0"), " demo", "argument --samples: expected a whole number of at least 1, got '0'"),
        (("demo", "--seed", "-1"), " demo", "argument --seed: expected a whole number of at least 0, got '-1'"),
        (
            (*words, "--max-memory", "½"),
            " mine",
            "argument --max-memory: expected a whole number of at least 1, got '½'",
        ),
        (
            (*words, "--num-threads", "0"),
            " mine",
            "argument --num-threads: expected a whole number of at least 1, got '0'",
        ),
        ((*words, "--top", "few"), " mine", "argument --top: expected a whole number of at least 0, got 'few'"),
    ]:
        code, out, err = run(*command)
        assert (code, out) == (2, "")
        assert err.startswith(f"usage: ssd-mining{prog} ")
        assert err.endswith(f"ssd-mining{prog}: error: {expected}\n")
    for option in ("--normalize", "--nan-policy", "--all-zero", "--min-negatives-when", "--save"):
        code, _, err = run(*words, option, "perhaps")
        assert (code, f"argument {option}: invalid choice: 'perhaps'" in err) == (2, True)


def test_files_that_do_not_fit_end_with_3(batch):
    folder, arrays = batch
    np.save(folder / "narrow.npy", arrays["labels"][:, 1:])
    np.save(folder / "flat.npy", arrays["losses"][0])
    np.save(folder / "complex.npy", arrays["losses"] * 1j)
    np.save(folder / "half.npy", arrays["losses"].astype(np.float16))
    (folder / "cut.npy").write_bytes((folder / "losses.npy").read_bytes()[:-4])
    kinds = "integer classes or a bool pos_mask of shape (B, A), or one-hot scores of shape (B, A, C)"
    keys = "one of its arrays (losses, labels, mask, one_hot) after the colon"
    promise = "4,800 bytes of values for shape (40, 30) and dtype float32, got 4,796: the file is cut short"
    numbers = "float16, float32, float64 or integer values"
    for loss_name, label_name, culprit, expected in [
        ("none.npy", "labels.npy", "none.npy", "a readable file, got No such file or directory"),
        ("losses.npy", "losses.csv", "losses.csv", f"a name that ends in {sources.KNOWN}, got another"),
        ("all.npz", "labels.npy", "all.npz", f"{keys}, got none"),
        ("complex.npy", "labels.npy", "complex.npy", "bools, integers or floats, got dtype complex64"),
        ("cut.npy", "labels.npy", "cut.npy", promise),
        ("flat.npy", "labels.npy", "flat.npy", "a (B, A) array, or (N,) with sample_offsets, got shape (30,)"),
        ("mask.npy", "labels.npy", "mask.npy", f"{numbers}, got dtype bool"),
        ("losses.npy", "narrow.npy", "narrow.npy", "the shape of conf_loss (40, 30), got shape (40, 29)"),
        ("losses.npy", "half.npy", "half.npy", f"{kinds}, got dtype float16 of shape (40, 30)"),
    ]:
        got = run("mine", folder / loss_name, folder / label_name, "--background", 0, "--out", folder / "out")
        assert got == (3, "", f"ssd-mining: error: {folder / culprit}: expected {expected}\n")
        assert not (folder / "out").exists()


@pytest.mark.parametrize("sample", [0, 17, 39])
def test_values_that_are_refused_are_found_where_they_stand_in_the_file(batch, monkeypatch, sample):
    folder, arrays = batch
    monkeypatch.setattr(mine, "MINING_BYTES", 7000)  # of 30 anchors: four samples make a block of 1 MiB
    where = f"(sample {sample}, anchor 4)"
    bad = {name: array.copy() for name, array in arrays.items()}
    bad["losses"][sample, 4] = np.nan
    bad["labels"][sample, 4] = -7
    bad["one_hot"][sample, 4] = [0.5, 0.25, 0]
    for name, array in bad.items():
        np.save(folder / f"bad_{name}.npy", array)
    nan = 'no NaN (nan_policy="raise"; "omit" and "propagate" allow it), got NaN'
    number, hint = "class numbers of at least 0, got -7", "; name the label of ignored anchors in ignore_index"
    scores = (
        "one-hot or soft scores, which are never negative and add up to 1 (or are all zero), got [0.5 , 0.25, 0. ]"
    )
    for loss_name, label_name, culprit, expected in [
        ("bad_losses.npy", "mask.npy", "bad_losses.npy", f"{nan} at {where}"),
        ("losses.npy", "bad_labels.npy", "bad_labels.npy", f"{number} at {where}{hint}"),
        ("losses.npy", "bad_one_hot.npy", "bad_one_hot.npy", f"{scores} at {where}"),
    ]:
        background = ["--background", 0] if label_name == "bad_labels.npy" else []
        words = (folder / loss_name, folder / label_name, *background, "--max-memory", 1, "--out", folder / "out")
        assert run("mine", *words) == (3, "", f"ssd-mining: error: {folder / culprit}: expected {expected}\n")
        assert [path.name for path in folder.iterdir() if "out" in path.name] == []


def test_a_long_row_is_shown_in_one_line(batch):
    folder, arrays = batch
    np.save(folder / "scores.npy", np.full((*arrays["losses"].shape, 40), 1 / 3))
    code, out, err = run("mine", folder / "losses.npy", folder / "scores.npy")
    assert (code, out, err.count("\n")) == (3, "", 1)


def test_a_fault_of_ours_is_not_hidden(batch, monkeypatch):
    folder, _ = batch
    monkeypatch.setattr(mine, "check_losses", lambda *_: int("a fault"))
    with pytest.raises(ValueError, match="a fault"):
        run("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0)


def test_memory_that_cannot_be_had_ends_with_3(batch, monkeypatch):
    folder, _ = batch

    def read(*_):
        raise MemoryError("Unable to allocate 3.97 TiB")

    monkeypatch.setattr(sources.ArraySource, "__getitem__", read)
    got = run("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0)
    assert got == (3, "", "ssd-mining: error: Unable to allocate 3.97 TiB\n")


# Stopped half-way


def test_output_that_cannot_be_written_ends_with_3_and_leaves_nothing(batch):
    folder, _ = batch
    (folder / "file").write_text("precious")
    words = (
        "mine",
        folder / "losses.npy",
        folder / "labels.npy",
        "--background",
        0,
        "--out",
        folder / "file" / "out",
    )
    expected = f"ssd-mining: error: {folder}/file/out: expected a place to write to, got Not a directory\n"
    assert run(*words) == (3, "", expected)
    assert (folder / "file").read_text() == "precious"


def test_a_full_disk_ends_with_3_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        got = run("demo", "--samples", 8, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    expected = f"ssd-mining: error: {tmp_path}/out: expected a place to write to, got File too large\n"
    assert got == (3, "", expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", ["indices", "masks"])
def test_an_interrupt_ends_with_130_and_leaves_nothing(batch, monkeypatch, save):
    folder, _ = batch
    before = sorted(folder.iterdir())
    write, num_blocks = output.array_writer, []

    @contextlib.contextmanager
    def interrupted(*args):
        with write(*args) as append:

            def append_some(block):
                append(block)
                num_blocks.append(1)
                if len(num_blocks) == 4:
                    raise KeyboardInterrupt

            yield append_some

    monkeypatch.setattr(output, "array_writer", interrupted)
    monkeypatch.setattr(mine, "MINING_BYTES", 7000)
    words = (folder / "losses.npy", folder / "mask.npy", "--max-memory", 1, "--out", folder / "out", "--save", save)
    assert run("mine", *words) == (130, "", "")
    assert sorted(folder.iterdir()) == before


DYING = """
import contextlib, os, signal, sys
from ssd_mining import cli
from ssd_mining.cli import mine
from ssd_mining.files import output

write, num_blocks = output.array_writer, []

@contextlib.contextmanager
def dying(*args):
    with write(*args) as append:
        def append_some(block):
            append(block)
            num_blocks.append(1)
            if len(num_blocks) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        yield append_some

output.array_writer = dying
mine.MINING_BYTES = 7000
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("command", ["demo", "mine"])
def test_a_killed_run_leaves_nothing_under_the_final_name_and_can_be_repeated(batch, command):
    folder, _ = batch
    words = ["demo", "--samples", 3, "--out", folder / "out"]
    if command == "mine":
        words = ["mine", folder / "losses.npy", folder / "mask.npy", "--max-memory", 1, "--out", folder / "out"]
    process = shell(*words, script=DYING, env={"NUMBA_DISABLE_JIT": "1"})
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "out").exists()
    left = [path.name for path in folder.iterdir() if "out" in path.name]
    assert len(left) == 1
    assert left[0].startswith(".out.partial-")
    code, _, err = run(*words)
    assert (code, err) == (0, "")
    assert (folder / "out").is_dir()


def test_a_closed_pipe_ends_quietly(tmp_path):
    with shell("demo", "--samples", 1, "--out", tmp_path / "out") as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_stdout_ends_with_3(tmp_path):
    with Path("/dev/full").open("w") as full:
        process = shell("demo", "--samples", 1, "--out", tmp_path / "out", stdout=full)
        _, err = process.communicate()
    expected = "ssd-mining: error: stdout: expected a place to write to, got No space left on device\n"
    assert (process.returncode, err) == (3, expected)


# Help, speed, memory


USAGES = {
    "demo": "demo",
    "mine": "mine LOSSES LABELS",
    "report": "report LOSSES-or-LOGITS LABELS --out DIR",
    "merge": "merge DIR [DIR ...] --out DIR",
    "compare": "compare A B",
    "doctor": "doctor",
}


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in USAGES)])
def test_help_loads_neither_numpy_nor_numba(words):
    script = "import sys; from ssd_mining import cli\ntry: cli.main(sys.argv[1:])\nfinally: print(*sys.modules)"
    out, err = shell(*words, script=script).communicate()
    assert out.startswith(f"usage: ssd-mining {USAGES.get(words[0], '')}")
    assert err == ""
    assert not {"numpy", "numba"} & set(out.split("\n")[-2].split())


def test_help_answers_within_150_milliseconds_of_an_empty_program():
    def seconds(**options):
        start = time.perf_counter()
        assert shell("--help", **options).communicate()[1] == ""
        return time.perf_counter() - start

    empty, ours = zip(*((seconds(script="pass"), seconds()) for _ in range(7)), strict=True)
    assert statistics.median(ours) - statistics.median(empty) < 0.150


NEED_MORE = {"rank_by", "neg_overlap"}  # than losses and labels


def test_help_gives_the_defaults_of_the_library():
    text = " ".join(run("mine", "--help")[1].split())
    for field in dataclasses.fields(sm.Mining):
        if field.name in NEED_MORE:
            continue
        option = f"--{field.name.replace('_', '-')} "
        described = text[text.index(option) :].split(" --")[0]
        expected = {"background": "the last", "max_negatives": "no limit", "neg_pos_ratio": "3", "pool_size": "1"}
        default = expected.get(field.name, str(field.default).lower())
        assert default in described
        if field.name in mining_rule.CHOICES:
            assert f"{option}{{{','.join(mining_rule.CHOICES[field.name])}}}" in text


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
        assert json.loads(out)["mean_confidence_loss"] == pytest.approx(expected.loss, rel=1e-12)
        assert json.loads(out)["kept_negatives"] == expected.num_kept.sum()


def test_the_sizes_of_the_blocks_change_no_draw(demo):
    folder, _ = demo
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--pool-size", 3, "--json")
    whole, in_blocks = (json.loads(run(*words, "--max-memory", most)[1]) for most in (256, 2))
    assert whole["kept_negatives"] == in_blocks["kept_negatives"]
    assert whole["worst_samples"] == in_blocks["worst_samples"]


def test_a_scope_that_needs_the_whole_file_says_how_much_that_is(demo):
    folder, _ = demo
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--scope", "batch")
    code, _, err = run(*words, "--max-memory", 1)
    assert code == 2
    told = r"--scope: expected --max-memory (\d+), for batch takes the whole file at once, got 1"
    need = int(re.search(told, err)[1])
    assert run(*words, "--max-memory", need)[0] == 0
    assert run(*words, "--max-memory", need - 1)[0] == 2


def test_the_version_is_that_of_the_installed_package():
    try:
        expected = metadata.version("ssd_mining")
    except metadata.PackageNotFoundError:
        pytest.skip("ssd_mining is not installed, so it has no version")
    assert run("--version") == (0, f"ssd-mining {expected}\n", "")


@pytest.mark.parametrize("options", [[], ["--min-negatives", "8732"]], ids=["usual", "all kept"])
def test_mine_holds_no_more_than_it_is_told(tmp_path, options):
    shape = (300, 8732)
    losses_file, labels_file = tmp_path / "losses.npy", tmp_path / "labels.npy"
    np.save(losses_file, np.random.default_rng(0).random(shape, np.float32))
    np.save(labels_file, np.zeros(shape, np.uint8))
    words = ("mine", losses_file, labels_file, "--background", 0, "--max-memory", 8, *options)
    run(*words)  # compiles
    tracemalloc.start()
    try:
        code, _, err = run(*words, "--out", tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (code, err) == (0, "")
    assert losses_file.stat().st_size > 8 * 2**20
    assert peak < 8 * 2**20


GROWTH = """
import re, sys
from pathlib import Path
from ssd_mining import cli

def peak():  # of this program: what getrusage reports begins with that of its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

folder, *words = sys.argv[1:]
peaks = []
for name in ("block", "all"):
    assert cli.main(["mine", f"{folder}/{name}_losses.npy", f"{folder}/{name}_labels.npy", *words]) == 0
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the figures of /proc")
def test_a_file_of_many_blocks_takes_no_more_memory_than_one_block(tmp_path):
    shape = (1200, 8732)  # 42 MB of losses; a block is large enough for the threads
    values = np.random.default_rng(0).random(shape, np.float32)
    for name, stop in (("block", 55), ("all", None)):
        np.save(tmp_path / f"{name}_losses.npy", values[:stop])
        np.save(tmp_path / f"{name}_labels.npy", (values[:stop] < 0.003).astype(np.uint8))
    process = shell(tmp_path, "--background", 0, "--max-memory", 32, script=GROWTH)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert int(out.splitlines()[-1]) < 8 * 2**20


def test_the_session_in_the_docs_is_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "cli.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```console\n$ ")[1:]]
    assert len(blocks) >= 3
    for block in blocks:
        command, expected = block.split("\n", 1)
        _, out, err = run(*shlex.split(command)[1:])
        assert out + err == expected


def test_warmup_says_what_was_compiled(monkeypatch, capsys):
    from ssd_mining import Warmup

    monkeypatch.setattr("ssd_mining.warmup", lambda **_: Warmup(compiled=12, loaded=4, seconds=1.25))
    assert cli.main(["warmup"]) == 0
    assert capsys.readouterr().out == "compiled 12 kernels, found 4 in the cache, in 1.2 s\n"
