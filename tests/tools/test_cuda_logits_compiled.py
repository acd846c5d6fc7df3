"""The kernels of the losses from logits compile for GPUs, and keep what they know in registers."""

import re

import numpy as np
import pytest

from ssd_mining._classification import SigmoidRule, SoftmaxRule
from ssd_mining.kernels import cuda_classes, cuda_gradients, cuda_logits, cuda_multibox
from tests.compiled import CAPABILITIES, compiled, has_compiler, machine_code

pytestmark = has_compiler

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
RULES = (SoftmaxRule, SigmoidRule)
KERNELS = {
    **{
        f"{kind.__name__} {dtype} {name}": make(kind, dtype)
        for kind in RULES
        for dtype in (FLOAT32, FLOAT64)
        for name, make in (
            ("losses", lambda kind, dtype: cuda_logits._kernel(kind, dtype, cuda_logits.THREADS)),
            ("gradients", cuda_gradients._kernel),
        )
    },
    **{f"classes of {name}": cuda_classes._kernel(np.dtype(name)) for name in ("uint8", "int32", "int64")},
    "localize": cuda_multibox._localize(FLOAT32),
    "weigh": cuda_multibox._weigh(FLOAT32),
    "divide": cuda_multibox._divide(),
}


@pytest.mark.parametrize("arch", CAPABILITIES)
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_needs_no_memory_of_its_own(name, arch, monkeypatch):
    code = machine_code(KERNELS[name], arch, monkeypatch)
    assert code.stack_bytes == code.spilled_bytes == 0
    assert code.registers <= 72  # of 65536: seven blocks of 128 threads at least; of 1024, which may have 64, one


@pytest.mark.parametrize("kind", RULES)
def test_losses_of_float32_are_computed_in_float32(kind, monkeypatch):
    ptx = compiled(cuda_logits._kernel(kind, FLOAT32, 128), "sm_90", "ptx", monkeypatch)
    assert "ex2.approx" in ptx
    assert not re.search(
        r"(mul|fma)\S*\.f64", ptx
    )  # what a softmax does in float64 is one difference per class that counts
