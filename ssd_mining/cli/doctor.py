"""``ssd-mining doctor``: what this machine and this installation have, for a user to read and a report to quote."""

import argparse
import os
import platform
import sys
from dataclasses import asdict, dataclass

import llvmlite.binding
import numba

from ssd_mining.cli.versions import version_of, versions
from ssd_mining.files.output import json_text
from ssd_mining.kernels.cpu import cache

# Packages that some commands and files need, and the extra of ours that installs each.
OPTIONAL = {
    "rich": "cli",
    "matplotlib": "report",
    "jinja2": "report",
    "zarr": "zarr",
    "h5py": "hdf5",
    "dask": "dask",
}


@dataclass(frozen=True)
class Machine:
    """The system and its processors."""

    system: str
    processor: str
    processors: int | None
    usable_processors: int | None


@dataclass(frozen=True)
class Threads:
    """How many threads a call may use, of which threading layer; or why there is one only."""

    count: int
    layer: str | None
    problem: str | None


@dataclass(frozen=True)
class Cache:
    """Where compiled code is kept, or why it is not."""

    directory: str
    writable: bool
    problem: str | None


@dataclass(frozen=True)
class Findings:
    """What was found."""

    versions: dict[str, str | None]
    machine: Machine
    threads: Threads
    cache: Cache
    optional: dict[str, str | None]  # versions
    hints: dict[str, str]  # how to get those that are missing


def run(args: argparse.Namespace) -> str:
    """Return what was found; nothing is compiled, and no file stays written."""
    refusal, optional = cache.refusal(), {name: version_of(name) for name in OPTIONAL}
    found = Findings(
        versions=versions(),
        machine=Machine(
            platform.platform(), llvmlite.binding.get_host_cpu_name(), os.cpu_count(), _usable_processors()
        ),
        threads=_threads(),
        cache=Cache(str(cache.directory()), refusal is None, refusal),
        optional=optional,
        hints={name: f"pip install 'ssd_mining[{OPTIONAL[name]}]'" for name in OPTIONAL if optional[name] is None},
    )
    return json_text(asdict(found)) if args.json else _page(found)


def _usable_processors() -> int | None:
    if sys.platform == "linux":  # a container or a batch system may leave us some of them only
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _threads() -> Threads:
    try:
        count = numba.get_num_threads()  # Numba chooses its layer here
        return Threads(count, numba.threading_layer(), None)
    except ValueError as error:
        return Threads(1, None, " ".join(str(error).split()))


def _page(found: Findings) -> str:
    machine, threads, kept = found.machine, found.threads, found.cache
    lines = [f"{name:14}{version or 'not installed'}" for name, version in found.versions.items()]
    lines += [
        "",
        f"{'system':14}{machine.system}",
        f"{'processor':14}{machine.processor}, {machine.usable_processors} of {machine.processors} usable",
        f"{'threads':14}{threads.count}, {threads.layer or threads.problem}",
        f"{'cache':14}{kept.directory}, {'writable' if kept.writable else kept.problem}",
        "",
    ]
    for name, version in found.optional.items():
        lines += [f"{name:14}{version or 'not installed; ' + found.hints[name]}"]
    return "\n".join(lines)
