"""Check whole numbers that describe samples: offsets, explicit quotas, counts."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.inputs.arrays import as_array, read_only
from ssd_mining.mining_rule import Mining

_MOST = np.iinfo(np.int64).max


def check_offsets(name: str, value: ArrayLike, count: int, of: str) -> NDArray[np.int64]:
    """Check where samples begin among `count` rows; `of` is what an error calls the rows.

    Return a copy: kernels trust it, whatever becomes of the original.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        refuse(name, "whole numbers", f"dtype {array.dtype}", TypeError)
    offsets = array.astype(np.int64)
    if offsets.ndim != 1 or offsets.size == 0:
        refuse(name, "a (B + 1,) array", f"shape {offsets.shape}")
    if offsets[0] != 0 or offsets[-1] != count or (np.diff(offsets) < 0).any():
        expected = f"numbers that never fall, from 0 to the {count} {of}"
        refuse(name, expected, np.array2string(array, threshold=8, separator=", "))
    return read_only(offsets)


def check_quotas(num_negatives: ArrayLike, num_samples: int, mining: Mining) -> NDArray[np.int64]:
    """Check explicit quotas. Return one for each sample."""
    array = _check_counts("num_negatives", num_negatives)
    if mining.scope == "batch" and array.shape:
        refuse("num_negatives", 'one number for scope="batch"', f"shape {array.shape}")
    if array.shape not in ((), (num_samples,)):
        refuse("num_negatives", f"one number, or one per sample ({num_samples},)", f"shape {array.shape}")
    return np.array(np.broadcast_to(array, (num_samples,)))


def check_counts(**named: ArrayLike) -> list[NDArray[np.int64]]:
    """Check arrays of counts and broadcast them against each other."""
    arrays = [_check_counts(name, value) for name, value in named.items()]
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError:
        refuse(" and ".join(named), "shapes that broadcast", " and ".join(str(a.shape) for a in arrays))


def _check_counts(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """Check an array of counts. Counts above the largest int64 become the largest int64."""
    array: Any = as_array(name, value)
    if array.size == 0 and isinstance(value, list | tuple):  # NumPy makes an empty list a float array
        array = array.astype(np.int64)
    if array.dtype == object and all(isinstance(count, int) for count in array.flat):
        array = np.asarray(np.minimum(array, _MOST), np.int64) if np.all(array >= 0) else array
    if array.dtype.kind not in "iu":
        refuse(name, "whole numbers", f"dtype {array.dtype}", TypeError)
    if (array < 0).any():
        first = int(np.flatnonzero(array < 0)[0])
        refuse(name, "numbers of at least 0", f"{array.flat[first]}" + (f" at {first}" if array.shape else ""))
    if array.dtype == np.uint64:
        array = np.minimum(array, np.uint64(_MOST))
    return array.astype(np.int64)  # type: ignore[no-any-return]
