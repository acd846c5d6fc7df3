"""The input boundary: `check_losses` and `check_logit_batch` make a checked `Batch`; a `Batch` makes rows for a kernel.

Everything that reaches a kernel is checked here, because raw Numba checks no shapes and silently reads out of bounds.
Checks that need a pass over the values (NaN, labels out of range) are left to the kernel: it counts them, and
`Batch.refuse_values` raises before a result is returned.
"""

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import check_int, refuse
from ssd_mining.classification import Classification, Softmax
from ssd_mining.inputs.arrays import (
    FLOAT32,
    FLOAT64,
    as_array,
    as_real_array,
    check_valid,
    kernel_dtype,
    native,
    native_dtype,
    read_only,
)
from ssd_mining.inputs.counts import check_offsets, check_quotas
from ssd_mining.inputs.labels import OneHotRoles, check_labels, codes_of, roles_of_labels
from ssd_mining.inputs.logits import (
    Logits,
    RankKind,
    check_classification,
    check_logits,
    check_ragged,
    locate,
    refuse_label,
)
from ssd_mining.kernels import rules
from ssd_mining.kernels.records import NUM_BAD, NUM_NAN, Mined, Rows
from ssd_mining.mining_rule import NO_EXTRAS, Extras, Mining, Rng

# A kernel gets a batch in blocks of this many elements: converted copies stay small, and Ctrl-C gets through.
BLOCK_ELEMENTS = 2_000_000
# A block of scores, or of arrays that need no copy, may be this much larger. Ctrl-C still gets through within 20 ms.
VIEWED = 8

# The kernels fill shorter rows up to one word of 64 bits.
SHORTEST_ROW = 64

_NO_RANKS = {dtype: read_only(np.empty(0, dtype)) for dtype in (FLOAT32, FLOAT64)}
_NO_QUOTAS = read_only(np.empty(0, np.int64))


