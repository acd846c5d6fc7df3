"""``demo``: synthetic data that says so, and the command that it ends with."""

import shlex

import numpy as np

from ssd_mining.cli import synthetic
from tests.support.commands import USED, run


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


def test_the_first_command_that_the_demo_advises_prints_the_table_of_the_demo(demo):
    folder, out = demo
    command, page = (shlex.split(line) for line in out.splitlines() if line.startswith("  ssd-mining"))
    assert command[:2] == ["ssd-mining", "mine"]
    assert page == ["ssd-mining", "report", *command[2:-1], f"{folder}/report"]
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
