"""``report``, ``mine`` and ``compare`` of labels that are matched from boxes."""

import json

import numpy as np
import pytest

from tests.support.commands import run, summary_of

NUM_ANCHORS = 3234  # of the SSDlite


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write losses, and boxes and classes for YOLO, a file for each sample, and work beside them."""
    rng = np.random.default_rng(5)
    (tmp_path / "yolo").mkdir()
    for name in "abcd":
        (tmp_path / "yolo" / f"{name}.txt").write_text(f"{ord(name) % 3} {rng.uniform(0.3, 0.7)} 0.5 0.3 0.2\n")
    (tmp_path / "yolo" / "classes.txt").write_text("cat\ndog\nowl\n")
    np.save(tmp_path / "losses.npy", rng.gamma(0.3, 1, (4, NUM_ANCHORS)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FROM_BOXES = ("losses.npy", "--boxes", "yolo", "--anchors", "ssdlite320")


def report(*words, out, code=0):
    got, said, err = run("report", *words, "--no-page", "--out", out)
    assert got == code, err
    return said if code == 0 else err


@pytest.mark.usefixtures("folder")
def test_compare_says_where_labels_of_boxes_must_be_and_takes_them_from_there():
    report(*FROM_BOXES, out="a")
    report(*FROM_BOXES, out="b")
    code, _, err = run("compare", "a", "b")
    assert code == 3
    assert err.count("\n") == 1
    assert "yolo matched with ssdlite320 by Matching(" in err
    assert "expected labels in a file, such as ssd-mining match writes, got those of boxes; name where" in err
    assert run("compare", "a", "b", "--no-churn")[0] == 0
    assert run("match", "yolo", "ssdlite320", "--out", "labels.npy")[0] == 0
    inputs = ("losses.npy", "labels.npy")
    code, out, err = run("compare", "a", "b", "--inputs-a", *inputs, "--inputs-b", *inputs, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["churn"]["overlap"] == 1


def test_samples_and_classes_are_called_as_in_the_boxes(folder):
    report(*FROM_BOXES, out="whole")
    rows = (folder / "whole" / "per_sample.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["id", "a", "b", "c", "d"]
    assert json.loads((folder / "whole" / "summary.json").read_text())["arguments"]["boxes"] == "yolo"


def test_shards_of_other_boxes_do_not_merge(folder):
    report(*FROM_BOXES, "--shard", "1/2", out="first")
    (folder / "yolo" / "d.txt").write_text("2 0.5 0.5 0.1 0.1\n")  # of the second shard
    report(*FROM_BOXES, "--shard", "2/2", out="second")
    code, _, err = run("merge", "first", "second", "--no-page", "--out", "whole")
    assert code == 3
    assert "second: expected" in err
    report(*FROM_BOXES, "--shard", "1/2", out="again")
    assert run("merge", "again", "second", "--no-page", "--out", "whole")[0] == 0


@pytest.mark.parametrize("changed", ["yolo/b.txt", "yolo/e.txt", "anchors.npy"])
@pytest.mark.parametrize("command", ["mine", "report"])
def test_boxes_and_anchors_that_change_while_they_are_used_are_refused(folder, monkeypatch, changed, command):
    from ssd_mining.cli import labels

    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.7, (NUM_ANCHORS, 2))
    np.save(folder / "anchors.npy", np.hstack([low, low + 0.2]))
    match = labels.MatchedLabels.match

    def change(*given, **options):
        got = match(*given, **options)
        path = folder / changed
        path.write_bytes(path.read_bytes() + b"\n" if path.exists() else b"")
        return got

    monkeypatch.setattr(labels.MatchedLabels, "match", change)
    words = ("losses.npy", "--boxes", "yolo", "--anchors", "anchors.npy", "--out", "out")
    code, _, err = run(command, *words, *(["--no-page"] if command == "report" else []))
    assert code == 3
    assert "expected a file that stays as it is while it is read" in err
    assert not (folder / "out").exists()


@pytest.mark.usefixtures("folder")
def test_labels_are_the_same_however_many_samples_are_matched_at_a_time(monkeypatch):
    from ssd_mining.cli import labels

    whole = summary_of(*FROM_BOXES)
    monkeypatch.setattr(labels, "BLOCK_BYTES", 1)
    assert summary_of(*FROM_BOXES) == whole
