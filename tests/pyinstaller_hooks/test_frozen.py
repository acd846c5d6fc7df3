"""A frozen program has every module, the page's template and the versions, and keeps its machine code."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssd_mining import pyinstaller_hooks
from tests.support.batches import ROOT

PACKAGE = ROOT / "ssd_mining"


def file_of(name):
    """Return the file of a module of ours; None: this name is none."""
    path = ROOT.joinpath(*name.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def imported(file):
    """Yield the names that the import statements of a module may mean, wherever they stand."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(*names):
    """Return the modules of ours that import statements lead to, with the packages that they are in."""
    todo, found = list(names), set()
    while todo:
        name = todo.pop()
        if name.split(".")[0] == "ssd_mining" and name not in found and (file := file_of(name)):
            found.add(name)
            todo += [name.rpartition(".")[0], *imported(file)]
    return found


def test_import_statements_lead_to_every_module():
    every = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if "pyinstaller_hooks" not in path.parts and path.stem != "__main__"
    }
    # Users import the last three, or run them.
    assert every - reached("ssd_mining", "ssd_mining.cli", "ssd_mining.dask", "ssd_mining.torchvision") == set()


def test_no_module_of_ours_is_imported_by_a_name_that_a_freezer_cannot_see():
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "__init__.py":  # its names stand in import statements for type checkers too
            assert 'import_module("ssd_mining' not in path.read_text(), path
            assert 'import_module(f"ssd_mining' not in path.read_text(), path


def test_the_hook_lies_where_the_entry_point_says():
    (folder,) = pyinstaller_hooks.get_hook_dirs()
    assert (Path(folder) / "hook-ssd_mining.py").exists()


PROGRAM = """
import json, sys
import numpy as np
import ssd_mining as sm
from ssd_mining.cli import main
from ssd_mining.kernels.cpu import jit

losses, labels = np.random.default_rng(0).random((4, 200), np.float32), np.zeros((4, 200), int)
labels[:, ::20] = 1
kept = sm.mine_hard_negatives(losses, labels, background=0).num_kept.tolist()
uniform = sm.softmax_cross_entropy(np.zeros((1, 2, 4)), [[0, 1]]).tolist()
analysis = sm.LossAnalysis(background=0)
analysis.update(losses, labels)
codes = [
    main(["demo", "--samples", "2", "--out", "demo"]),
    main(["report", "demo/losses.npy", "demo/labels.npy", "--background", "0", "--out", "report"]),
]
found = {"kept": kept, "uniform": uniform, "analysed": analysis.result().num_kept, "codes": codes}
found |= {"version": sm.__version__, "counts": jit.counts()._asdict()}
with open("found.json", "w") as file:
    json.dump(found, file)
"""
# What lies beside it here and the program does not use: half of the time of a build.
UNUSED = ("dask", "distributed", "h5py", "hypothesis", "mypy", "pandas", "pytest", "rich", "xarray", "zarr")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.extra("PyInstaller", "jinja2", "matplotlib")
def test_a_program_of_pyinstaller_computes_what_this_one_does(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", "--paths", str(ROOT)]
    excluded = [f"--exclude-module={name}" for name in UNUSED]
    subprocess.run([*build, *excluded, "program.py"], cwd=tmp_path, check=True)
    runs = []
    for number in range(2):
        here = tmp_path / f"run{number}"
        here.mkdir()
        environment = {"HOME": str(tmp_path), "PATH": os.defpath, "SSD_MINING_CACHE_DIR": str(tmp_path / "cache")}
        program = tmp_path / "dist" / "program" / "program"
        done = subprocess.run([program], cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "<svg" in (here / "report" / "report.html").read_text()
        assert json.loads((here / "report" / "summary.json").read_text())["versions"]["numba"]
        runs.append(json.loads((here / "found.json").read_text()))
    first, second = runs
    assert (first["kept"], first["analysed"], first["codes"]) == ([30] * 4, 120, [0, 0])
    assert first["uniform"] == [[pytest.approx(1.3862943611198906)] * 2]
    assert first["counts"]["compiled"] > 0
    assert second["counts"] == {"compiled": 0, "loaded": first["counts"]["compiled"]}
