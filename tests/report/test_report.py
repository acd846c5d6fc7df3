"""``report`` and ``merge``: their files, their shards, what is left when they are stopped, and what they refuse."""

import csv
import json
import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.files.names import read_class_names
from ssd_mining.files.sources import open_array
from ssd_mining.report import page, parts
from tests.support.batches import REAL_FILES, load_real
from tests.support.commands import content, run, shell
from tests.support.formats import FORMATS
from tests.support.reports import draw

USED = "expected a new name or an empty directory, got one that is in use; name another with --out"
NO_PAGE = [] if find_spec("matplotlib") and find_spec("jinja2") else ["--no-page"]
TABLES = {"per_sample.csv", "summary.json", "top_anchors.csv", "top_losses.csv"}
LEVELS = (20, 15, 5)


@pytest.fixture
def data(tmp_path):
    """Save a small data set; return its folder and its arrays."""
    arrays = draw()
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    names = [f"image {i:03}.jpg" for i in range(60)]
    (tmp_path / "ids.txt").write_text("\n".join(names) + "\n")
    return tmp_path, arrays | {"ids": names}


def words(folder, values="losses.npy", labels="labels.npy"):
    return ["report", folder / values, folder / labels, "--background", 0]


def report(folder, out, *options, values="losses.npy", with_page=False):
    """Write a report, by default without its page, which takes the most time; return what is in its files."""
    page_or_not = NO_PAGE if with_page else ["--no-page"]
    code, said, err = run(*words(folder, values), *options, *page_or_not, "--out", folder / out)
    assert (code, err) == (0, "")
    assert said.endswith(f"written to {folder / out}\n") or "see ssd-mining merge" in said or "--json" in options
    return content(folder / out)


def refused(folder, *options, values="losses.npy", labels="labels.npy", code=3):
    """Return the one line that a report ends with; nothing may be left of it."""
    before = sorted(folder.iterdir())
    got, out, err = run(*words(folder, values, labels), "--no-page", "--out", folder / "out", *options)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert sorted(folder.iterdir()) == before
    return err.removeprefix("ssd-mining: error: ").rstrip("\n").replace(f"{folder}/", "")


def table(blob):
    return list(csv.DictReader(blob.decode().splitlines()))


# What is written


def test_the_files_say_what_the_library_says(data):
    folder, arrays = data
    got = report(
        folder, "out", "--levels", "20,15,5", "--ids", folder / "ids.txt", "--top", 7, "--ratio-sweep", "1,2.5"
    )
    assert set(got) == TABLES
    analysis = sm.LossAnalysis(background=0, levels=LEVELS, top=7, ratios=(1, 2.5))
    columns = analysis.update(arrays["losses"], arrays["labels"], ids=arrays["ids"])
    expected = json.loads(json.dumps(analysis.result().to_dict()))
    summary = json.loads(got["summary.json"])
    assert {name: summary[name] for name in expected} == expected
    assert summary["schema"] == 1
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["arguments"] == {
        "values": f"{folder}/losses.npy",
        "labels": f"{folder}/labels.npy",
        "ids": f"{folder}/ids.txt",
        "class_names": None,
        "values_shape": [60, 40],
        "values_dtype": "<f4",
        "labels_shape": [60, 40],
        "labels_dtype": "|u1",
    }
    rows = table(got["per_sample.csv"])
    assert [row["id"] for row in rows] == arrays["ids"]
    for name in set(columns) - {"id"}:
        np.testing.assert_array_equal([float(row[name]) for row in rows], columns[name])
    out = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0)
    np.testing.assert_array_equal([float(row["confidence_loss"]) for row in rows], out.per_sample)
    worst = np.argsort(-out.per_sample, kind="stable")[:7]
    assert [row["id"] for row in table(got["top_losses.csv"])] == [arrays["ids"][i] for i in worst]
    assert len(table(got["top_anchors.csv"])) == 7


