"""``ssd-mining doctor``: what this machine and this installation have, for a user to read and a report to quote."""

import argparse
import contextlib
import os
import platform
import sys

import llvmlite.binding
import numba

from ssd_mining.checks import install_command
from ssd_mining.files.output import json_text
from ssd_mining.kernels import cache
from ssd_mining.report.versions import version_of, versions

# Packages that some commands and files need; an extra of ours installs each.
OPTIONAL = ("rich", "matplotlib", "jinja2", "zarr", "h5py", "dask")
# Packages whose arrays, models or threads we take where they are there; no extra of ours installs them.
OTHERS = ("torch", "torchvision", "tbb")


def run(args: argparse.Namespace) -> str:
    """Return what was found; nothing is compiled, and no file stays written."""
    system, processor, processors = platform.platform(), llvmlite.binding.get_host_cpu_name(), os.cpu_count()
    # A container or a batch system may leave us some of them only.
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else processors
    try:
        count, layer, problem = numba.get_num_threads(), numba.threading_layer(), None  # Numba chooses its layer here
    except ValueError as error:
        count, layer, problem = 1, None, " ".join(str(error).split())
    directory, refusal = None, cache.refusal()
    with contextlib.suppress(RuntimeError):  # a user without a home
        directory = str(cache.directory())
    optional = {name: version_of(name) for name in (*OPTIONAL, *OTHERS)}
    cuda = _cuda()
    missing = [name for name in OPTIONAL if optional[name] is None]
    hint = install_command(*missing) if missing else None
    if args.json:
        found = {
            "versions": versions(),
            "machine": {
                "system": system,
                "processor": processor,
                "processors": processors,
                "usable_processors": usable,
            },
            "threads": {"count": count, "layer": layer, "problem": problem},
            "cache": {"directory": directory, "writable": refusal is None, "problem": refusal},
            "optional": optional,
            "hint": hint,
            "cuda": {"version": version_of("numba-cuda"), "problem": cuda},
        }
        return json_text(found)
    lines = [
        *(f"{name:14}{version or 'not installed'}" for name, version in versions().items()),
        "",
        f"{'system':14}{system}",
        f"{'processor':14}{processor}, {usable} of {processors} usable",
        f"{'threads':14}{count}, {layer or problem}",
        f"{'cache':14}{directory or 'none'}, {refusal or 'writable'}",
        "",
        *(f"{name:14}{version or 'not installed'}" for name, version in optional.items()),
        f"{'numba-cuda':14}{cuda or version_of('numba-cuda')}",
    ]
    return "\n".join([*lines, "", f"install what some commands and files need: {hint}"] if hint else lines)


def _cuda() -> str | None:
    """Say what is missing for ``backend="cuda"``; None: nothing."""
    from ssd_mining.kernels.cuda import runtime  # Numba's part for CUDA takes a while

    try:
        runtime.check()
    except RuntimeError as error:
        return str(error)
    return None
