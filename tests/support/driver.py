"""The CUDA twin on a machine without a GPU, under the real numba-cuda: its driver is the one of `driver.c`.

A test that asks for `on_driver` is skipped where the package or a C compiler is not there. The children know what
`CHILD` says; nothing that they launch runs.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numba
import pytest

from tests.support.batches import ROOT
from tests.support.compiled import is_installed

CHILD = """
import ctypes, json, sys
from types import SimpleNamespace
import numpy as np
import ssd_mining as sm

driver = ctypes.CDLL("libcuda.so.1")

class Launch(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 1024), ("grid", ctypes.c_uint * 4), ("stream", ctypes.c_void_p),
                ("size", ctypes.c_uint), ("arguments", ctypes.c_char * 4096)]

def last():
    launch = Launch()
    driver.driver_last(ctypes.byref(launch))
    return launch

def calls():
    '''Return the names of what the driver was asked since the last time.'''
    names = (ctypes.c_char_p * (1 << 16))()
    return [name.decode() for name in names[:driver.driver_calls(names)]]

def frames(function):
    '''Count the Python functions of ours that a call passes.'''
    passed = []
    def watch(frame, event, _):
        if event == "call" and "ssd_mining" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
            passed.append(frame.f_code.co_name)
    sys.setprofile(watch)
    function()
    sys.setprofile(None)
    return len(passed)

def load_torch():
    '''Load a stand-in for torch, whose tensors are memory of the host, and return their type.'''
    from tests.support.device import Tensor
    dtypes = {name: name for name in ("bool", "uint8", "int32", "int64", "float32", "float64")}
    stream = SimpleNamespace(cuda_stream=77)
    sys.modules["torch"] = SimpleNamespace(
        Tensor=Tensor, cuda=SimpleNamespace(current_stream=lambda _: stream),
        empty=lambda shape, dtype, device: Tensor(np.zeros(shape, dtype)), **dtypes,
    )
    return Tensor

def counts():
    from ssd_mining.kernels.cuda import cubins
    return cubins.counts()
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Compile the stand-in, and return the folder that it lies in."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler to make the stand-in for the driver")
    folder = tmp_path_factory.mktemp("driver")
    source, made = ROOT / "tests" / "support" / "driver.c", folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return folder


@pytest.fixture
def start(driver, tmp_path):
    """Return a function that starts code in a process of its own, and one that returns the value of its last line."""
    if numba.config.ENABLE_CUDASIM:
        pytest.skip("the simulator has no driver")
    if not is_installed():
        pytest.skip("numba-cuda is not installed: pip install ssd_mining[cuda13]")

    def start(*parts, **settings):
        *lines, last = "\n".join(map(textwrap.dedent, parts)).strip().splitlines()
        program = "\n".join([CHILD, *lines, f"print(json.dumps({last}))"])
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "SSD_MINING_"))}
        environment |= {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": str(ROOT)}
        environment |= {"SSD_MINING_CACHE_DIR": str(tmp_path / "cache"), **settings}
        command = [sys.executable, "-c", program]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def on_driver(start):
    """Return a function that runs code in a process of its own and returns the value of its last line."""

    def run(*parts, **settings):
        return result(start(*parts, **settings))

    return run


def result(process):
    """Wait for a process, and return the value of its last line."""
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, ""), err
    return json.loads(out)
