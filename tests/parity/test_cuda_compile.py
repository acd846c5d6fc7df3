"""Every kernel of the CUDA twin, compiled to machine code without a GPU: no spills, no local memory, free loads.

Needs the package numba-cuda with its toolchain (``pip install ssd_mining[cuda13]``), and no simulator.
"""

import ctypes
import importlib.util
import re
from types import SimpleNamespace

import numba
import numpy as np
import pytest

if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed: pip install ssd_mining[cuda13]", allow_module_level=True)

from cuda.core import Linker, LinkerOptions, ObjectCode
from numba import cuda
from numba.cuda.dispatcher import _Kernel

from ssd_mining._spec import Mined, Mining
from ssd_mining.kernels import cuda_long, cuda_pack, cuda_rows

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
UINT8, UINT64 = np.dtype(np.uint8), np.dtype(np.uint64)
ARCHITECTURES = [(8, 0), (9, 0)]


@pytest.fixture(params=ARCHITECTURES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def capability(request, monkeypatch):
    """Pretend that the current device is of some capability: numba asks it when it compiles a helper."""
    device = SimpleNamespace(compute_capability=request.param)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    return request.param


def compiled(kernel, capability, output):
    options = {"device": False, "abi": "numba", "cc": capability, "launch_bounds": kernel.threads}
    return cuda.compile(kernel.function, kernel.signature, output=output, **options)[0]


def usage(kernel, capability):
    """Link a kernel to machine code; return its registers, and its bytes of stack, of spilled stores and loads."""
    arch = f"sm_{capability[0]}{capability[1]}"
    options = LinkerOptions(arch=arch, link_time_optimization=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ltoir(compiled(kernel, capability, "ltoir")), options=options)
    assert linker.link("cubin").code
    log = linker.get_info_log()
    memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    return int(re.search(r"Used (\d+) registers", log)[1]), tuple(map(int, memory.groups()))


def row_kernel(dtype, labels, num_keys, *, full, dense=True):
    return cuda_rows.kernel(dtype, labels, num_keys, dense=dense, ranked=full, masked=full)


# SSD300 has 8732 anchors, 9 for each thread.
@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
@pytest.mark.parametrize("labels", [UINT8, UINT64], ids=str)
@pytest.mark.parametrize("num_keys", [1, 9])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "ragged"])
def test_the_rows_of_ssd300_stay_in_registers(dense, num_keys, labels, full, capability):
    registers, memory = usage(row_kernel(FLOAT32, labels, num_keys, full=full, dense=dense), capability)
    assert registers <= 65536 // cuda_rows.THREADS
    assert memory == (0, 0, 0)


# Keys fill up to half of the registers, and a few of the other half are spilled; the keys are not.
@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
@pytest.mark.parametrize(
    ("dtype", "num_keys", "spilled"), [(FLOAT32, 24, 32), (FLOAT32, 32, 112), (FLOAT64, 9, 16), (FLOAT64, 16, 128)]
)
def test_the_keys_of_the_longest_rows_stay_in_registers(dtype, num_keys, spilled, full, capability):
    _, (stack, stored, loaded) = usage(row_kernel(dtype, UINT64, num_keys, full=full), capability)
    assert stack < num_keys * dtype.itemsize
    assert max(stored, loaded) <= spilled


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", cuda_long.Kernels._fields)
def test_the_kernels_of_long_rows_spill_nothing(name, dtype, capability):
    kernel = getattr(cuda_long.kernels(dtype, UINT64, ranked=False, masked=True), name)
    assert usage(kernel, capability)[1] == (0, 0, 0)


PACKERS = {
    "packer": lambda: cuda_pack.packer(FLOAT32),
    "counter": cuda_pack.counter,
    "recoder of classes": lambda: cuda_pack.recoder(UINT64, scores=False),
    "recoder of scores": lambda: cuda_pack.recoder(FLOAT32, scores=True),
}


@pytest.mark.parametrize("name", PACKERS)
def test_the_kernels_that_pack_spill_nothing(name, capability):
    assert usage(PACKERS[name](), capability)[1] == (0, 0, 0)


@pytest.mark.parametrize("num_keys", [9, 32])
@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
def test_all_loads_of_a_row_are_under_way_at_once(num_keys, full, capability):
    kernel = row_kernel(FLOAT32, UINT64, num_keys, full=full)
    lines = [line.strip() for line in compiled(kernel, capability, "ptx").splitlines()]
    assert not any(".local" in line for line in lines)
    # Between two labels or branches everything runs straight through: there the loads of the first stage are.
    straight, most = 0, 0
    for line in lines:
        straight = 0 if re.match(r"\$L|(@\S+\s+)?bra", line) else straight + bool(re.match(r"ld\.global", line))
        most = max(most, straight)
    assert most == num_keys * (3 if full else 2)


def handed_over(kernel, *arguments):
    """Return what numba hands to a kernel: addresses as they are, numbers in their C types."""
    launch, handed = SimpleNamespace(extensions=[]), []
    launch._prepare_args = lambda *given: _Kernel._prepare_args(launch, *given)
    for kind, value in zip(kernel.signature.args, arguments, strict=True):
        launch._prepare_args(kind, value, None, [], handed)
    return handed


def assert_taken(kernel, capability, *arguments):
    """Assert that a kernel takes what it is handed, size by size."""
    sizes = [8 if isinstance(value, int) else ctypes.sizeof(value) for value in handed_over(kernel, *arguments)]
    entry = re.search(r"\.entry.*?\)", compiled(kernel, capability, "ptx"), re.DOTALL)[0]
    assert [int(bits) // 8 for bits in re.findall(r"\.param \.[bfsu](\d+)", entry)] == sizes


@pytest.mark.parametrize("labels", [UINT8, UINT64], ids=str)
def test_a_launch_hands_over_what_the_kernel_takes(labels, capability):
    kernel = row_kernel(FLOAT32, labels, 1, full=True)
    rows = cuda_rows.Input(1, 2, 3, 4, 5, codes=(0, 0, 255), num_anchors=8732, is_explicit=0)
    arguments = rows, Mining(background=0).rule, Mined(6, 7, 8, 9)
    addresses = [value for value in handed_over(kernel, *arguments) if isinstance(value, int)]
    assert addresses == list(range(1, 10))  # as they are
    assert_taken(kernel, capability, *arguments)
