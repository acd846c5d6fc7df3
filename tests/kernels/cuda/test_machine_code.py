"""Every kernel of the CUDA twin, compiled to machine code without a GPU: no spills, no local memory, free loads."""

import itertools
import re

import pytest

from ssd_mining.kernels.cuda import long_rows, pack, short_rows
from ssd_mining.kernels.cuda.runtime import THREADS, unfolded
from ssd_mining.kernels.cuda.short_rows import HALF
from ssd_mining.mining_rule import Mining
from tests.support.compiled import (
    ARCHITECTURES,
    FLOAT32,
    FLOAT64,
    UINT8,
    UINT64,
    assert_taken,
    compiled,
    one_architecture,
    usage,
)

pytestmark = pytest.mark.toolchain


def row_kernel(dtype, labels, threads, num_keys, *, full, dense=True):
    return short_rows.kernel(dtype, labels, threads, num_keys, dense=dense, ranked=full, masked=full)


# What a multiprocessor of every architecture has: registers; shared bytes, a little less than those of a GeForce.
REGISTERS, SHARED_BYTES = 65536, 64 * 1024

# SSD300 has 8732 anchors, 18 for each thread of a smaller block.
SSD300 = -(-8732 // HALF)


@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
@pytest.mark.parametrize("labels", [UINT8, UINT64], ids=str)
@pytest.mark.parametrize(
    ("num_keys", "capability"),
    [(1, (9, 0)), (SSD300, (8, 0)), (SSD300, (9, 0)), (20, (9, 0))],
    indirect=["capability"],
    ids=str,
)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "ragged"])
def test_two_blocks_of_rows_up_to_10240_anchors_run_at_once(dense, num_keys, labels, full, capability):
    assert num_keys * HALF <= short_rows.most_anchors(FLOAT32, HALF) == 10240
    used = usage(row_kernel(FLOAT32, labels, HALF, num_keys, full=full, dense=dense), capability)
    assert used.memory == (0, 0, 0)
    assert 2 * used.registers * HALF <= REGISTERS
    assert 4 * used.shared_bytes <= SHARED_BYTES


@one_architecture
@pytest.mark.parametrize(("labels", "full", "most"), [(UINT8, False, 2400), (UINT64, True, 2650)])
def test_the_rows_of_ssd300_take_few_instructions_and_barriers(labels, full, most, capability):
    kernel = row_kernel(FLOAT32, labels, HALF, SSD300, full=full)
    assert usage(kernel, capability).instructions <= most
    # One for the bins, three for two groups of keys or for no anchors, two for each look-up and one for what is counted
    # before it (the first digit with the keys, others in a loop, ties twice), one for the least key, one for the sums.
    ptx = compiled(kernel, capability, "ptx")
    assert len(re.findall(r"^\s*(bar|barrier)\.", ptx, re.MULTILINE)) == 15


# Up to as many as there are: 32768 anchors of float32, 16384 of float64; keys then take half of the registers. The
# longest are compiled for both architectures, the others for one of them in turn.
LONGEST = [(FLOAT32, THREADS, 32), (FLOAT64, THREADS, 16), (FLOAT64, HALF, 10)]
SHORTER = [(FLOAT32, THREADS, num_keys) for num_keys in (20, 24, 28, 30, 31)]
SHORTER += [(FLOAT64, THREADS, num_keys) for num_keys in (9, 12, 14, 15)]
LONG = [(*row, capability) for row in LONGEST for capability in ARCHITECTURES]
LONG += [(*row, capability) for row, capability in zip(SHORTER, itertools.cycle(ARCHITECTURES), strict=False)]


@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
@pytest.mark.parametrize(("dtype", "threads", "num_keys", "capability"), LONG, indirect=["capability"], ids=str)
def test_the_longest_rows_stay_in_registers_too(dtype, threads, num_keys, full, capability):
    most = short_rows.MAX_KEYS[threads][dtype.itemsize]
    assert num_keys <= most
    used = usage(row_kernel(dtype, UINT64, threads, num_keys, full=full), capability)
    assert used.memory == (0, 0, 0)
    assert used.registers <= 64
    if num_keys >= most - 2:
        ragged = usage(row_kernel(dtype, UINT64, threads, num_keys, full=full, dense=False), capability)
        assert ragged.memory == (0, 0, 0)
        assert ragged.registers <= 64


@one_architecture
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("ranked", [False, True], ids=["by loss", "ranked"])
@pytest.mark.parametrize("name", ["count_digit", "advance", "sum_chunks"])
def test_two_blocks_of_long_rows_run_at_once(name, ranked, dtype, capability):
    kernel = getattr(long_rows.kernels(dtype, UINT64, ranked=ranked, masked=True), name)
    used = usage(kernel, capability)
    assert used.memory == (0, 0, 0)
    assert used.registers <= 32 or (name == "advance" and used.registers <= 40)


@one_architecture
@pytest.mark.parametrize("name", ["erase", "finish_rows"])
def test_the_other_kernels_of_long_rows_spill_nothing(name, capability):
    kernel = getattr(long_rows.kernels(FLOAT64, UINT64, ranked=False, masked=True), name)
    assert usage(kernel, capability).memory == (0, 0, 0)


PACKERS = {
    "packer": lambda: pack._packer(FLOAT32, with_classes=False),
    "counter": pack._counter,
    "recoder of classes": lambda: pack._class_recoder(UINT64),
    "recoder of scores": lambda: pack._score_recoder(FLOAT32),
}


@one_architecture
@pytest.mark.parametrize("name", PACKERS)
def test_the_kernels_that_pack_spill_nothing(name, capability):
    assert usage(PACKERS[name](), capability).memory == (0, 0, 0)


@one_architecture
@pytest.mark.parametrize(("threads", "num_keys", "group"), [(HALF, SSD300, 9), (THREADS, 32, 8)])
@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
def test_the_loads_of_a_group_of_keys_are_under_way_at_once(threads, num_keys, group, full, capability):
    kernel = row_kernel(FLOAT32, UINT64, threads, num_keys, full=full)
    lines = [line.strip() for line in compiled(kernel, capability, "ptx").splitlines()]
    assert not any(".local" in line for line in lines)
    # Between two labels or branches everything runs straight through: there the loads of the first stage are.
    straight, most = 0, 0
    for line in lines:
        straight = 0 if re.match(r"\$L|(@\S+\s+)?bra", line) else straight + bool(re.match(r"ld\.global", line))
        most = max(most, straight)
    assert most == group * (3 if full else 2)


@one_architecture
@pytest.mark.parametrize("labels", [UINT8, UINT64], ids=str)
def test_a_launch_hands_over_what_the_kernel_takes(labels, capability):
    kernel = row_kernel(FLOAT32, labels, HALF, 1, full=True)
    rows = short_rows.DeviceRows(1, 2, 3, 4, 5, codes=(0, 0, 255), num_anchors=8732, is_explicit=0)
    arguments = rows, Mining(background=0).rule, short_rows.DeviceMined(6, 7, 8, 9)
    numbers = unfolded(arguments)
    assert (numbers[:10], numbers[-4:]) == ([1, 2, 3, 4, 5, 0, 0, 255, 8732, 0], [6, 7, 8, 9])
    assert_taken(kernel, capability, *arguments)
