"""The memory that ``report`` takes."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import shell

pytestmark = pytest.mark.process

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
@pytest.mark.parametrize(
    ("max_memory", "options"), [(16, ()), pytest.param(48, ("--min-negatives", "8732"), marks=pytest.mark.slow)]
)
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
