"""``python -m benchmarks``: measure everything, write the results, render the page."""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import suite
from benchmarks.render import render

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE.parent / "docs" / "performance.md"
ON_GPU = HERE / "cuda.json"
TABLES = (
    "densities",
    "distributions",
    "label_types",
    "outputs",
    "threads",
    "kept",
    "analyses",
    "logits",
    "gradients",
    "growth",
    "first_call",
    "frameworks",
    "without_avx512",
)


def machine() -> str:
    """Say what the numbers were measured on."""
    model = "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("ssd_mining", "numba", "numpy"))
    date = time.strftime("%Y-%m-%d")
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}, {date}"


def on_gpu() -> dict[str, Any]:
    """Return what ``python -m benchmarks.cuda`` measured, wherever it was."""
    if not ON_GPU.exists():
        return {}
    measured = json.loads(ON_GPU.read_text())
    tables = {"cuda": "rows", "cuda_losses": "losses", "cuda_from_host": "from_host"}
    return {"gpu": measured["device"], **{key: measured[name] for key, name in tables.items()}}


def main() -> None:
    """Run the tables asked for, keep the others, and render the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"some of {', '.join(TABLES)}; all unless given")
    parser.add_argument("--render", action="store_true", help="render the page from the results at hand")
    arguments = parser.parse_args()
    unknown = set(arguments.tables) - set(TABLES)
    if unknown:
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not arguments.render:
        if not arguments.tables:
            results |= {"machine": machine(), "elsewhere": {}}
        for name in arguments.tables or TABLES:
            print(f"{name} ...", flush=True)
            results[name] = getattr(suite, name)()
            if arguments.tables:
                results.setdefault("elsewhere", {})[name] = machine()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(render(results | on_gpu()))
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
