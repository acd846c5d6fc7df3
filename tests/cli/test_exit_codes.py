"""What a command cannot do: its exit code, one line that says why, and nothing left behind."""

import contextlib
import signal
from pathlib import Path

import numpy as np
import pytest

from ssd_mining.cli import mine
from ssd_mining.files import output, sources
from tests.support.commands import USED, run, shell


def test_options_that_cannot_be_meant_end_with_2(batch):
    folder, _ = batch
    words = ("mine", folder / "losses.npy", folder / "labels.npy")
    for options, expected in {
        (): "--background: expected the background class, for integer labels, got None; systems differ between first "
        "and last class, so there is no default (often --background 0)",
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
        ): "--min-negatives: expected at most --max-negatives (2), got 3",
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


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["mne", "a.npy"], "mine"),
        (["mine", "a.npy", "b.npy", "--backgroud", "0"], "--background"),
        (["mine", "a.npy", "b.npy", "--neg_pos_ratio=2"], "--neg-pos-ratio"),
        (["match", "a.json", "ssd300", "--rule", "torchvison"], "torchvision"),
        (["mine", "a.npy", "b.npy", "--tie-policy", "idx"], "index"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest(words, meant):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.endswith(f"; did you mean {meant}?\n")


def test_a_word_that_is_near_to_none_is_answered_with_none():
    for words in (["frobnicate"], ["mine", "a.npy", "b.npy", "--verbose"], ["mine", "a.npy", "b.npy", "-x"]):
        assert "did you mean" not in run(*words)[2]


def test_arguments_of_the_library_are_told_by_the_names_of_the_command_line(batch):
    folder, _ = batch
    words = ("mine", folder / "losses.npy", folder / "labels.npy", "--background", 0)
    got = run(*words, "--pool-size", 2, "--tie-policy", "all")
    assert got == (2, "", "ssd-mining: error: --pool-size: expected 1 with --tie-policy all, got 2.0\n")


def test_files_that_do_not_fit_end_with_3(batch):
    folder, arrays = batch
    np.save(folder / "narrow.npy", arrays["labels"][:, 1:])
    np.save(folder / "flat.npy", arrays["losses"][0])
    np.save(folder / "logits.npy", np.stack([arrays["losses"]] * 2, axis=2))
    np.save(folder / "maps.npy", np.stack([arrays["labels"]] * 2, axis=2))
    np.save(folder / "complex.npy", arrays["losses"] * 1j)
    np.save(folder / "half.npy", arrays["losses"].astype(np.float16))
    (folder / "cut.npy").write_bytes((folder / "losses.npy").read_bytes()[:-4])
    kinds = "integer classes or a bool pos_mask of shape (B, A), or one-hot scores of shape (B, A, C)"
    keys = "one of its arrays (losses, labels, mask, one_hot) after the colon"
    promise = "4,800 bytes of values for shape (40, 30) and dtype float32, got 4,796: the file is cut short"
    numbers = "float16, float32, float64 or integer values"
    elsewhere = "logits go to `ssd-mining report`"
    for loss_name, label_name, culprit, expected in [
        ("none.npy", "labels.npy", "none.npy", "a readable file, got No such file or directory"),
        ("losses.npy", "losses.xls", "losses.xls", f"a name that ends in {sources.KNOWN}, got another"),
        ("all.npz", "labels.npy", "all.npz", f"{keys}, got none"),
        ("complex.npy", "labels.npy", "complex.npy", "bools, integers or floats, got dtype complex64"),
        ("cut.npy", "labels.npy", "cut.npy", promise),
        ("flat.npy", "labels.npy", "flat.npy", "(N, A) losses, got shape (30,)"),
        ("logits.npy", "labels.npy", "logits.npy", f"(N, A) losses, got shape (40, 30, 2); {elsewhere}"),
        ("logits.npy", "maps.npy", "logits.npy", f"(N, A) losses, got shape (40, 30, 2); {elsewhere}"),
        ("mask.npy", "labels.npy", "mask.npy", f"{numbers}, got dtype bool"),
        ("losses.npy", "narrow.npy", "narrow.npy", f"the shape of {folder}/losses.npy (40, 30), got shape (40, 29)"),
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
    nan = 'no NaN (--nan-policy raise; "omit" and "propagate" allow it), got NaN'
    number, hint = "class numbers of at least 0, got -7", "; name the label of ignored anchors in --ignore-index"
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
    assert run("mine", *words) == (130, "", "ssd-mining: interrupted; nothing was written\n")
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
