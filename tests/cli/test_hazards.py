"""The commands say on stderr, and in their results, what is surely a mistake."""

import json
import warnings

import numpy as np
import pytest

from ssd_mining.cli import main

SENTENCE = "background 7 labels none of the 2,000 anchors: all of them are positives"


@pytest.fixture
def files(tmp_path):
    labels = np.zeros((4, 500), np.uint8)
    labels[:, ::50] = 3
    np.save(tmp_path / "losses.npy", np.random.default_rng(0).random((4, 500), np.float32))
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "targets.npy", np.eye(4, dtype=np.uint8)[labels][..., 1:])
    return tmp_path


def run(capsys, *words):
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr()
    return said.out, said.err


@pytest.mark.parametrize("memory", [[], ["--max-memory", 1]])
def test_mine_names_a_wrong_background(files, capsys, memory):
    words = "mine", files / "losses.npy", files / "labels.npy", "--background", 7, "--out", files / "out", *memory
    _, err = run(capsys, *words)
    assert err == f"ssd-mining: warning: {SENTENCE}\n"
    assert json.loads((files / "out" / "summary.json").read_text())["hazards"] == [SENTENCE]


def test_report_names_a_wrong_background(files, capsys):
    words = (
        "report",
        files / "losses.npy",
        files / "labels.npy",
        "--background",
        7,
        "--out",
        files / "out",
        "--no-page",
    )
    _, err = run(capsys, *words)
    assert err == f"ssd-mining: warning: {SENTENCE}\n"
    assert json.loads((files / "out" / "summary.json").read_text())["hazards"] == [SENTENCE]


def test_merged_shards_name_a_wrong_background(files, capsys):
    words = "report", files / "losses.npy", files / "labels.npy", "--background", 7
    for i in (1, 2):
        assert run(capsys, *words, "--out", files / f"{i}", "--shard", f"{i}/2")[1] == ""
    _, err = run(capsys, "merge", files / "1", files / "2", "--out", files / "out", "--no-page")
    assert err == f"ssd-mining: warning: {SENTENCE}\n"


@pytest.mark.parametrize("command", ["mine", "report"])
def test_the_right_background_is_not_named(files, capsys, command):
    words = command, files / "losses.npy", files / "labels.npy", "--background", 0, "--out", files / "out"
    _, err = run(capsys, *words, *(["--no-page"] if command == "report" else []))
    assert err == ""
    assert json.loads((files / "out" / "summary.json").read_text())["hazards"] == []


@pytest.mark.parametrize("command", ["mine", "report"])
def test_labels_without_a_column_for_background_are_named_and_can_be_told(files, capsys, command):
    words = [command, files / "losses.npy", files / "targets.npy", *(["--no-page"] if command == "report" else [])]
    _, err = run(capsys, *words, "--out", files / "trap")
    assert err.startswith("ssd-mining: warning: all-zero rows of labels make 1,960 of the 2,000 anchors positives;")
    for way in (["--background", 3], ["--all-zero", "negative"]):
        out, err = run(capsys, *words, *way, "--out", files / f"told{way[0]}")
        assert err == ""
        assert f"{'positives':26}{40:>14,}{0.02:>10.2%}" in out


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(
    ("category", "said"), [(DeprecationWarning, ""), (UserWarning, "ssd-mining: warning: old\n")]
)
def test_what_a_package_says_to_programmers_is_not_said_to_users(category, said, capsys, monkeypatch):
    monkeypatch.setattr("ssd_mining.cli.doctor.run", lambda _: warnings.warn("old", category, 1) or "fine")
    assert run(capsys, "doctor") == ("fine\n", said)
