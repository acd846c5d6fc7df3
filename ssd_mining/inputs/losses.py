"""The input boundary: what a call was given becomes a checked `Batch`.

Nothing reaches a kernel that did not pass `check`: raw Numba checks no shapes and reads out of bounds silently.
What costs a pass over the values (NaN, labels out of range) is counted by the kernel on the way and raised by
`_batch.raise_bad_values` before any result leaves.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.inputs.arrays import as_array, as_real_array, check_shape, kernel_dtype, read_only
from ssd_mining.inputs.batch import NO_QUOTAS, Batch, Losses, dense_offsets
from ssd_mining.inputs.labels import as_labels
from ssd_mining.mining_rule import Extras, Mining

_MOST = np.iinfo(np.int64).max
_LIKE_LOSSES = ("rank_by", "overlaps", "anchor_weights")


def check(conf_loss: ArrayLike, labels: ArrayLike, mining: Mining, extras: Extras | None = None) -> Batch:
    """Check everything about the inputs that can be known without a pass over their values."""
    return assemble(as_real_array("conf_loss", conf_loss), labels, mining, extras or {})


def assemble(
    loss: NDArray[Any] | Losses, labels: ArrayLike, mining: Mining, extras: Extras, ranks: Losses | None = None
) -> Batch:
    """Check what goes with losses that are checked, or computed as they are read; so are `ranks`, if any."""
    given: Any = extras
    offsets = given.get("sample_offsets")
    if offsets is None:
        if loss.ndim != 2:
            refuse("conf_loss", "a (B, A) array, or (N,) with sample_offsets", f"shape {loss.shape}")
        offsets = dense_offsets(*loss.shape)
    else:
        if loss.ndim != 1:
            refuse("conf_loss", "an (N,) array with sample_offsets", f"shape {loss.shape}")
        offsets = sample_offsets(offsets, loss.size)
    label_array = as_labels(labels, loss.shape, mining)
    rank, overlaps, weights = (_like_losses(name, given.get(name), loss) for name in _LIKE_LOSSES)
    if mining.rank_by != "loss" and rank is not None:
        refuse("rank_by", "an array or a name", f"an array and {mining.rank_by!r}", TypeError)
    if mining.rank_by != "loss" and ranks is None:
        expected = '"loss" or an array, for only logits tell the probabilities (mine_logits, multibox_loss)'
        refuse("rank_by", expected, f"{mining.rank_by!r}")
    if weights is not None and weights.size and not weights.min() >= 0:
        refuse("anchor_weights", "weights of at least 0", f"{weights.min()}")
    dtype = kernel_dtype(loss.dtype)
    if not (rank is None and weights is None):
        dtype = np.result_type(dtype, *(kernel_dtype(array.dtype) for array in (rank, weights) if array is not None))
    return Batch(
        conf_loss=loss,
        labels=label_array,
        rank_by=rank if ranks is None else ranks,
        valid=check_valid(given.get("valid"), loss.shape),
        overlaps=overlaps,
        weights=weights,
        quotas=_quotas(given.get("num_negatives"), offsets.size - 1, mining),
        offsets=offsets,
        rng=given.get("rng"),
        dtype=dtype,
        mining=mining,
    )


def _like_losses(name: str, value: ArrayLike | None, loss: NDArray[Any] | Losses) -> NDArray[Any] | None:
    if value is None:
        return None
    array = as_real_array(name, value)
    check_shape(
        name, array, loss.shape, "conf_loss" if isinstance(loss, np.ndarray) else f"the anchors of {loss.name}"
    )
    return array


def check_valid(value: ArrayLike | None, shape: tuple[int, ...], of: str = "conf_loss") -> NDArray[np.bool_] | None:
    """Check which anchors count, if that is said; `shape` is that `of` the losses."""
    if value is None:
        return None
    array = as_array("valid", value)
    if array.dtype != np.bool_:
        refuse("valid", "a bool array, True where the anchor counts", f"dtype {array.dtype}", TypeError)
    check_shape("valid", array, shape, of)
    return array


def sample_offsets(value: ArrayLike, num_anchors: int, of: str = "conf_loss") -> NDArray[np.int64]:
    """Check offsets and copy them, for a kernel trusts them whatever the caller does to his."""
    array = as_array("sample_offsets", value)
    if array.dtype.kind not in "iu":
        refuse("sample_offsets", "whole numbers", f"dtype {array.dtype}", TypeError)
    offsets = array.astype(np.int64)
    if offsets.ndim != 1 or offsets.size == 0:
        refuse("sample_offsets", "a (B + 1,) array", f"shape {offsets.shape}")
    if offsets[0] != 0 or offsets[-1] != num_anchors or (np.diff(offsets) < 0).any():
        expected = f"numbers that never fall, from 0 to the {num_anchors} of {of}"
        refuse("sample_offsets", expected, np.array2string(array, threshold=8, separator=", "))
    return read_only(offsets)


def _quotas(num_negatives: ArrayLike | None, num_samples: int, mining: Mining) -> NDArray[np.int64]:
    if num_negatives is None:
        return NO_QUOTAS
    array = _counts("num_negatives", num_negatives)
    if mining.scope == "batch" and array.shape:
        refuse("num_negatives", 'one number for scope="batch"', f"shape {array.shape}")
    if array.shape not in ((), (num_samples,)):
        refuse("num_negatives", f"one number, or one per sample ({num_samples},)", f"shape {array.shape}")
    return np.array(np.broadcast_to(array, (num_samples,)))


def _counts(name: str, value: ArrayLike) -> NDArray[np.int64]:
    """Check an array of counts; those beyond int64 become its largest value."""
    array = as_array(name, value)
    if array.size == 0 and isinstance(value, list | tuple):  # NumPy makes floats of nothing
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
    return array.astype(np.int64)


def check_counts(**named: ArrayLike) -> list[NDArray[np.int64]]:
    """Check arrays of counts and broadcast them against each other."""
    arrays = [_counts(name, value) for name, value in named.items()]
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError:
        refuse(" and ".join(named), "shapes that broadcast", " and ".join(str(a.shape) for a in arrays))
