"""Arrays that are stored in chunks: which are refused, and how their rows are read, each chunk once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.inputs.arrays import as_array


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


class ChunkedRows:
    """Rows of an array that is stored in chunks of `step` rows. The chunk in which a read ends is kept for the next.

    So reads that follow one another read each chunk once, however many of them it holds.
    """

    def __init__(self, array: Any, num_rows: int, step: int) -> None:
        self._array, self._num_rows, self._step = array, num_rows, max(1, step)
        self._first, self._kept = 0, as_array("sources", array[:0])  # the chunk, and the number of its first row

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read rows with a step of 1 into memory of their own."""
        start, stop, _ = rows.indices(self._num_rows)
        head = self._kept[:0]
        if self._first <= start < self._first + self._kept.shape[0]:
            head = self._kept[start - self._first : max(start, stop) - self._first]
        start += head.shape[0]
        if start >= stop:
            return head.copy()
        head, self._kept = head.copy(), self._kept[:0].copy()  # what was kept is free before more is read
        step = self._step
        begin, end = start // step * step, min(-(-stop // step) * step, self._num_rows)
        read = as_array("sources", self._array[begin:end])
        own, last = read[start - begin : stop - begin], (stop - 1) // step * step
        if own.shape[0] < read.shape[0]:
            own = own.copy()
            self._first, self._kept = last, read if last == begin else read[last - begin :].copy()
        return np.concatenate([head, own]) if head.shape[0] else own
