"""``ssd-mining doctor``: what this machine and this installation have, for a user to read and a report to quote."""

import argparse
import os
import platform
import sys
from typing import Any

from ssd_mining.cli.options import as_json, say, version_of, versions

# Packages that some commands and files need, and the extra of ours that installs each.
OPTIONAL = {
    "rich": "cli",
    "matplotlib": "report",
    "jinja2": "report",
    "zarr": "zarr",
    "h5py": "hdf5",
    "dask": "dask",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = "Say which versions, processors, threads, cache and optional packages are there."
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run, out="the cache")


def run(args: argparse.Namespace) -> None:
    """Print what was found."""
    found = examine()
    say(as_json(found) if args.json else _page(found))


def examine() -> dict[str, Any]:
    """Return what was found, section by section; nothing is compiled, and nothing stays written."""
    import llvmlite.binding

    from ssd_mining.kernels.cpu import cache as _cache

    refusal, optional = _cache.refusal(), {name: version_of(name) for name in OPTIONAL}
    return {
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "processor": llvmlite.binding.get_host_cpu_name(),
            "processors": os.cpu_count(),
            "usable_processors": _usable_processors(),
        },
        "threads": _threads(),
        "cache": {"directory": str(_cache.directory()), "writable": refusal is None, "problem": refusal},
        "optional": optional,
        "hints": {name: hint(name) for name, version in optional.items() if version is None},
    }


def hint(name: str) -> str:
    """Say how to get an optional package."""
    return f"pip install 'ssd_mining[{OPTIONAL[name]}]'"


def _usable_processors() -> int | None:
    if sys.platform == "linux":  # a container or a batch system may leave us some of them only
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _threads() -> dict[str, Any]:
    """Return how many threads a call may use, and whose."""
    import numba

    try:
        count = numba.get_num_threads()  # Numba chooses its layer here
        return {"count": count, "layer": numba.threading_layer(), "problem": None}
    except ValueError as error:
        return {"count": 1, "layer": None, "problem": " ".join(str(error).split())}


def _page(found: dict[str, Any]) -> str:
    machine, threads, cache = found["machine"], found["threads"], found["cache"]
    lines = [f"{name:14}{version or 'not installed'}" for name, version in found["versions"].items()]
    lines += [
        "",
        f"{'system':14}{machine['system']}",
        f"{'processor':14}{machine['processor']}, {machine['usable_processors']} of {machine['processors']} usable",
        f"{'threads':14}{threads['count']}, {threads['layer'] or threads['problem']}",
        f"{'cache':14}{cache['directory']}, {'writable' if cache['writable'] else cache['problem']}",
        "",
    ]
    for name, version in found["optional"].items():
        lines += [f"{name:14}{version or 'not installed; ' + found['hints'][name]}"]
    return "\n".join(lines)
