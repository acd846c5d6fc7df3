"""The kernels of the losses from logits, compiled to machine code without a GPU: what they know is in registers."""

import re

import numpy as np
import pytest

from ssd_mining.classification import Focal, Softmax
from ssd_mining.kernels.cuda import logit_gradients, logit_losses, multibox, pack
from ssd_mining.kernels.cuda.logit_gradients import BLOCKS
from ssd_mining.kernels.loss_rules import divisor_of
from ssd_mining.kernels.records import SigmoidRule, SoftmaxRule
from tests.support.compiled import FLOAT32, FLOAT64, UINT8, assert_taken, compiled, one_architecture, usage

pytestmark = pytest.mark.toolchain

RULES = (SoftmaxRule, SigmoidRule)
OTHERS = {
    **{f"classes of {dtype}": lambda dtype=dtype: pack._classifier(dtype) for dtype in (UINT8, np.dtype(np.int64))},
    "rows": lambda: pack._packer(FLOAT32, with_classes=True),
    "negate": lambda: logit_losses._negation(FLOAT32),
    "localize": lambda: multibox._localize(FLOAT32),
    "weigh": lambda: multibox._weigh(FLOAT32),
    "divide": multibox._divide,
}


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_losses_and_gradients_need_no_memory_of_their_own(kind, dtype, capability):
    kernels = {logit_losses._kernel(kind, dtype, 128): 7}
    for classes_last in (True, False):
        kernels[logit_gradients._kernel(kind, dtype, classes_last=classes_last)] = BLOCKS[dtype.itemsize]
    for kernel, blocks in kernels.items():
        used = usage(kernel, capability)
        assert used.memory == (0, 0, 0)
        assert blocks * used.registers * 128 <= 65536  # as many blocks at least are under way at once


@one_architecture
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_kernels_need_no_memory_of_their_own(name, capability):
    kernel = OTHERS[name]()
    used = usage(kernel, capability)
    assert used.memory == (0, 0, 0)
    assert used.registers <= 65536 // kernel.threads


@one_architecture
@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_losses_of_float32_are_computed_in_float32(kind, capability):
    ptx = compiled(logit_losses._kernel(kind, FLOAT32, 128), capability, "ptx")
    assert "ex2.approx" in ptx
    assert not re.search(r"(mul|fma)\S*\.f64", ptx)  # what a softmax has in float64 is one difference for each cost


@one_architecture
def test_launches_hand_over_what_the_kernels_take(capability):
    anchors = logit_gradients.Anchors(1, 2, 3, 4, num_anchors=99, num_classes=21, is_scored=0)
    source, meaning = pack.Strided(1, 14, 14, 1, 0, 1), pack.Meaning(21, 22, 0, 0, 0)
    for rule in (Softmax().rule, Focal().rule._replace(excluded=2)):
        assert_taken(logit_losses._kernel(type(rule), FLOAT32, 128), capability, anchors, rule, 5)
        gradients = logit_gradients._kernel(type(rule), FLOAT32, classes_last=False)
        assert_taken(gradients, capability, anchors, rule, 5, source)
    assert_taken(pack._classifier(UINT8), capability, source, source, meaning, 2, 99)
    assert_taken(pack._packer(FLOAT32, with_classes=True), capability, source, 2, 99)
    boxes = multibox.Boxes(1, 2, 3, 4, 5, num_anchors=14, longest=14, width=4, beta=1)
    sums, results = multibox.Sums(1, 2, 3, num_samples=32, loc_weight=1), multibox.Quotients(4, 5, 6, 7, 8)
    by = divisor_of("selected", "zero", 32, 99)
    assert_taken(multibox._localize(FLOAT32), capability, boxes, 6)
    assert_taken(multibox._divide(), capability, sums, by, by, results)
    assert_taken(multibox._weigh(FLOAT32), capability, boxes, 1, 6, 7, 8)
