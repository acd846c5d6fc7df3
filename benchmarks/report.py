"""``python -m benchmarks.report``: how fast ``report`` reads a large file, as a share of how fast `numpy.sum` does.

Both read the same file in turn, from a warm cache of the system. The file is made first, and deleted afterwards. With
``--write``, the table goes to docs/report.md.
"""

import argparse
import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from ssd_mining import cli
from ssd_mining.files.output import array_writer

PAGE = Path(__file__).parents[1] / "docs" / "report.md"
ANCHORS = 8732
POSITIVES = 0.003


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the losses (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the file is made (default a temporary directory)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are timed (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table to docs/report.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measured(Path(folder), int(arguments.gib * (1 << 30)), arguments.rounds)
    print(json.dumps(found, indent=2))
    if arguments.write:
        write_table("report", found)


def write_table(name: str, found: dict[str, Any]) -> None:
    """Put what was measured, per GiB of losses, between the marks of that name in docs/report.md."""
    before, start, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- python -m benchmarks.{name} -->\n")
    _, stop, after = rest.partition("<!-- end -->\n")
    if not stop:
        msg = f"{PAGE}: expected the marks of {name}, got none"
        raise ValueError(msg)
    gib, first = found["losses_gib"], next(iter(found["seconds"]))
    lines = [f"| per GiB of losses, of {gib:.3g} | seconds | seconds of processors | speed, of `{first}` |"]
    lines += ["|---|---|---|---|"]
    for row, seconds in found["seconds"].items():
        share = found["seconds"][first] / seconds
        lines += [f"| `{row}` | {seconds / gib:.3g} | {found['cpu_seconds'][row] / gib:.3g} | {share:.2f} |"]
    PAGE.write_text(before + start + "\n".join(lines) + "\n" + stop + after, encoding="utf-8")


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
    one_thread = ("--num-threads", "1")
    seconds, cpu_seconds = in_turn(
        {
            "numpy.sum": lambda _: total(folder),
            "report": lambda turn: report(folder, "large", turn),
            "report --num-threads 1": lambda turn: report(folder, "large", f"1-{turn}", *one_thread),
        },
        rounds,
    )
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


def report(folder: Path, name: str, turn: str, *more: str) -> None:
    """Write a report of a file that `make` made."""
    run(
        *(f"{folder}/{name}_{kind}.npy" for kind in ("losses", "labels")),
        "--out",
        f"{folder}/{name}_report{turn}",
        *more,
    )


def run(*words: str) -> None:
    """Write a report, without its page."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["report", *words, "--background", "0", "--no-page"]) == 0


def in_turn(
    functions: Mapping[str, Callable[[str], None]], rounds: int, processors: Callable[[], float] = time.process_time
) -> list[dict[str, float]]:
    """Call each once in every round; return their medians, of seconds, and of the seconds of all processors."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for turn in range(rounds):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), processors()
            function(str(turn))
            spent[name].append((time.perf_counter() - wall, processors() - cpu))
    return [{name: float(np.median(v, axis=0)[i]) for name, v in spent.items()} for i in (0, 1)]


def peak() -> int:
    """Return the most memory that this process ever had, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) << 10 if found else 0


if __name__ == "__main__":
    main()