def test_the_table_on_stdout_and_the_json_name_the_worst(data):
    folder, arrays = data
    worst = int(sm.confidence_loss(arrays["losses"], arrays["labels"], background=0).per_sample.argmax())
    code, out, err = run(*words(folder), "--no-page", "--ids", folder / "ids.txt", "--out", folder / "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["samples", "60"]
    assert out.splitlines()[-7].split()[:2] == ["image", f"{worst:03}.jpg"]
    code, out, err = run(*words(folder), "--no-page", "--out", folder / "json", "--json")
    assert json.loads(out) == json.loads((folder / "json" / "summary.json").read_text())


@pytest.mark.parametrize("block", [1, 7, 60])
def test_the_sizes_of_the_blocks_change_no_byte(data, monkeypatch, block):
    folder, _ = data
    expected = report(folder, "whole", "--levels", "20,15,5")
    monkeypatch.setattr(parts, "block_rows", lambda *_: block)
    assert report(folder, "blocks", "--levels", "20,15,5") == expected


def test_logits_give_what_their_losses_give_and_the_classes_they_are_taken_for(data):
    folder, _ = data
    of_logits = json.loads(report(folder, "logits", values="logits.npy")["summary.json"])
    of_losses = json.loads(report(folder, "losses")["summary.json"])
    for name in ("num_pos", "num_kept", "loss", "distributions", "ratio_sweep"):
        assert of_logits[name] == of_losses[name]
    assert sum(of_logits["classes"]["num_kept"]) == of_logits["num_kept"]
    assert sum(of_losses["classes"]["num_kept"]) == 0
    sigmoid = json.loads(report(folder, "s", "--classification", "sigmoid", values="logits.npy")["summary.json"])
    assert sigmoid["spec"]["classification"]["kind"] == "Sigmoid"
    assert sigmoid["loss"] != of_logits["loss"]


@pytest.mark.parametrize("kind", ["npz", "safetensors", "zarr", "h5", "half"])
def test_files_of_every_format_give_the_same_numbers(data, kind):
    folder, arrays = data
    if kind == "half":
        losses = arrays["losses"].astype(np.float16)
        np.save(folder / "half.npy", losses)
        np.save(folder / "single.npy", losses.astype(np.float32))
        pair = [report(folder, name, values=f"{name}.npy") for name in ("half", "single")]
    else:
        path = folder / f"a.{kind}"
        if kind == "npz":
            np.savez_compressed(path, losses=arrays["losses"], labels=arrays["labels"])
        else:
            FORMATS[path.name](path, {name: arrays[name] for name in ("losses", "labels")})
        code, _, err = run(
            *words(folder, f"a.{kind}:losses", f"a.{kind}:labels"), "--no-page", "--out", folder / "out"
        )
        assert (code, err) == (0, "")
        of_it = content(folder / "out")
        pair = [of_it, report(folder, "npy")]
    for name in TABLES - {"summary.json"}:
        assert pair[0][name] == pair[1][name]


@pytest.mark.parametrize("num_workers", [1, 2, 16])
@pytest.mark.parametrize("num_anchors", [1, 40, 8732, 3_000_000])
def test_blocks_keep_to_their_memory_and_are_whole_blocks_of_the_analysis_or_chunks(
    tmp_path, num_anchors, num_workers
):
    np.save(tmp_path / "a.npy", np.zeros((1, num_anchors), np.uint8))
    inner = max(1, 2_000_000 // max(64, num_anchors))
    with open_array(tmp_path / "a.npy") as values:
        row_bytes = 2 * values.row_bytes
        assert row_bytes == 2 * values.outline[:1].nbytes
        per_sample = num_workers * (num_anchors + 1) * parts.ANALYSIS_BYTES
        held = parts.BLOCKS_HELD + num_workers
        for memory in (1, 16, 256, 1000, 10_000):
            step = parts.block_rows(values, values, num_workers, memory)
            taken = held * step * row_bytes + min(step, inner) * per_sample
            assert step == 1 or taken <= memory << 20
            assert step < inner or step % inner == 0
            assert step <= inner or step * row_bytes <= parts.MOST_BYTES
        values.chunks = (7, num_anchors)
        step = parts.block_rows(values, values, num_workers, 256)
        assert step % 7 == 0 or step < 7
        values.chunks = (10**9, num_anchors)
        assert parts.block_rows(values, values, num_workers, 256) < 10**9


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_give_the_numbers_of_their_readme(tmp_path, name):
    real = load_real(name)
    for kind in ("losses", "labels", "logits"):
        np.save(tmp_path / f"{kind}.npy", real[kind])
    summary = json.loads(report(tmp_path, "losses")["summary.json"])
    assert f"{summary['loss']:.6f}" == REAL_FILES[name]
    assert summary["num_kept"] == real["exp_k"].sum()
    of_logits = json.loads(report(tmp_path, "logits", values="logits.npy")["summary.json"])
    assert of_logits["loss"] == pytest.approx(summary["loss"], rel=1e-5)


# Shards


@pytest.mark.parametrize("count", [1, 2, 7, 61])
def test_shards_merge_to_the_bytes_of_the_single_run(data, count):
    folder, _ = data
    options = ("--levels", "20,15,5", "--ids", folder / "ids.txt", "--top", 9)
    expected = report(folder, "whole", *options, with_page=True)
    for i in range(1, count + 1):
        assert set(report(folder, f"shard{i}", *options, "--shard", f"{i}/{count}")) == {"shard.npz"}
    shards = [folder / f"shard{i}" for i in range(1, count + 1)]
    code, _, err = run("merge", *shards[::-1], "--out", folder / "merged", *NO_PAGE)
    assert (code, err) == (0, "")
    assert content(folder / "merged") == expected
    assert NO_PAGE or "report.html" in expected


def test_shards_that_do_not_make_up_one_run_are_refused(data):
    folder, arrays = data
    for i in (1, 2, 3):
        report(folder, f"s{i}", "--shard", f"{i}/3")
    report(folder, "half", "--shard", "1/2")
    report(folder, "other", "--shard", "2/3", "--neg-pos-ratio", 2)
    np.save(folder / "twice.npy", arrays["losses"] * 2)
    report(folder, "checkpoint", "--shard", "2/3", values="twice.npy")
    report(folder, "whole")
    for names, culprit, expected in [
        (["s1", "s3"], "s3", "expected a shard that begins with sample 20, got 40"),
        (["s2", "s3"], "s2", "expected a shard that begins with sample 0, got 20"),
        (["s1", "s2"], "s2", "expected shards of all 60 samples, got none after 40"),
        (["half", "s2", "s3"], "s2", "expected a shard that begins with sample 30, got 20"),
        (["s1", "other", "s3"], "other", "expected a shard of the same run as "),
        (["s1", "checkpoint", "s3"], "checkpoint", "expected a shard of the same run as "),
        (["whole"], "whole/shard.npz", "expected a readable file, got No such file or directory"),
        (["none"], "none/shard.npz", "expected a readable file, got No such file or directory"),
    ]:
        shards = [folder / name for name in names]
        code, out, err = run("merge", *shards, "--out", folder / "merged", "--no-page")
        assert (code, out) == (3, "")
        assert err.startswith(f"ssd-mining: error: {folder / culprit}: {expected}")
        assert err.count("\n") == 1
        assert not (folder / "merged").exists()


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_shard_is_refused(data, damage):
    folder, _ = data
    report(folder, "s1", "--shard", "1/1")
    file = folder / "s1" / "shard.npz"
    sound = file.read_bytes()
    file.write_bytes(sound[: len(sound) // 2] if damage is None else damage)
    code, _, err = run("merge", folder / "s1", "--out", folder / "merged", *NO_PAGE)
    assert code == 3
    assert err.startswith(f"ssd-mining: error: {file}: expected a part of a report, got this: ")


def test_a_shard_of_another_schema_is_refused(data, monkeypatch):
    folder, _ = data
    monkeypatch.setattr(parts, "SCHEMA", 7)
    report(folder, "s1", "--shard", "1/1")
    monkeypatch.undo()
    code, _, err = run("merge", folder / "s1", "--out", folder / "merged", *NO_PAGE)
    assert (code, err.split(": ")[3]) == (3, "expected a part of schema 1, got schema 7\n")


def test_rows_are_cut_into_shards_and_parts_without_a_gap(monkeypatch):
    for num_rows, count in [(0, 1), (0, 3), (5, 3), (60, 7), (3, 5)]:
        shards = [parts.shard_span(num_rows, i, count) for i in range(1, count + 1)]
        assert shards[0][0] == 0
        assert [stop for _, stop in shards] == [start for start, _ in shards[1:]] + [num_rows]
    assert parts.cut(parts.Span(3, 3), 100) == [(3, 3)]
    monkeypatch.setattr(parts, "PART_BYTES", 1000)
    assert parts.cut(parts.Span(5, 30), 100) == [(5, 15), (15, 25), (25, 30)]
    assert len(parts.cut(parts.Span(0, 10**6), 100)) == parts.MOST_PARTS


# Stopped half-way

DYING = """
import os, signal, sys
from ssd_mining import cli
from ssd_mining.report import parts

parts.PART_BYTES, save, count = 2000, parts.Part.save, []

def dying(part, path):
    count.append(path)
    if len(count) == 3:
        path.with_name(".half.partial").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(part, path)

parts.Part.save = dying
cli.main(sys.argv[1:])
"""


@pytest.fixture
def killed(data, monkeypatch):
    """Kill a run while it writes its third part; return its folder, and a list of the parts computed from then on."""
    folder, _ = data
    process = shell(
        *words(folder), "--no-page", "--out", folder / "out", script=DYING, env={"NUMBA_DISABLE_JIT": "1"}
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "out").exists()
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    computed = []
    save = parts.Part.save
    monkeypatch.setattr(parts.Part, "save", lambda part, path: (computed.append(path.name), save(part, path)))
    return folder, computed


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".out")]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_is_taken_up_where_it_was(killed):
    folder, computed = killed
    assert len(left_over(folder)) == 1
    got = report(folder, "out")
    assert computed == ["20-30.npz", "30-40.npz", "40-50.npz", "50-60.npz"]
    assert left_over(folder) == []
    computed.clear()
    assert report(folder, "again") == got
    assert len(computed) == 6


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("change", ["option", "data", "ids"])
def test_a_run_with_other_data_or_options_takes_up_nothing(killed, change):
    folder, computed = killed
    options = {"option": ["--top", 3], "ids": ["--ids", folder / "ids.txt"]}.get(change, [])
    if change == "data":
        os.utime(folder / "losses.npy", ns=(1, 1))
    report(folder, "out", *options)
    assert len(computed) == 6


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_part_that_is_damaged_is_computed_again(killed):
    folder, computed = killed
    part = folder / left_over(folder)[0] / "0-10.npz"
    part.write_bytes(part.read_bytes()[:100])
    got = report(folder, "out")
    assert computed[0] == "0-10.npz"
    assert report(folder, "again") == got


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_that_is_stopped_keeps_its_finished_parts(data, monkeypatch, error):
    folder, _ = data
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    save, done = parts.Part.save, []

    def stopped(part, path):
        if len(done) == 4:
            raise error
        done.append(path)
        save(part, path)

    monkeypatch.setattr(parts.Part, "save", stopped)
    code, out, err = run(*words(folder), "--no-page", "--out", folder / "out")
    if error is KeyboardInterrupt:
        assert (code, out, err) == (130, "", "")
    else:
        message = f"{folder}/out: expected a place to write to, got No space left on device"
        assert (code, out, err) == (3, "", f"ssd-mining: error: {message}\n")
    assert len(list((folder / left_over(folder)[0]).iterdir())) == 4
    monkeypatch.setattr(parts.Part, "save", lambda part, path: (done.append(path), save(part, path)))
    report(folder, "out")
    assert len(done) == 6


@pytest.mark.parametrize("limit", [100, 30_000])
def test_a_full_disk_ends_with_3_and_leaves_no_report(data, limit):
    resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")
    folder, _ = data
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        got = run(
            *words(folder), "--no-page", "--ids", folder / "ids.txt", "--levels", "20,15,5", "--out", folder / "out"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = f"{folder}/out: expected a place to write to, got File too large"
    assert got == (3, "", f"ssd-mining: error: {message}\n")
    assert not (folder / "out").exists()
    assert all(path.suffix == ".npz" for name in left_over(folder) for path in (folder / name).iterdir())
    report(folder, "out", "--ids", folder / "ids.txt", "--levels", "20,15,5")


def test_a_directory_in_use_is_left_alone_and_nothing_is_computed_for_it(data, monkeypatch):
    folder, _ = data
    (folder / "out").mkdir()
    (folder / "out" / "precious.txt").write_text("precious")
    monkeypatch.setattr(sm.LossAnalysis, "update", lambda *_: pytest.fail("computed"))
    for command in (words(folder), ["merge", folder]):
        got = run(*command, "--no-page", "--out", folder / "out")
        assert got == (2, "", f"ssd-mining: error: {folder}/out: {USED}\n")
    assert content(folder / "out") == {"precious.txt": b"precious"}


def test_a_place_that_cannot_be_written_ends_with_3_before_anything_is_computed(data, monkeypatch):
    folder, _ = data
    (folder / "file").write_text("precious")
    monkeypatch.setattr(parts, "resumed", lambda *_: pytest.fail("computed"))
    code, _, err = run(*words(folder), "--no-page", "--out", folder / "file" / "out")
    message = f"{folder}/file/out: expected a place to write to, got Not a directory"
    assert (code, err) == (3, f"ssd-mining: error: {message}\n")


# Bad input


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
        ("losses.npy", "narrow.npy", "narrow.npy: expected the shape of conf_loss (0, 40), got shape (0, 39)"),
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


def test_whole_numbers_may_be_names(data):
    folder, _ = data
    np.save(folder / "ids.npy", np.arange(60)[::-1] + 1000)
    rows = table(report(folder, "out", "--ids", folder / "ids.npy")["per_sample.csv"])
    assert [int(row["id"]) for row in rows] == list(range(1059, 999, -1))


def test_strings_of_an_array_may_be_names(data):
    folder, _ = data
    names = [f'image, "{i}"' if i % 2 else f"ö{i}" for i in range(60)]
    np.savez(folder / "ids.npz", ids=np.array(names), one=np.array(["x"] * 60).reshape(60, 1))
    expected = "ids.npz:one: expected whole numbers or strings, one for each sample, got dtype <U1 of shape (60, 1)"
    assert refused(folder, "--ids", folder / "ids.npz:one").startswith(expected)
    expected = "ids.npz:ids: expected bools, integers or floats, got dtype <U"
    assert refused(folder, values="ids.npz:ids").startswith(expected)
    rows = table(report(folder, "out", "--ids", folder / "ids.npz:ids")["per_sample.csv"])
    assert [row["id"] for row in rows] == names


def test_strings_of_an_array_may_name_the_classes(data):
    folder, _ = data
    names = ["none", "cat", "dog", "ox"]
    np.save(folder / "names.npy", np.array(names))
    assert read_class_names(folder / "names.npy") == names
    np.save(folder / "numbers.npy", np.arange(4))
    expected = "numbers.npy: expected strings, one for each class, got dtype int64 of shape (4,)"
    assert refused(folder, "--class-names", folder / "numbers.npy", values="logits.npy") == expected
    report(folder, "out", "--class-names", folder / "names.npy", values="logits.npy")


def test_nan_is_treated_as_the_policy_says(data, monkeypatch):
    folder, arrays = data
    arrays["losses"][33, 7] = np.nan
    arrays["labels"][33, 7] = 1
    for name in ("losses", "labels"):
        np.save(folder / f"{name}.npy", arrays[name])
    monkeypatch.setattr(parts, "block_rows", lambda *_: 8)
    nan = 'no NaN (nan_policy="raise"; "omit" and "propagate" allow it), got NaN'
    assert refused(folder) == f"losses.npy: expected {nan} at (sample 33, anchor 7)"
    omit = json.loads(report(folder, "omit", "--nan-policy", "omit")["summary.json"])
    expected = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0, nan_policy="omit")
    assert omit["loss"] == pytest.approx(expected.loss, rel=1e-14)
    got = report(folder, "propagate", "--nan-policy", "propagate", with_page=True)
    propagate = json.loads(got["summary.json"])
    assert (propagate["loss"], propagate["distributions"]["positives"]["num_nan"]) == (None, 1)
    assert propagate["top_samples"]["sample"][0] == 33
    assert table(got["top_losses.csv"])[0]["loss"] == "nan"


@pytest.mark.parametrize(("num_samples", "positives"), [(0, 0.1), (1, 0.1), (1, 0), (6, 0), (6, 1)])
@pytest.mark.parametrize("values", ["losses.npy", "logits.npy"])
def test_small_and_one_sided_data_sets_have_reports(tmp_path, num_samples, positives, values):
    rng = np.random.default_rng(0)
    labels = (rng.random((num_samples, 8)) < positives).astype(np.int64)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "losses.npy", rng.random((num_samples, 8)))
    np.save(tmp_path / "logits.npy", rng.normal(size=(num_samples, 8, 3)))
    got = report(tmp_path, "out", "--levels", "5,3", values=values, with_page=True)
    summary = json.loads(got["summary.json"])
    assert (summary["num_samples"], summary["num_pos"]) == (num_samples, labels.sum())
    assert len(table(got["per_sample.csv"])) == num_samples
    if "report.html" in got:
        assert b"NaN" not in re.sub(rb"<script>.*</script>", b"", got["report.html"], flags=re.DOTALL).replace(
            b'data-value="NaN">NaN', b""
        )


# Packages, progress, memory


def test_a_page_that_cannot_be_made_is_refused_before_anything_is_computed(data, monkeypatch):
    folder, _ = data
    monkeypatch.setattr(page, "missing_packages", lambda: ["jinja2", "matplotlib"])
    code, out, err = run(
        "report", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--out", folder / "o"
    )
    hint = "pip install 'ssd_mining[report]', or leave the page out with --no-page"
    missing = f"report.html: expected jinja2 and matplotlib, to make it, got none installed; {hint}"
    assert (code, out, err) == (2, "", f"ssd-mining: error: {missing}\n")
    assert set(report(folder, "o", "--no-page")) == TABLES


def on_a_terminal(folder, out, env=()):
    """Run a report whose stderr is a terminal; return what it shows there."""
    pty = pytest.importorskip("pty", reason="needs a POSIX system")
    ours, theirs = pty.openpty()
    command = [*words(folder), "--no-page", "--out", folder / out]
    with shell(*command, stderr=theirs, env={"TERM": "xterm", **dict(env)}) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        said = process.stdout.read()
    os.close(ours)
    assert (process.returncode, said.splitlines()[0].split()) == (0, ["samples", "60"])
    return shown.decode()


def test_a_terminal_sees_how_far_it_is_and_a_pipe_sees_nothing(data):
    pytest.importorskip("rich", reason="rich is an extra")
    folder, _ = data
    shown = on_a_terminal(folder, "out")
    assert re.search(r"60/60", shown)
    assert re.search(r"samples +[\d,]+ samples/s", shown) or re.search(r"[\d,]+ samples/s", shown)
    process = shell(*words(folder), "--no-page", "--out", folder / "piped")
    assert process.communicate()[1] == ""


def test_a_terminal_without_rich_gets_a_hint(data, tmp_path):
    (tmp_path / "blocked" / "rich").mkdir(parents=True)
    (tmp_path / "blocked" / "rich" / "__init__.py").write_text("raise ImportError('blocked')")
    path = os.pathsep.join([str(tmp_path / "blocked"), str(Path(sm.__file__).parents[1])])
    shown = on_a_terminal(data[0], "out", {"PYTHONPATH": path})
    assert shown.strip() == "no progress bar without rich; pip install 'ssd_mining[cli]'"


PEAK = """
import os, re, sys
from pathlib import Path
from ssd_mining import cli

def peak():  # of this program: what getrusage reports begins with that of its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

folder, *words = sys.argv[1:]
peaks = []
for name in ("small", "large"):
    files = f"{folder}/{name}_losses.npy", f"{folder}/{name}_labels.npy"
    assert cli.main(["report", *files, *words, "--no-page", "--out", f"{folder}/{name}{os.environ['TURN']}"]) == 0
    peaks.append(peak())
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the figures of /proc")
@pytest.mark.parametrize(("max_memory", "options"), [(16, ()), (48, ("--min-negatives", "8732"))])
def test_a_large_file_takes_no_more_memory_than_it_may(tmp_path, max_memory, options):
    shape = (1500, 8732)  # 52 MB of losses
    values = np.random.default_rng(0).random(shape, np.float32)
    for name, stop in (("small", 2), ("large", None)):
        np.save(tmp_path / f"{name}_losses.npy", values[:stop])
        np.save(tmp_path / f"{name}_labels.npy", (values[:stop] < 0.003).astype(np.uint8))
    grown = []
    for turn in "01":  # the compiler takes memory, too: the second turn finds the code in the cache
        process = shell(
            tmp_path, "--background", 0, "--max-memory", max_memory, *options, script=PEAK, env={"TURN": turn}
        )
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        grown.append(int(out.splitlines()[-1]))
    assert grown[-1] < max_memory << 20
