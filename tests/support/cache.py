"""A copy of the package whose kernels are tiny, and children that call them: what the tests of the cache need."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ssd_mining

SOURCES = Path(ssd_mining.__file__).parent


RULES = """
OFFSET = 1.0
def shifted(value):
    return value + OFFSET
"""


TINY = """
import numba
import numpy as np
from ssd_mining.kernels import tiny_rules
from ssd_mining.kernels.cpu import cache, jit
_shifted = jit.helper(tiny_rules.shifted)

def kept(**options):
    def compiled(function):
        driver = numba.njit(function, nogil=True, error_model="numpy", **options)
        if driver is not function:
            cache.guard(driver)
            jit._drivers.append(driver)
        return driver
    return compiled

@kept(parallel=False)
def _total_serial(values):
    total = 0.0
    for j in range(values.shape[0]):
        total += _shifted(values[j])
    return total

@kept(parallel=True)
def _total_parallel(values):
    total = 0.0
    for j in numba.prange(values.shape[0]):
        total += _shifted(values[j])
    return total

@kept(parallel=False)
def _third_serial(values):
    return values[3]

TABLE = np.zeros(200_000)

@kept(parallel=False)
def _large_serial(values):
    return values[3] + TABLE[0]

def _sum(values):
    total = values[0]
    for j in numba.prange(values.shape[0]):
        total += values[j]
    return total

_sum_serial, _sum_parallel = kept(parallel=False)(_sum), kept(parallel=True)(_sum)
"""


# A twin that takes the real rows and computes nothing: compiling all its signatures takes seconds, not minutes.
EMPTY_CPU = """
from ssd_mining.kernels.cpu.jit import drivers, helper
from ssd_mining.kernels.cpu.logits import gradients, losses
from ssd_mining.kernels.records import DONE

def mine(rows, rule, mined, num_workers):
    mined.pos_mask[:] = mined.hard_negative_mask[:] = False
    _MINE[num_workers > 1](rows.offsets.size - 1, num_workers, *rows, *rule, *mined[:-1])

def one_hot_roles(scores, column, role_of_empty, num_workers):
    return None

@helper
def _mine_sample(worker, sample, loss, rank, labels, codes, quotas, offsets, shortest, longest,
                 ratio, round_up, extra, min_negatives, min_always, max_negatives, omit_nan,
                 counts, sums, pos_mask, hard_negative_mask):
    counts[DONE, sample] = 1

_MINE = drivers(_mine_sample)
"""


# What every child knows: `call` the tiny kernel, in a fork of a process that has Numba ready if it must be quick.
CHILD = """
import contextlib, errno, fcntl, json, os, resource, signal, sys, time, warnings
from pathlib import Path
import numpy as np

def call(name="_total_serial", values=4, dtype=float):
    '''Return the answer, how many functions were compiled and loaded, and how many warnings there were.'''
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from ssd_mining.kernels.cpu import jit
        from ssd_mining.kernels import tiny
        answer = float(getattr(tiny, name)(np.arange(values, dtype=dtype)))
    assert all(w.category is RuntimeWarning and "SSD_MINING_CACHE" in str(w.message) for w in caught), caught
    return [answer, *jit.counts(), len(caught)]

def fork(function, *arguments):
    '''Run a function in a fork; return a function that waits for its result, or for the signal that ended it.'''
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        with os.fdopen(theirs, "w") as file:
            json.dump(function(*arguments), file)
        os._exit(0)
    os.close(theirs)
    def wait():
        with os.fdopen(ours) as file:
            text = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return json.loads(text) if status == 0 else status
    return wait

def forked(function, *arguments):
    return fork(function, *arguments)()

def get_ready():
    import numba
    numba.njit(lambda x: x + 1)(1.0)

def entries():
    return sorted(Path(os.environ["SSD_MINING_CACHE_DIR"]).glob("ssd_mining/*/*.bin"))

def on_files(action):
    '''Call `action(event, path)` before any file of the cache is opened for writing, moved or deleted, or made.'''
    def hook(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "fcntl.lockf"):
            path = str(arguments[0])
            writes = event != "open" or not isinstance(arguments[1], str) or arguments[1][0] != "r"
            if writes and (event == "fcntl.lockf" or os.environ["SSD_MINING_CACHE_DIR"] in path):
                action(event, path)
    sys.addaudithook(hook)
"""


COMPILED, LOADED, UNCACHED = [10.0, 1, 0, 0], [10.0, 0, 1, 0], [10.0, 1, 0, 1]


@pytest.fixture
def package(tmp_path):
    """Return a folder with a copy of the package that has other kernels."""
    kernels = tmp_path / "install" / "ssd_mining" / "kernels"
    shutil.copytree(SOURCES, kernels.parent, ignore=shutil.ignore_patterns("__pycache__"))
    (kernels / "cpu" / "__init__.py").write_text(EMPTY_CPU)
    (kernels / "tiny.py").write_text(TINY)
    (kernels / "tiny_rules.py").write_text(RULES)
    return tmp_path / "install"


@pytest.fixture
def run(package, tmp_path):
    """Return a function that runs code in a process of its own and returns the value of its last line."""

    def run(code, **settings):
        *lines, last = textwrap.dedent(code).strip().splitlines()
        program = "\n".join([CHILD, *lines, f"print(json.dumps({last}))"])
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "SSD_MINING_"))}
        environment |= {"SSD_MINING_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"PYTHONPATH": str(package), **settings}
        environment = {name: value for name, value in environment.items() if value is not None}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


def files(tmp_path):
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
