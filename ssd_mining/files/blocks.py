"""Read arrays of any kind in blocks of samples, the next one while the caller works on the last: `read_blocks`."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import DataError, InputError, InputTypeError, check_int, refuse, warn
from ssd_mining.files import stores
from ssd_mining.files.chunks import ChunkedRows, check_chunks, chunks_of
from ssd_mining.files.sources import ArraySource
from ssd_mining.inputs.arrays import as_array

# Small enough that the allocator reuses the memory, large enough for a chunk of a compressed store.
BLOCK_BYTES = 16 << 20
CHUNK_COPIES = 4  # of a chunk while it is read: compressed, unpacked (HDF5 doubles that buffer), copied to its place

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
    At most two blocks are in memory: the one that the caller has, and the next one. Of a source in chunks, the chunk in
    which a block ends is there too, so that no chunk is read twice. Only one thread at a time reads a source. An error
    in reading a block is raised when that block is due. A `HazardWarning` says how many chunks a source lacks.

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
        if isinstance(source, ArraySource):
            continue  # `open_array` has looked at it
        check_chunks(source, shape)
        missing = stores.missing_in(source)
        if missing:
            warn(f"sources: {missing}; {stores.WHY_MISSING}")
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
    step = _block_rows(sources, shapes) if rows is None else rows
    return _blocks([_by_chunks(source, num_samples) for source in sources], range(start, end, step), end)


def memory_beside_chunks(max_memory: int, per_sample: int, *sources: ArraySource) -> int:
    """Return the bytes that are left of `max_memory` MiB while a chunk of each source is read.

    `DataError` if they do not suffice for a sample, which takes `per_sample` bytes, and smaller chunks would.
    """
    left = (max_memory << 20) - sum(CHUNK_COPIES * source.chunk_bytes for source in sources)
    largest = max(sources, key=lambda source: source.chunk_bytes)
    if left < per_sample and largest.chunk_rows > 1:
        need = max_memory + -((left - per_sample) >> 20)
        expected = f"chunks that fit into --max-memory {max_memory}"
        got = f"chunks of {largest.chunk_rows:,} samples, {largest.chunk_bytes >> 20:,} MiB each"
        raise DataError(
            f"{largest.name}: expected {expected}, got {got}; store it again, or give --max-memory {need}"
        )
    return left


@contextlib.contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Count the sample of an error about a block from the first sample of the whole array, not of the block."""
    try:
        yield
    except (InputError, InputTypeError) as error:
        if error.sample is not None:
            error.sample += first
        raise


def _by_chunks(source: Any, num_samples: int) -> Any:
    """Return what reads the rows of a source: itself, unless it is stored in chunks that a block may split."""
    if isinstance(source, ArraySource):
        return source
    step = stores.unpacked_rows(source)
    return source if step is None else ChunkedRows(source, num_samples, step)


def _blocks(sources: Sequence[Any], starts: range, end: int) -> Blocks:
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
    if any(size != size for size in shape):  # NaN: an array of Dask's that was selected by a mask
        refuse("sources", "arrays of a known shape", f"shape {tuple(shape)}", hint="call compute_chunk_sizes()")
    return tuple(map(int, shape))


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
