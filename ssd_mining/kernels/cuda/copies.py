"""Large arrays cross the bus in pieces, through page-locked memory of the host, which a GPU reads and writes by itself.

From other memory the driver copied 3 GB/s on the machine of docs/cuda.md, from page-locked memory 40. That is more than
one core can do: helpers copy between the array and some pieces while others cross. Pieces are kept for the life of the
process.
"""

import ctypes
import functools
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.cuda.cubins import answer

LARGE = 1 << 20  # bytes from which an array is large; smaller ones are not worth the way
PIECE = 4 << 20  # bytes
MOST_HELPERS = 4  # that copy at once, with two pieces each
WITHOUT_TIMING, FOR_ALL_CONTEXTS = 2, 1  # flags of an event, and of page-locked memory

_lock = threading.Lock()  # of the pieces


class Piece(NamedTuple):
    """Page-locked memory, and the event that the last copy from or to it has passed."""

    memory: NDArray[np.uint8]
    event: Any


@functools.cache
def _piece(device: int, number: int) -> Piece:  # noqa: ARG001 - an event belongs to a device, the current one
    from cuda.bindings import driver

    address = answer(driver.cuMemHostAlloc(PIECE, FOR_ALL_CONTEXTS))
    memory: Any = (ctypes.c_uint8 * PIECE).from_address(address)
    return Piece(np.frombuffer(memory, np.uint8), answer(driver.cuEventCreate(WITHOUT_TIMING)))


def _pieces(device: int, num_helpers: int) -> list[Piece]:
    return [_piece(device, number) for number in range(2 * num_helpers)]


def to_device(array: NDArray[Any], address: int, device: int, stream: int, num_workers: int = 1) -> None:
    """Copy a C-contiguous array to an address of the current device; when this returns, it may change."""
    from cuda.bindings import driver

    source, num_helpers = array.reshape(-1).view(np.uint8), min(num_workers, MOST_HELPERS)

    def send(start: int, size: int, piece: Piece, filled: Future[None]) -> None:
        filled.result()
        answer(driver.cuMemcpyHtoDAsync(address + start, piece.memory.ctypes.data, size, stream))
        answer(driver.cuEventRecord(piece.event, stream))

    with _lock, ThreadPoolExecutor(num_helpers) as pool:
        pieces, waiting = _pieces(device, num_helpers), deque[Any]()
        for number, start in enumerate(range(0, source.size, PIECE)):
            if len(waiting) == len(pieces):
                send(*waiting.popleft())
            piece, part = pieces[number % len(pieces)], source[start : start + PIECE]
            answer(driver.cuEventSynchronize(piece.event))
            waiting.append((start, part.size, piece, pool.submit(np.copyto, piece.memory[: part.size], part)))
        while waiting:
            send(*waiting.popleft())


def to_host(address: int, array: NDArray[Any], device: int, stream: int, num_workers: int = 1) -> None:
    """Copy to a C-contiguous array what is at an address of the current device, and wait for it."""
    from cuda.bindings import driver

    target, num_helpers = array.reshape(-1).view(np.uint8), min(num_workers, MOST_HELPERS)

    with _lock, ThreadPoolExecutor(num_helpers) as pool:
        pieces, on_the_way = _pieces(device, num_helpers), deque[Any]()
        emptied: dict[int, Future[None]] = {}  # by the number of a piece

        def receive(part: NDArray[np.uint8], number: int) -> None:
            answer(driver.cuEventSynchronize(pieces[number].event))
            emptied[number] = pool.submit(np.copyto, part, pieces[number].memory[: part.size])

        for number, start in enumerate(range(0, target.size, PIECE)):
            own, part = number % len(pieces), target[start : start + PIECE]
            if own in emptied:
                emptied.pop(own).result()
            answer(driver.cuMemcpyDtoHAsync(pieces[own].memory.ctypes.data, address + start, part.size, stream))
            answer(driver.cuEventRecord(pieces[own].event, stream))
            on_the_way.append((part, own))
            if 2 * len(on_the_way) > len(pieces):  # while these cross, the others are emptied
                receive(*on_the_way.popleft())
        while on_the_way:
            receive(*on_the_way.popleft())
