"""What the threads of a block find out together, by log steps: the lanes of a warp, and then the warps.

Sums are those of one tree, so that every run gives the same bits. Every thread gets the result.
"""

import numpy as np

from ssd_mining.kernels.cuda.runtime import WARP, cuda, helper

STEPS = WARP.bit_length() - 1  # in which a number passes all lanes of a warp
ALL = 0xFFFFFFFF  # lanes take part


@helper
def place():
    """Return the warp of this thread in its block, and its lane in the warp."""
    thread = np.uint32(cuda.threadIdx.x)
    return np.uint32(thread // np.uint32(WARP)), np.uint32(thread % np.uint32(WARP))


@helper
def sum_of_warp(value):
    """Add up a number of every lane."""
    for step in range(STEPS):
        value = type(value)(value + cuda.shfl_xor_sync(ALL, value, 1 << step))
    return value


@helper
def sum_above(count):
    """Add up a whole number of every lane above this one."""
    _, lane = place()
    total = np.int32(count)
    for step in range(STEPS):
        more = cuda.shfl_down_sync(ALL, total, 1 << step)
        total = np.int32(total + (more if lane < np.uint32(WARP - (1 << step)) else np.int32(0)))
    return np.int32(total - count)


@helper
def largest_of_warp(value, index):
    """Return the largest value of all lanes, and its index, the lowest of several."""
    for step in range(STEPS):
        other, place_of_other = cuda.shfl_xor_sync(ALL, value, 1 << step), cuda.shfl_xor_sync(ALL, index, 1 << step)
        if other > value or (other == value and place_of_other < index):
            value, index = other, place_of_other
    return value, index


@helper
def totals(first, second, of_warps, threads):
    """Add up two numbers of every thread; `of_warps` (2, WARP) is written once."""
    warp, lane = place()
    first, second = sum_of_warp(first), sum_of_warp(second)
    if lane == 0:
        of_warps[0, warp], of_warps[1, warp] = first, second
    cuda.syncthreads()
    first, second = (of_warps[0, lane], of_warps[1, lane]) if lane < np.uint32(threads // WARP) else (0.0, 0.0)
    return sum_of_warp(first), sum_of_warp(second)
