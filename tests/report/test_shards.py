"""Shards of a report, and ``merge``."""

import numpy as np
import pytest

from ssd_mining.report import parts
from tests.support.commands import content, run
from tests.support.reports import NO_PAGE, report


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
        (["whole"], "whole", "expected what report --shard writes, got a finished report: nothing is to merge"),
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
