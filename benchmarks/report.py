"""``python -m benchmarks.report``: how fast ``report`` reads a large file, as a share of how fast `numpy.sum` does.

Both read the same file in turn, from a warm cache of the system. The file is made first, and deleted afterwards.
"""

import argparse
import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from ssd_mining import cli
from ssd_mining.output import array_writer

ANCHORS = 8732
POSITIVES = 0.003


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the losses (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the file is made (default a temporary directory)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are timed (default %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(json.dumps(measured(Path(folder), int(arguments.gib * (1 << 30)), arguments.rounds), indent=2))


def measured(folder: Path, num_bytes: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of both, the share, and the memory that a report takes beside what a small one does."""
    rows = max(2, num_bytes // (4 * ANCHORS))
    for name, count in (("small", min(rows, 400)), ("large", rows)):
        make(folder / name, count)
    peaks = []
    for name in ("small", "large"):  # the first compiles; both are untimed, and before any file is mapped
        report(folder, name, "warm")
        peaks.append(peak())
    total(folder)
    spent: dict[str, list[tuple[float, float]]] = {"numpy.sum": [], "report": []}
    for turn in range(rounds):
        spent["numpy.sum"].append(timed(lambda: total(folder)))
        spent["report"].append(timed(lambda turn=turn: report(folder, "large", str(turn))))
    seconds, cpu_seconds = ({name: float(np.median(v, axis=0)[i]) for name, v in spent.items()} for i in (0, 1))
    return {
        "losses_gib": rows * ANCHORS * 4 / (1 << 30),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # what a busy machine does not change, but for threads that wait for one another
        "share_of_numpy_sum": seconds["numpy.sum"] / seconds["report"],
        "memory_mib": (peaks[1] - peaks[0]) / (1 << 20),
    }


def make(stem: Path, rows: int) -> None:
    """Write losses with a heavy tail and their labels; one block of them again and again, shifted each time."""
    rng, step = np.random.default_rng(0), 500
    losses = data.losses("gamma", (step, ANCHORS), rng)
    labels = data.classes((step, ANCHORS), POSITIVES, rng).astype(np.uint8)
    with (
        array_writer(stem.with_name(f"{stem.name}_losses.npy"), np.float32, (ANCHORS,)) as append_losses,
        array_writer(stem.with_name(f"{stem.name}_labels.npy"), np.uint8, (ANCHORS,)) as append_labels,
    ):
        for start in range(0, rows, step):
            count = min(step, rows - start)
            append_losses(np.roll(losses, start, axis=1)[:count])
            append_labels(np.roll(labels, start // step, axis=1)[:count])


def total(folder: Path) -> None:
    """Read the losses once, as NumPy does it."""
    np.load(folder / "large_losses.npy", mmap_mode="r").sum()


def report(folder: Path, name: str, turn: str) -> None:
    """Write a report, without its page."""
    arrays = (f"{folder}/{name}_{kind}.npy" for kind in ("losses", "labels"))
    options = ("--background", "0", "--no-page", "--out", f"{folder}/{name}_report{turn}")
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["report", *arrays, *options]) == 0


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that a call takes, and those of all processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak() -> int:
    """Return the most memory that this process ever had, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) << 10 if found else 0


if __name__ == "__main__":
    main()
