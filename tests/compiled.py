"""Kernels as machine code of a GPU that nobody has here: how many registers they take, and what spills."""

import re
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from ssd_mining import _cuda

CAPABILITIES = {"sm_80": (8, 0), "sm_90": (9, 0)}

has_compiler = pytest.mark.skipif(
    getattr(_cuda.cuda, "implementation", None) != "NVIDIA" or _cuda.SIMULATED,
    reason="needs numba-cuda with its toolchain, and no simulator",
)


class MachineCode(NamedTuple):
    """What the assembler says of a kernel."""

    registers: int
    stack_bytes: int
    spilled_bytes: int


def compiled(kernel: _cuda.Kernel, arch: str, output: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compile a kernel for a GPU, to "ptx" or to "ltoir"; no device is asked."""
    from numba import cuda

    capability = CAPABILITIES[arch]
    device = SimpleNamespace(compute_capability=capability)  # numba asks the current one, for helpers
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    code, _ = cuda.compile(
        kernel.function,
        kernel.signature,
        device=False,
        abi="numba",
        cc=capability,
        output=output,
        launch_bounds=kernel.launch_bounds,
    )
    return code


def machine_code(kernel: _cuda.Kernel, arch: str, monkeypatch: pytest.MonkeyPatch) -> MachineCode:
    """Assemble a kernel for a GPU, and say what it takes."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    code = ObjectCode.from_ltoir(compiled(kernel, arch, "ltoir", monkeypatch))
    linker = Linker(code, options=LinkerOptions(arch=arch, link_time_optimization=True, ptxas_options=["-v"]))
    linker.link("cubin")
    log = linker.get_info_log()
    registers, stack, spilled = (
        [int(number) for number in re.findall(pattern, log)]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack frame", r"(\d+) bytes spill stores")
    )
    return MachineCode(max(registers), sum(stack), sum(spilled))
