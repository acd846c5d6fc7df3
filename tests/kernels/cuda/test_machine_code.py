"""Every kernel of the CUDA twin, compiled to machine code without a GPU: no spills, no local memory, free loads."""

import itertools
import re

import pytest

from ssd_mining.kernels.cuda import long_rows, pack, short_rows
from ssd_mining.kernels.cuda.runtime import unfolded
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


def row_kernel(dtype, labels, num_keys, *, full, dense=True):
    return short_rows.kernel(dtype, labels, num_keys, dense=dense, ranked=full, masked=full)


# SSD300 has 8732 anchors, 9 for each thread.
@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
@pytest.mark.parametrize("labels", [UINT8, UINT64], ids=str)
@pytest.mark.parametrize(
    ("num_keys", "capability"), [(1, (9, 0)), (9, (8, 0)), (9, (9, 0))], indirect=["capability"], ids=str
)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "ragged"])
def test_the_rows_of_ssd300_stay_in_registers(dense, num_keys, labels, full, capability):
    registers, memory = usage(row_kernel(FLOAT32, labels, num_keys, full=full, dense=dense), capability)
    assert registers <= 65536 // short_rows.THREADS
    assert memory == (0, 0, 0)


# Up to as many as there are: 32768 anchors of float32, 16384 of float64; keys then take half of the registers. The
# longest are compiled for both architectures, the others for one of them in turn.
LONGEST = [(FLOAT32, 32), (FLOAT64, 16)]
SHORTER = [(FLOAT32, num_keys) for num_keys in (16, 20, 24, 28, 30, 31)]
SHORTER += [(FLOAT64, num_keys) for num_keys in (9, 12, 14, 15)]
LONG = [(*row, capability) for row in LONGEST for capability in ARCHITECTURES]
LONG += [(*row, capability) for row, capability in zip(SHORTER, itertools.cycle(ARCHITECTURES), strict=False)]


@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
@pytest.mark.parametrize(("dtype", "num_keys", "capability"), LONG, indirect=["capability"], ids=str)
def test_the_longest_rows_stay_in_registers_too(dtype, num_keys, full, capability):
    assert num_keys <= short_rows.MAX_KEYS[dtype.itemsize]
    assert usage(row_kernel(dtype, UINT64, num_keys, full=full), capability)[1] == (0, 0, 0)
    if num_keys >= short_rows.MAX_KEYS[dtype.itemsize] - 2:
        assert usage(row_kernel(dtype, UINT64, num_keys, full=full, dense=False), capability)[1] == (0, 0, 0)


@one_architecture
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", long_rows.Kernels._fields)
def test_the_kernels_of_long_rows_spill_nothing(name, dtype, capability):
    kernel = getattr(long_rows.kernels(dtype, UINT64, ranked=False, masked=True), name)
    assert usage(kernel, capability)[1] == (0, 0, 0)


PACKERS = {
    "packer": lambda: pack._packer(FLOAT32, with_classes=False),
    "counter": pack._counter,
    "recoder of classes": lambda: pack._class_recoder(UINT64),
    "recoder of scores": lambda: pack._score_recoder(FLOAT32),
}


@one_architecture
@pytest.mark.parametrize("name", PACKERS)
def test_the_kernels_that_pack_spill_nothing(name, capability):
    assert usage(PACKERS[name](), capability)[1] == (0, 0, 0)


@one_architecture
@pytest.mark.parametrize(("num_keys", "group"), [(9, 9), (32, 10)])
@pytest.mark.parametrize("full", [False, True], ids=["sums", "ranked, with masks"])
def test_the_loads_of_ten_keys_are_under_way_at_once(num_keys, group, full, capability):
    kernel = row_kernel(FLOAT32, UINT64, num_keys, full=full)
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
    kernel = row_kernel(FLOAT32, labels, 1, full=True)
    rows = short_rows.DeviceRows(1, 2, 3, 4, 5, codes=(0, 0, 255), num_anchors=8732, is_explicit=0)
    arguments = rows, Mining(background=0).rule, short_rows.DeviceMined(6, 7, 8, 9)
    numbers = unfolded(arguments)
    assert (numbers[:10], numbers[-4:]) == ([1, 2, 3, 4, 5, 0, 0, 255, 8732, 0], [6, 7, 8, 9])
    assert_taken(kernel, capability, *arguments)
