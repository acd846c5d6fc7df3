"""``ssd-mining doctor``: what this machine and this installation have, for a user to read and a report to quote."""

import argparse
import contextlib
import os
import platform
import sys
from typing import Any

import llvmlite.binding

from ssd_mining.checks import install_command
from ssd_mining.engine.threads import num_workers
from ssd_mining.files.output import json_text
from ssd_mining.kernels import cache
from ssd_mining.report.versions import version_of, versions

# Packages that some commands and files need; an extra of ours installs each.
OPTIONAL = ("rich", "matplotlib", "jinja2", "zarr", "h5py", "dask")
# Packages whose arrays and models we take where they are there; no extra of ours installs them.
OTHERS = ("torch", "torchvision")


def run(args: argparse.Namespace) -> str:
    """Return what was found; nothing is compiled, and no file stays written."""
    system, processor, processors = platform.platform(), llvmlite.binding.get_host_cpu_name(), os.cpu_count()
    # A container or a batch system may leave us some of them only.
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else processors
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
            "threads": num_workers(None),
            "cache": {"directory": directory, "writable": refusal is None, "problem": refusal},
            "optional": optional,
            "hint": hint,
            "cuda": cuda,
        }
        return json_text(found)
    lines = [
        *(f"{name:14}{version or 'not installed'}" for name, version in versions().items()),
        "",
        f"{'system':14}{system}",
        f"{'processor':14}{processor}, {usable} of {processors} usable",
        f"{'threads':14}{num_workers(None)}",
        f"{'cache':14}{directory or 'none'}, {refusal or 'writable'}",
        "",
        *(f"{name:14}{version or 'not installed'}" for name, version in optional.items()),
        *_cuda_lines(cuda),
    ]
    return "\n".join([*lines, "", f"install what some commands and files need: {hint}"] if hint else lines)


def _cuda() -> dict[str, Any]:
    """Say what is there for ``backend="cuda"``, and what is missing."""
    from ssd_mining.kernels.cuda import cubins, runtime  # Numba's part for CUDA takes a while

    problem = None
    try:
        runtime.check()
    except RuntimeError as error:
        problem = str(error)
    return {
        "version": version_of("numba-cuda"),
        "problem": problem,
        "toolchain": {name: version for name, version in cubins.versions().items() if version is not None},
        "driver": cubins.driver_version(),
        "devices": [{"name": name, "compute_capability": capability} for name, capability in runtime.devices()],
    }


def _cuda_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{'numba-cuda':14}{found['problem'] or found['version']}"]
    parts = [f"{name} {version}" for name, version in found["toolchain"].items() if name != "numba-cuda"]
    if parts:  # they ask the driver
        driver = "not found" if found["driver"] is None else f"for CUDA up to {found['driver']}"
        lines += [f"{'compiled by':14}{', '.join(parts)}", f"{'NVIDIA driver':14}{driver}"]
    for i, each in enumerate(found["devices"]):
        lines.append(f"{f'NVIDIA GPU {i}':14}{each['name']}, compute capability {each['compute_capability']}")
    return lines