@dataclass(eq=False, slots=True)
class Batch:
    """Checked arrays: views of the caller's arrays, in their own dtype and layout.

    A dense batch has axes (B, A), a ragged one (N,): the anchors of all samples. Trailing axes of the caller, as of
    (B, H, W), are one here; only `mask_shape` knows them.
    """

    mining: Mining
    shape: tuple[int, ...]  # (B, A) or (N,)
    mask_shape: tuple[int, ...]  # that, or (B, H, W) and the like: of the caller's anchors, and of the masks
    offsets: NDArray[np.int64]  # (B + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    dtype: np.dtype[Any]  # float32 or float64: what the kernel computes with
    labels: NDArray[Any]  # (B, A) or (N,) integer or bool, or (B, A, C) or (N, C)
    codes: NDArray[Any] | None  # `Rows.codes`; None: a kernel gets roles instead of labels
    conf_loss: NDArray[Any] | None  # (B, A) or (N,) float or integer; None: computed from logits
    rank_by: NDArray[Any] | None = None  # (B, A) or (N,)
    valid: NDArray[np.bool_] | None = None  # (B, A) or (N,)
    overlaps: NDArray[Any] | None = None  # (B, A) or (N,)
    weights: NDArray[Any] | None = None  # (B, A) or (N,)
    quotas: NDArray[np.int64] | None = None  # (B,) explicit quotas
    rng: Rng | None = None
    logits: Logits | None = None  # to compute the losses from
    ranks: Logits | None = None  # to compute the ranks from
    num_empty: int = 0  # all-zero rows that count as positives, in the blocks so far
    is_dense: bool = field(init=False)  # all samples have the same number of anchors
    is_pos_mask: bool = field(init=False)  # the labels say which anchors are positive, and no class

    def __post_init__(self) -> None:
        self.is_dense = len(self.shape) == 2
        self.is_pos_mask = self.labels.dtype.kind == "b" and self.labels.ndim == len(self.shape)

    def blocks(self, *, may_be_large: bool = False) -> list[slice]:
        """Return slices of samples: up to `BLOCK_ELEMENTS` losses and `VIEWED` times as many scores, or one sample.

        If they `may_be_large` and the kernel takes the caller's own memory, they have `VIEWED` times as many losses.
        """
        num_samples, most = self.offsets.size - 1, BLOCK_ELEMENTS
        if self.labels.ndim > len(self.shape):
            most = min(most, VIEWED * most // self.labels.shape[-1])
        together = num_samples == 1 or self.mining.scope != "sample"  # a batch that is mined as a whole is one block
        if num_samples and (together or self.offsets[-1] + SHORTEST_ROW * num_samples <= most):
            return [slice(0, num_samples)]
        if may_be_large and self._is_viewed():
            most *= VIEWED
        blocks, start = [], 0
        room = np.concatenate([[0], np.cumsum(np.maximum(np.diff(self.offsets), SHORTEST_ROW))])
        while start < num_samples:
            stop = max(start + 1, int(np.searchsorted(room, room[start] + most, "right")) - 1)
            blocks.append(slice(start, stop))
            start = stop
        return blocks

    def _is_viewed(self) -> bool:
        """Say whether no array is converted or computed for the kernel."""
        if self.codes is None or self.conf_loss is None or self.weights is not None or not self.mining.is_plain:
            return False
        taken = [(self.labels, native_dtype(self.labels.dtype)), (self.conf_loss, self.dtype)]
        taken += [] if self.rank_by is None else [(self.rank_by, self.dtype)]
        return all(
            array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned for array, dtype in taken
        )

    def anchors(self, block: slice) -> slice:
        """Return which anchors of the batch belong to the samples of a block."""
        return slice(int(self.offsets[block.start]), int(self.offsets[block.stop]))

    def rows(
        self,
        block: slice,
        loss: NDArray[Any] | None,
        rank: NDArray[Any] | None,
        one_hot_roles: OneHotRoles | None = None,
    ) -> Rows:
        """Return the rows of a block as a kernel takes them: views where dtype and layout allow it.

        `loss` and `rank`, (n,), have been computed from logits; None: take those of the caller. `one_hot_roles` is a
        kernel that reads one-hot labels.
        """
        if loss is None:
            loss = self._flat(self.conf_loss, block, self.dtype)
        if self.weights is not None:
            loss = self._weighted(loss, block)
        if rank is None:
            rank = _NO_RANKS[self.dtype] if self.rank_by is None else self._flat(self.rank_by, block, self.dtype)
        if self.is_dense:
            shortest = longest = self.shape[1]
            offsets = _dense_offsets(block.stop - block.start, longest)
        else:
            offsets = read_only(self.offsets[block.start : block.stop + 1] - self.offsets[block.start])
            lengths = np.diff(offsets)
            shortest, longest = int(lengths.min(initial=SHORTEST_ROW)), int(lengths.max(initial=0))
        quotas = _NO_QUOTAS if self.quotas is None else read_only(self.quotas[block])
        labels, codes = self._labels(block, one_hot_roles)
        return Rows(loss, rank, labels, codes, quotas, offsets, shortest, longest)

    def at(self, sample: NDArray[np.int64], anchor: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return the index of some anchors in an array of this batch."""
        return (sample, anchor) if self.is_dense else (self.offsets[sample] + anchor,)

    def part(self, array: Any, block: slice) -> NDArray[Any]:
        """Return the part of an array that belongs to a block, with the anchors on one axis, (n, ...)."""
        if not self.is_dense:
            return array[self.anchors(block)]  # type: ignore[no-any-return]
        part = array[block]
        return part.reshape(-1) if part.ndim == 2 else part.reshape(-1, part.shape[2])  # type: ignore[no-any-return]

    def _flat(self, array: Any, block: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the part of an array that belongs to a block as a kernel takes it: (n,), of this dtype, read-only."""
        view = array[block].reshape(-1) if self.is_dense else array[self.anchors(block)]
        part: NDArray[Any] = np.ascontiguousarray(view, dtype)
        if not part.flags.aligned:
            part = part.copy()
        part.setflags(write=False)  # our own view or copy
        return part

    def _labels(self, block: slice, one_hot_roles: OneHotRoles | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the labels of a block as unsigned integers, and their codes."""
        if self.codes is not None:
            labels = self._flat(self.labels, block, native_dtype(self.labels.dtype))
            return labels.view(self.codes.dtype), self.codes
        valid = None if self.valid is None else self.part(self.valid, block)
        is_near = None if self.overlaps is None else self.part(self.overlaps, block) >= self.mining.neg_overlap
        first = self.anchors(block).start
        labels = self.part(self.labels, block)
        roles, empty = roles_of_labels(
            labels, self.mining, valid, is_near, lambda row: locate(self.offsets, first + row), one_hot_roles
        )
        self.num_empty += empty
        return roles, rules.ROLE_CODES

    def _weighted(self, loss: NDArray[Any], block: slice) -> NDArray[Any]:
        weights = self.part(self.weights, block)
        # A weight of 0 gives 0 even for inf and NaN. A product that overflows is inf.
        with np.errstate(over="ignore", invalid="ignore"):
            loss = native(loss, self.dtype)
            return read_only(
                np.multiply(loss, weights, out=np.zeros_like(loss), where=weights != 0, casting="same_kind")
            )

    def refuse_values(self, block: slice, rows: Rows, mined: Mined) -> None:
        """Raise if the kernel counted labels out of range in this block, or NaN under ``nan_policy="raise"``."""
        bad = np.flatnonzero(mined.counts[NUM_BAD])
        if bad.size:
            self._refuse_label(block, int(bad[0]), rows)
        nan = np.flatnonzero(mined.counts[NUM_NAN])
        if self.mining.nan_policy == "raise" and nan.size:
            self._refuse_nan(block, int(nan[0]), rows)

    def _refuse_label(self, block: slice, sample: int, rows: Rows) -> None:
        row = slice(rows.offsets[sample], rows.offsets[sample + 1])
        labels = rows.labels[row]
        anchor = int((rules.is_positive(labels, rows.codes) & rules.is_bad(labels, rows.codes)).argmax())
        got = self.part(self.labels, block)[row][anchor]
        refuse_label("class numbers of at least 0", f"{got}", self.mining.ignore_index, block.start + sample, anchor)

    def _refuse_nan(self, block: slice, sample: int, rows: Rows) -> None:
        row = slice(rows.offsets[sample], rows.offsets[sample + 1])
        labels = rows.labels[row]
        counts = rules.is_positive(labels, rows.codes) | rules.is_negative(labels, rows.codes)
        names = "conf_loss" if self.logits is None else "logits", "rank_by" if self.ranks is None else "logits"
        for name, values in zip(names, (rows.loss, rows.rank), strict=True):
            anchors = np.flatnonzero(np.isnan(values[row]) & counts[: values[row].size])
            if anchors.size:
                expected = 'no NaN (nan_policy="raise"; "omit" and "propagate" allow it)'
                refuse(name, expected, "NaN", sample=block.start + sample, anchor=int(anchors[0]))


@functools.lru_cache(maxsize=16)
def _dense_offsets(num_samples: int, num_anchors: int) -> NDArray[np.int64]:
    """Return the offsets of a dense batch."""
    return read_only(np.arange(num_samples + 1) * num_anchors)


def check_losses(conf_loss: ArrayLike, labels: ArrayLike, mining: Mining, extras: Extras = NO_EXTRAS) -> Batch:
    """Check everything about losses and labels that does not need their values."""
    loss: Any = conf_loss
    if type(loss) is not np.ndarray or loss.dtype not in (FLOAT32, FLOAT64):
        loss = as_real_array("conf_loss", loss)
    shape = mask_shape = loss.shape
    if extras.sample_offsets is None:
        if loss.ndim < 2:
            refuse("conf_loss", "a (B, A) array, or (N,) with sample_offsets", f"shape {shape}")
        shape = shape[0], math.prod(shape[1:])
        offsets = _dense_offsets(*shape)
    else:
        if loss.ndim != 1:
            refuse("conf_loss", "an (N,) array with sample_offsets", f"shape {loss.shape}")
        offsets = check_offsets("sample_offsets", extras.sample_offsets, loss.size, "of conf_loss")
    y: Any = labels
    if type(y) is not np.ndarray or y.dtype.kind not in "iu" or y.shape != loss.shape:
        y = check_labels(labels, loss.shape, mining)
    if mining.rank_by != "loss":
        if extras.rank_by is not None:
            refuse("rank_by", "an array or a name", f"an array and {mining.rank_by!r}", TypeError)
        expected = '"loss" or an array, for only logits tell the probabilities (mine_logits, multibox_loss)'
        refuse("rank_by", expected, f"{mining.rank_by!r}")
    codes = codes_of(y.dtype, mining.background, mining.ignore_index) if y.ndim == loss.ndim else None
    if loss.ndim > 2:
        loss, y = loss.reshape(shape), y.reshape(shape + y.shape[loss.ndim :])
    batch = Batch(mining, shape, mask_shape, offsets, kernel_dtype(loss.dtype), y, codes, loss)
    if extras is not NO_EXTRAS:
        _add_extras(batch, extras, "conf_loss")
    return batch


def check_logit_batch(
    logits: ArrayLike,
    labels: ArrayLike,
    mining: Mining,
    extras: Extras,
    classification: Classification | None,
    class_axis: int,
) -> Batch:
    """Check logits and labels as a batch to mine. Its losses are computed block by block."""
    if not isinstance(classification, Classification):
        classification = check_classification(classification)
    how: dict[str, Any] = {
        "background": mining.background,
        "ignore_index": mining.ignore_index,
        "all_zero": mining.all_zero,
    }
    if extras.sample_offsets is None:
        checked = check_logits(logits, labels, classification, **how, valid=extras.valid, class_axis=class_axis)
        y, shape, mask_shape = checked.labels, checked.values.shape[:2], checked.mask_shape
        offsets = _dense_offsets(*shape)
    else:
        x, y = as_array("logits", logits), as_array("labels", labels)
        check_ragged(x, y, class_axis)
        shape = mask_shape = x.shape[:1]
        valid = check_valid(extras.valid, shape, "the anchors of logits")
        offsets = check_offsets("sample_offsets", extras.sample_offsets, x.shape[0], "of logits")
        checked = check_logits(x[None], y[None], classification, **how, valid=None if valid is None else valid[None])
        checked, y = replace(checked, offsets=offsets), checked.labels[0]
    is_classes = y.ndim == len(shape)
    if is_classes and checked.background != mining.background:  # with logits, -1 is the last class
        mining = replace(mining, background=checked.background)
    ranks = None
    if mining.rank_by != "loss":
        ranks = _ranks(checked, mining)
        if extras.rank_by is not None:
            refuse("rank_by", "an array or a name", f"an array and {mining.rank_by!r}", TypeError)
    if not is_classes:
        check_labels(y, shape, mining)
    codes = codes_of(y.dtype, mining.background, mining.ignore_index) if is_classes else None
    batch = Batch(mining, shape, mask_shape, offsets, checked.dtype, y, codes, None, logits=checked, ranks=ranks)
    if extras is not NO_EXTRAS:
        _add_extras(batch, extras, "the anchors of logits")
    return batch


def _ranks(logits: Logits, mining: Mining) -> Logits:
    """Return the logits that compute the ranks of this ``rank_by``."""
    if mining.rank_by == "foreground_sum" and not isinstance(logits.classification, Softmax):
        expected = "a mode other than 'foreground_sum', for the probabilities of sigmoids do not add up to 1"
        refuse("rank_by", expected, f"it with {type(logits.classification).__name__}")
    # 1 - p and -log(p) of the background sort alike, so "foreground_sum" and "background" are one kind.
    kind: RankKind = "foreground_max" if mining.rank_by == "foreground_max" else "background"
    return logits.ranks(kind, -1 if logits.background is None else logits.background)


def _add_extras(batch: Batch, extras: Extras, of: str) -> None:
    """Check the optional arrays of a batch. `of` names the argument that has its shape, for the errors."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in ("rank_by", "overlaps", "anchor_weights"):
        value = getattr(extras, name)
        if value is not None:
            array = as_real_array(name, value)
            if array.shape != batch.mask_shape:
                refuse(name, f"the shape of {of} {batch.mask_shape}", f"shape {array.shape}")
            arrays[name] = array.reshape(batch.shape)
    batch.rank_by, batch.overlaps = arrays.get("rank_by"), arrays.get("overlaps")
    batch.weights = arrays.get("anchor_weights")
    for name in arrays.keys() & {"rank_by", "anchor_weights"}:
        batch.dtype = np.promote_types(batch.dtype, kernel_dtype(arrays[name].dtype))
    valid, batch.rng = check_valid(extras.valid, batch.mask_shape, of), extras.rng
    batch.valid = None if valid is None else valid.reshape(batch.shape)
    for name in arrays.keys() & {"overlaps", "anchor_weights"}:
        _check_amounts(name, arrays[name], batch)
    if not isinstance(batch.rng, np.random.Generator):
        check_int("rng", batch.rng, optional=True, lowest=0)
    if extras.num_negatives is not None:
        batch.quotas = check_quotas(extras.num_negatives, batch.offsets.size - 1, batch.mining)
    if batch.valid is not None or batch.overlaps is not None:
        batch.codes = None


def _check_amounts(name: str, array: NDArray[Any], batch: Batch) -> None:
    """Refuse amounts that are negative, infinite or NaN; those of anchors that do not count are not read."""
    if not array.size or (array.min() >= 0 and array.max() < np.inf):
        return
    wrong = ~((array >= 0) & (array < np.inf))  # also true for NaN
    if batch.valid is not None:
        wrong &= batch.valid
    if wrong.any():
        first = int(wrong.argmax())  # in C order, as of `flat`
        sample, anchor = locate(batch.offsets, first)
        refuse(name, "finite numbers of at least 0", f"{array.flat[first]}", sample=sample, anchor=anchor)
