"""The memory that ``mine`` takes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import run, shell

pytestmark = pytest.mark.process


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
