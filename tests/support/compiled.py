"""Kernels of the CUDA twin compiled to machine code without a GPU, for the tests that look at it.

Needs the package numba-cuda with its toolchain (``pip install ssd_mining[cuda13]``), and no simulator: a test that
asks for a `capability` is skipped where they are not there.
"""

import importlib.util
import re
import struct
from types import SimpleNamespace
from typing import NamedTuple

import numba
import numpy as np
import pytest

from ssd_mining.kernels.cuda.runtime import layout_of, unfolded

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
UINT8, UINT64 = np.dtype(np.uint8), np.dtype(np.uint64)
ARCHITECTURES = [(8, 0), (9, 0)]


def is_installed():
    """Say whether numba-cuda is there."""
    return importlib.util.find_spec("numba_cuda") is not None


def arch(capability):
    """Name an architecture as NVIDIA's tools do."""
    return "sm_{}{}".format(*capability)


# For kernels far from every limit, and for what the architecture does not decide. Linking a kernel takes a second.
one_architecture = pytest.mark.parametrize("capability", ARCHITECTURES[-1:], indirect=True, ids=arch)


@pytest.fixture(params=ARCHITECTURES, ids=arch)
def capability(request, monkeypatch):
    """Pretend that the current device is of some capability: numba asks it when it compiles a helper."""
    if numba.config.ENABLE_CUDASIM:
        pytest.skip("the simulator compiles nothing")
    if not is_installed():
        pytest.skip("numba-cuda is not installed: pip install ssd_mining[cuda13]")
    device = SimpleNamespace(compute_capability=request.param)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    return request.param


def compiled(kernel, capability, output):
    from numba import cuda

    options = {"device": False, "abi": "numba", "cc": capability, "launch_bounds": kernel.bounds}
    return cuda.compile(kernel.function, kernel.signature, output=output, **options)[0]


class Usage(NamedTuple):
    """What the machine code of a kernel needs; `instructions` counts the padding too."""

    registers: int
    memory: tuple[int, int, int]  # bytes of stack, of spilled stores and loads
    shared_bytes: int
    instructions: int


def usage(kernel, capability):
    """Link a kernel to machine code, and read what it needs."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=arch(capability), link_time_optimization=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ltoir(compiled(kernel, capability, "ltoir")), options=options)
    code, log = bytes(linker.link("cubin").code), linker.get_info_log()
    memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    shared = re.search(r"(\d+) bytes smem", log)
    return Usage(
        registers=int(re.search(r"Used (\d+) registers", log)[1]),
        memory=tuple(map(int, memory.groups())),
        shared_bytes=int(shared[1]) if shared else 0,
        instructions=size_of_text(code) // 16,
    )


def size_of_text(cubin):
    """Return how many bytes of code a cubin has, an ELF file of 64 bits."""
    first, step, number, names = struct.unpack_from("<Q10xHHH", cubin, 40)
    sections = [struct.unpack_from("<I20xQQ", cubin, first + i * step) for i in range(number)]
    named = {cubin[sections[names][1] + name :].partition(b"\0")[0]: size for name, _, size in sections}
    (text,) = (size for name, size in named.items() if name.startswith(b".text."))
    return text


def assert_taken(kernel, capability, *arguments):
    """Assert that a kernel takes what a launch packs, size by size."""
    layout = "".join(map(layout_of, kernel.signature.args))
    assert struct.pack(layout, *unfolded(arguments))  # as many numbers, of such kinds
    entry = re.search(r"\.entry.*?\)", compiled(kernel, capability, "ptx"), re.DOTALL)[0]
    sizes = [int(bits) // 8 for bits in re.findall(r"\.param \.[bfsu](\d+)", entry)]
    assert sizes == list(map(struct.calcsize, layout))
