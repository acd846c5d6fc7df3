"""Large arrays cross the bus in pieces, through page-locked memory of the host, which a GPU reads and writes by itself.

From other memory the driver copied 3 GB/s on the machine of docs/cuda.md, from page-locked memory 40. While one piece
crosses, the next one is copied from or to the array. Two pieces per device are kept for the life of the process.
"""

import ctypes
import functools
import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.cuda.cubins import answer

LARGE = 1 << 20  # bytes from which an array is large; smaller ones are not worth the way
PIECE = 4 << 20  # bytes
WITHOUT_TIMING, FOR_ALL_CONTEXTS = 2, 1  # flags of an event, and of page-locked memory

_lock = threading.Lock()  # of the pieces


class Piece(NamedTuple):
    """Page-locked memory, and the event that the last copy from or to it has passed."""

    memory: NDArray[np.uint8]
    event: Any


@functools.cache
def _pieces(device: int) -> tuple[Piece, Piece]:  # noqa: ARG001 - an event belongs to a device, the current one
    from cuda.bindings import driver

    def piece() -> Piece:
        address = answer(driver.cuMemHostAlloc(PIECE, FOR_ALL_CONTEXTS))
        memory: Any = (ctypes.c_uint8 * PIECE).from_address(address)
        return Piece(np.frombuffer(memory, np.uint8), answer(driver.cuEventCreate(WITHOUT_TIMING)))

    return piece(), piece()


def to_device(array: NDArray[Any], address: int, device: int, stream: int) -> None:
    """Copy a C-contiguous array to an address of the current device; when this returns, it may change."""
    from cuda.bindings import driver

    source = array.reshape(-1).view(np.uint8)
    with _lock:
        for number, start in enumerate(range(0, source.size, PIECE)):
            piece, part = _pieces(device)[number % 2], source[start : start + PIECE]
            answer(driver.cuEventSynchronize(piece.event))
            piece.memory[: part.size] = part
            answer(driver.cuMemcpyHtoDAsync(address + start, piece.memory.ctypes.data, part.size, stream))
            answer(driver.cuEventRecord(piece.event, stream))


def to_host(address: int, array: NDArray[Any], device: int, stream: int) -> None:
    """Copy to a C-contiguous array what is at an address of the current device, and wait for it."""
    from cuda.bindings import driver

    target = array.reshape(-1).view(np.uint8)

    def arrive(part: NDArray[np.uint8], piece: Piece) -> None:
        answer(driver.cuEventSynchronize(piece.event))
        part[...] = piece.memory[: part.size]

    with _lock:
        on_the_way = None
        for number, start in enumerate(range(0, target.size, PIECE)):
            piece, part = _pieces(device)[number % 2], target[start : start + PIECE]
            answer(driver.cuEventSynchronize(piece.event))
            answer(driver.cuMemcpyDtoHAsync(piece.memory.ctypes.data, address + start, part.size, stream))
            answer(driver.cuEventRecord(piece.event, stream))
            if on_the_way is not None:
                arrive(*on_the_way)
            on_the_way = part, piece
        if on_the_way is not None:
            arrive(*on_the_way)
