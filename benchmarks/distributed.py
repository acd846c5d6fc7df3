"""``python -m benchmarks.distributed``: an analysis on Dask against one without it, of the same zarr store.

Both have two cores: a `LocalCluster` of two processes with one thread each, and two threads of ``report``. Both read
the store from a warm cache of the system. With ``--write``, the table goes to docs/report.md.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import ssd_mining as sm
from benchmarks import report

CORES = 2
CHUNK_ROWS = 458  # 16 MB


def main() -> None:
    """Make the store, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the losses (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default %(default)s)")
    parser.add_argument("--write", action="store_true", help="write the table to docs/report.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), int(arguments.gib * (1 << 30)), arguments.rounds)
    print(json.dumps(found, indent=2))
    if arguments.write:
        report.write_table("distributed", found)


def measured(folder: Path, num_bytes: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of all ways, which must agree."""
    import dask.array as da
    from distributed import Client, LocalCluster

    from ssd_mining import dask

    rows = max(2, num_bytes // (4 * report.ANCHORS))
    store = make(folder, rows)
    arrays = [da.from_zarr(f"{store}/{name}") for name in ("losses", "labels")]
    results = {}
    with (
        LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def on_dask(_: str) -> None:
            results["dask"] = dask.analyse(*arrays, background=0).compute().result().to_dict()

        def processors() -> float:
            return time.process_time() + sum(client.run(time.process_time).values())

        ways = {
            f"report --num-threads {CORES}": lambda turn: reported(folder, turn, CORES),
            "report --num-threads 1": lambda turn: reported(folder, turn, 1),
            "LossAnalysis": lambda _: results.update(local=analysed(store)),
            f"dask.analyse, {CORES} processes": on_dask,
        }
        for way in ways.values():  # compiles, or loads what was compiled
            way("warm")
        seconds, cpu_seconds = report.in_turn(ways, rounds, processors)
    assert results["dask"] == results["local"]
    return {"losses_gib": rows * report.ANCHORS * 4 / (1 << 30), "seconds": seconds, "cpu_seconds": cpu_seconds}


def make(folder: Path, rows: int) -> Path:
    """Write a store of two arrays in chunks of whole samples."""
    import zarr

    report.make(folder / "made", rows)
    store = zarr.open_group(folder / "data.zarr", mode="w")
    for name in ("losses", "labels"):
        source = np.load(folder / f"made_{name}.npy", mmap_mode="r")
        array = store.create_array(
            name, shape=source.shape, dtype=source.dtype, chunks=(CHUNK_ROWS, report.ANCHORS), compressors=None
        )
        for start in range(0, rows, CHUNK_ROWS):
            array[start : start + CHUNK_ROWS] = source[start : start + CHUNK_ROWS]
    return folder / "data.zarr"


def reported(folder: Path, turn: str, num_threads: int) -> None:
    """Write a report of the store, without its page."""
    arrays = (f"{folder}/data.zarr:{name}" for name in ("losses", "labels"))
    report.run(*arrays, "--num-threads", str(num_threads), "--out", f"{folder}/report-{num_threads}-{turn}")


def analysed(store: Path) -> dict[str, Any]:
    """Analyse the store block by block, in this thread."""
    import zarr

    group = zarr.open_group(store, mode="r")
    analysis = sm.LossAnalysis(background=0, num_threads=1)
    for first, block in sm.read_blocks(group["losses"], group["labels"]):
        analysis.update(*block, first_sample=first)
    return analysis.result().to_dict()


if __name__ == "__main__":
    main()
