"""The kernels of the losses from logits, compiled to machine code without a GPU: what they know is in registers."""

import re

import numpy as np
import pytest

from ssd_mining.classification import Focal, Softmax
from ssd_mining.kernels.cuda import classes as cuda_classes
from ssd_mining.kernels.cuda import gradients as cuda_gradients
from ssd_mining.kernels.cuda import losses as cuda_logits
from ssd_mining.kernels.cuda import multibox as cuda_multibox
from ssd_mining.kernels.cuda.pack import Strided
from ssd_mining.kernels.records import SigmoidRule, SoftmaxRule
from tests.compiled import FLOAT32, FLOAT64, UINT8, assert_taken, capability, compiled, usage

__all__ = ["capability"]  # a fixture

RULES = (SoftmaxRule, SigmoidRule)
OTHERS = {
    **{
        f"classes of {dtype}": lambda dtype=dtype: cuda_classes._classifier(dtype)
        for dtype in (UINT8, np.dtype(np.int64))
    },
    "rows": lambda: cuda_classes._row_packer(FLOAT32),
    "negate": lambda: cuda_logits._negation(FLOAT32),
    "clear": lambda: cuda_gradients._clear(FLOAT32),
    "localize": lambda: cuda_multibox._localize(FLOAT32),
    "weigh": lambda: cuda_multibox._weigh(FLOAT32),
    "divide": cuda_multibox._divide,
}


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_losses_and_gradients_need_no_memory_of_their_own(kind, dtype, capability):
    for kernel in (cuda_logits._kernel(kind, dtype, 128), cuda_gradients._kernel(kind, dtype)):
        registers, memory = usage(kernel, capability)
        assert memory == (0, 0, 0)
        assert registers <= 72  # of 65536: seven blocks of 128 threads at least are under way at once


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_kernels_need_no_memory_of_their_own(name, capability):
    kernel = OTHERS[name]()
    registers, memory = usage(kernel, capability)
    assert memory == (0, 0, 0)
    assert registers <= 65536 // kernel.threads


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_losses_of_float32_are_computed_in_float32(kind, capability):
    ptx = compiled(cuda_logits._kernel(kind, FLOAT32, 128), capability, "ptx")
    assert "ex2.approx" in ptx
    assert not re.search(r"(mul|fma)\S*\.f64", ptx)  # what a softmax has in float64 is one difference for each cost


def test_launches_hand_over_what_the_kernels_take(capability):
    anchors = cuda_gradients.Anchors(1, 2, 3, 4, num_anchors=99, num_classes=21, is_scored=0)
    for rule in (Softmax().rule, Focal().rule._replace(excluded=2)):
        assert_taken(cuda_logits._kernel(type(rule), FLOAT32, 128), capability, anchors, rule, 5)
        assert_taken(cuda_gradients._kernel(type(rule), FLOAT32), capability, anchors, rule, 5, 6)
    source, meaning = Strided(1, 14, 14, 1, 0, 1), cuda_classes.Meaning(21, 22, 0, 0, 0)
    assert_taken(cuda_classes._classifier(UINT8), capability, source, source, meaning, 2, 99)
    assert_taken(cuda_classes._row_packer(FLOAT32), capability, source, 2, 99)
    boxes = cuda_multibox.Boxes(1, 2, 3, 4, 5, num_anchors=14, width=4, beta=1)
    sums, results = cuda_multibox.Sums(1, 2, 3, num_samples=32, loc_weight=1), cuda_multibox.Quotients(4, 5, 6, 7)
    by = cuda_multibox.divisor("selected", "zero", 32, 99)
    assert_taken(cuda_multibox._localize(FLOAT32), capability, boxes, 6)
    assert_taken(cuda_multibox._divide(), capability, sums, by, by, results)
    assert_taken(cuda_multibox._weigh(FLOAT32), capability, boxes, 6, 7, 8)
