"""Every kernel of the CUDA twin, compiled to machine code without a GPU: no spills, no local memory, free loads."""

import re

import pytest

from ssd_mining._spec import Mined, Mining
from ssd_mining.kernels import cuda_long, cuda_pack, cuda_rows
from tests.compiled import FLOAT32, FLOAT64, UINT8, UINT64, assert_taken, capability, compiled, handed_over, usage

__all__ = ["capability"]  # a fixture


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


@pytest.mark.parametrize("labels", [UINT8, UINT64], ids=str)
def test_a_launch_hands_over_what_the_kernel_takes(labels, capability):
    kernel = row_kernel(FLOAT32, labels, 1, full=True)
    rows = cuda_rows.Input(1, 2, 3, 4, 5, codes=(0, 0, 255), num_anchors=8732, is_explicit=0)
    arguments = rows, Mining(background=0).rule, Mined(6, 7, 8, 9)
    addresses = [value for value in handed_over(kernel, *arguments) if isinstance(value, int)]
    assert addresses == list(range(1, 10))  # as they are
    assert_taken(kernel, capability, *arguments)
