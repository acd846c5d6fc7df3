"""What ``report`` refuses."""

import numpy as np
import pytest

from ssd_mining.checks import install_command
from ssd_mining.report import page
from tests.support.commands import run
from tests.support.reports import TABLES, refused, report, words


def test_files_that_do_not_fit_end_with_3(data):
    folder, arrays = data
    np.save(folder / "short.npy", arrays["labels"][:-1])
    np.save(folder / "narrow.npy", arrays["labels"][:, 1:])
    np.save(folder / "flat.npy", arrays["losses"][0])
    np.save(folder / "high.npy", arrays["labels"] + 4)
    np.save(folder / "mask.npy", arrays["labels"] > 0)
    (folder / "cut.npy").write_bytes((folder / "losses.npy").read_bytes()[:-4])
    (folder / "foreign.npy").write_bytes(b"sample,loss\n")
    for values, labels, expected in [
        ("none.npy", "labels.npy", "none.npy: expected a readable file, got No such file or directory"),
        ("cut.npy", "labels.npy", "cut.npy: expected 9,600 bytes of values"),
        ("foreign.npy", "labels.npy", "foreign.npy: expected a sound file, got this: the magic string"),
        ("losses.txt", "labels.npy", "losses.txt: expected a name that ends in .npy"),
        ("losses.npy", "short.npy", "short.npy: expected labels of the 60 samples of losses.npy, got those of 59"),
        ("losses.npy", "narrow.npy", "narrow.npy: expected labels of the 40 anchors of losses.npy, got those of 39"),
        ("flat.npy", "labels.npy", "flat.npy: expected (N, A) losses or (N, A, C) logits, got shape (40,)"),
        ("logits.npy", "mask.npy", "mask.npy: expected integer classes or one-hot scores, got dtype bool"),
        ("logits.npy", "high.npy", "high.npy: expected class numbers from 0 to 3, got 4 at (sample 0, anchor 0)"),
        ("mask.npy", "labels.npy", "mask.npy: expected float16, float32, float64 or integer values, got dtype bool"),
    ]:
        assert refused(folder, values=values, labels=labels).startswith(expected)


def test_options_that_cannot_be_meant_end_with_2(data):
    folder, _ = data
    for options, expected in {
        ("--levels", "20,15"): "--levels: expected sizes that add up to the 40 anchors, got [20, 15], which make 35",
        ("--levels", "40,0"): "--levels: expected a whole number of at least 1, got 0",
        ("--ratio-sweep", "1,1"): "--ratio-sweep: expected numbers that differ, got [1.0, 1.0]",
        ("--ratio-sweep", "-1"): "--ratio-sweep: expected a finite number of at least 0, got -1.0",
        ("--classification", "sigmoid"): "--classification: expected none beside losses, got sigmoid",
    }.items():
        assert refused(folder, *options, code=2).startswith(expected)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--levels", "a,b"), "argument --levels: expected whole numbers with commas between them, got 'a,b'"),
        (("--ratio-sweep", ""), "argument --ratio-sweep: expected numbers with commas between them, got ''"),
        (("--shard", "0/3"), "argument --shard: expected I/N with I from 1 to N, got '0/3'"),
        (("--shard", "4/3"), "argument --shard: expected I/N with I from 1 to N, got '4/3'"),
        (("--num-threads", "0"), "argument --num-threads: expected a whole number of at least 1, got '0'"),
        (("--shard", "1"), "argument --shard: expected I/N with I from 1 to N, got '1'"),
    ],
)
def test_words_that_cannot_be_read_end_with_2(data, option, expected):
    code, out, err = run(*words(data[0]), "--no-page", "--out", data[0] / "out", *option)
    assert (code, out, err.splitlines()[-1]) == (2, "", f"ssd-mining report: error: {expected}")


@pytest.mark.parametrize("option", [("--scope", "batch"), ("--pool-size", "2"), ("--seed", "0")])
def test_what_depends_on_the_blocks_is_no_option(data, option):
    code, out, err = run(*words(data[0]), "--no-page", "--out", data[0] / "out", *option)
    assert (code, out) == (2, "")
    assert err.endswith(f"error: unrecognized arguments: {' '.join(option)}\n")


def test_names_that_do_not_fit_end_with_3(data):
    folder, arrays = data
    (folder / "few.txt").write_text("a\nb\n")
    (folder / "twice.txt").write_text("\n".join(["a", *arrays["ids"][1:59], "a"]))
    (folder / "latin.txt").write_bytes(b"\xff\n" * 60)
    np.save(folder / "twice.npy", np.arange(60) % 59)
    np.save(folder / "float.npy", np.arange(60.0))
    for name, expected in {
        "none.txt": "none.txt: expected a readable file, got No such file or directory",
        "few.txt": "few.txt: expected 60 names, one for each sample, got 2",
        "twice.txt": "twice.txt: expected another name for every sample, got 'a' for samples 0 and 59",
        "twice.npy": "twice.npy: expected another name for every sample, got 0 for samples 0 and 59",
        "float.npy": "float.npy: expected whole numbers or strings, one for each sample, got dtype float64 of shape",
        "latin.txt": "latin.txt: expected a sound file, got this: 'utf-8' codec can't decode",
    }.items():
        assert refused(folder, "--ids", folder / name).startswith(expected)
    expected = "few.txt: expected a name for each of 4 classes, got 2"
    assert refused(folder, "--class-names", folder / "few.txt", values="logits.npy") == expected


def test_a_page_that_cannot_be_made_is_refused_before_anything_is_computed(data, monkeypatch):
    folder, _ = data
    monkeypatch.setattr(page, "missing_packages", lambda: ["jinja2", "matplotlib"])
    code, out, err = run(
        "report", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--out", folder / "o"
    )
    hint = f"{install_command('jinja2', 'matplotlib')}, or leave the page out with --no-page"
    missing = f"report.html: expected jinja2 and matplotlib, to make it, got none installed; {hint}"
    assert (code, out, err) == (2, "", f"ssd-mining: error: {missing}\n")
    assert set(report(folder, "o", "--no-page")) == TABLES


def test_too_few_class_names_are_refused_of_losses_too(data):
    folder, _ = data
    (folder / "few.txt").write_text("a\nb\n")
    (folder / "enough.txt").write_text("a\nb\nc\nd\n")
    expected = "few.txt: expected a name for each class, 0 to 3, got 2"
    assert refused(folder, "--class-names", folder / "few.txt") == expected
    assert set(report(folder, "o", "--class-names", folder / "enough.txt")) == TABLES


def test_a_shard_needs_a_place(data):
    got = run(*words(data[0]), "--shard", "1/2")
    assert got == (2, "", "ssd-mining: error: --shard: expected --out DIR beside it, got none\n")
