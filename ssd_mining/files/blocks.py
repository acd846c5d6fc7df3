"""Read arrays of any kind in blocks of samples, the next one while the caller works on the last: `read_blocks`."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import InputError, InputTypeError, check_int, refuse
from ssd_mining.inputs.arrays import as_array

# Small enough that the allocator reuses the memory, large enough for a chunk of a compressed store.
BLOCK_BYTES = 16 << 20

Arrays = tuple[NDArray[Any], ...]
Blocks = Iterator[tuple[int, Arrays]]


def read_blocks(*sources: Any, rows: int | None = None, start: int = 0, stop: int | None = None) -> Blocks:
    """Read arrays of any kind in blocks of samples. A thread reads the next block while the caller works on the last.

    Parameters
    ----------
    *sources
        Arrays of N samples each that can be sliced: ndarray, ``numpy.memmap``, zarr, HDF5, a safetensors slice, a
        tensor on the CPU. A block of a memory-mapped file is a copy in memory.
    rows : int, optional
        Samples of a block. Default: 16 MiB, rounded to whole chunks of the sources if possible.
    start, stop : int, optional
        The first sample, and the one after the last. Default: all samples.

    Yields
    ------
    first : int
        Index of the first sample of the block.
    arrays : tuple of ndarray
        The samples of the block, one array for each source.

    Raises
    ------
    TypeError
        If a source has no shape or cannot be sliced, or a number has a wrong type.
    ValueError
        If the sources have different numbers of samples, or `start` or `stop` is out of range, or a source is stored
        in chunks that split samples, because every chunk would be read several times.

    Notes
    -----
    At most two blocks are in memory: the one that the caller has, and the next one. Only one thread at a time reads a
    source. An error in reading a block is raised when that block is due.

    Examples
    --------
    >>> import numpy as np, ssd_mining as sm
    >>> losses, labels = np.random.default_rng(0).random((5, 100)), np.eye(5, 100, dtype=bool)
    >>> analysis = sm.LossAnalysis()
    >>> for first, block in sm.read_blocks(losses, labels, rows=2):
    ...     _ = analysis.update(*block, first_sample=first)
    >>> analysis.result().num_samples
    5
    """
    if not sources:
        refuse("sources", "at least one array", "none", TypeError)
    shapes = [_shape_of(source) for source in sources]
    for source, shape in zip(sources, shapes, strict=True):
        check_chunks(source, shape)
    num_samples = shapes[0][0]
    for shape in shapes:
        if shape[0] != num_samples:
            refuse("sources", f"arrays of {num_samples} samples, as the first", f"{shape[0]}")
    check_int("start", start, lowest=0)
    check_int("stop", stop, optional=True, lowest=0)
    check_int("rows", rows, optional=True, lowest=1)
    end = num_samples if stop is None else stop
    if not start <= end <= num_samples:
        refuse("stop", f"a sample from start ({start}) to {num_samples}", f"{end}")
    return _blocks(sources, range(start, end, _block_rows(sources, shapes) if rows is None else rows), end)


@contextlib.contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Count the sample of an error about a block from the first sample of the whole array, not of the block."""
    try:
        yield
    except (InputError, InputTypeError) as error:
        if error.sample is not None:
            error.sample += first
        raise


def _blocks(sources: tuple[Any, ...], starts: range, end: int) -> Blocks:
    def read(first: int) -> Arrays:
        last = min(first + starts.step, end)
        return tuple(_rows(source, first, last) for source in sources)

    with ThreadPoolExecutor(1, "read_blocks") as reader:
        due: Future[Arrays] | None = None
        for first in starts:
            block = (due or reader.submit(read, first)).result()
            following = first + starts.step
            due = reader.submit(read, following) if following < end else None
            yield first, block
            del block  # frees it before the next read begins


def _rows(source: Any, first: int, last: int) -> NDArray[Any]:
    array = as_array("sources", source[first:last])
    # Copying reads the file here, in the thread, not where the rows are used.
    return array.copy() if _is_mapped(array) else array


def _is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap | mmap.mmap)


def _shape_of(source: Any) -> tuple[int, ...]:
    shape = getattr(source, "shape", None)
    if shape is None and hasattr(source, "get_shape"):  # safetensors
        shape = source.get_shape()
    if shape is None or not hasattr(source, "__getitem__"):
        refuse("sources", "arrays with a shape, of which rows can be sliced", type(source).__name__, TypeError)
    if len(shape) == 0:
        refuse("sources", "arrays with a row per sample", "a single number")
    return tuple(map(int, shape))


def check_chunks(source: Any, shape: tuple[int, ...]) -> None:
    """Refuse an array whose chunks split samples."""
    chunks = chunks_of(source)
    if chunks is not None and any(0 < chunk < size for chunk, size in zip(chunks[1:], shape[1:], strict=True)):
        whole = (chunks[0], *shape[1:])
        expected = f"chunks of whole samples, such as {whole}"
        refuse("sources", expected, f"chunks {chunks} of shape {shape}; store it again, or rechunk it")


def chunks_of(source: Any) -> tuple[int, ...] | None:
    """Return the shape of the largest chunks of an array; None if it is not stored in chunks."""
    chunks = getattr(source, "shards", None) or getattr(source, "chunks", None)
    if not isinstance(chunks, tuple):
        return None
    return tuple(max(chunk, default=0) if isinstance(chunk, tuple) else int(chunk) for chunk in chunks)


def _block_rows(sources: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> int:
    """Return how many samples a block has."""
    per_sample = sum(
        _item_bytes(source) * math.prod(shape[1:]) for source, shape in zip(sources, shapes, strict=True)
    )
    step = max(1, BLOCK_BYTES // max(1, per_sample))
    chunk = max((chunks[0] for source in sources if (chunks := chunks_of(source))), default=1)
    return max(step - step % chunk, chunk)


def _item_bytes(source: Any) -> int:
    dtype = getattr(source, "dtype", None)
    return int(getattr(dtype, "itemsize", None) or 8)
