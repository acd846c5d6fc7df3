"""A checked batch: its blocks, their rows as the kernels take them, and the errors that only those can see."""

import functools
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.inputs.arrays import FLOAT32, FLOAT64, native, read_only
from ssd_mining.inputs.labels import Roles, label_codes
from ssd_mining.kernels.records import NUM_BAD, NUM_NAN, Mined, Rows
from ssd_mining.mining_rule import Mining, Rng

# Rows are handed to a kernel in blocks: converted copies stay small, and Ctrl-C arrives between two blocks.
BLOCK_ELEMENTS = 2_000_000

# The kernels fill shorter rows up to a whole word.
SHORTEST_ROW = 64

_NO_RANKS = {dtype: read_only(np.empty(0, dtype)) for dtype in (FLOAT32, FLOAT64)}
NO_QUOTAS = read_only(np.empty(0, np.int64))


class Losses(Protocol):
    """An array of losses that is computed as it is read."""

    name: str  # of the argument that it is computed from

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, A), or (N,) of a ragged batch."""

    @property
    def ndim(self) -> int:
        """2, or 1 of a ragged batch."""

    @property
    def size(self) -> int:
        """Its number of anchors."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Compute some samples, or some anchors of a ragged batch."""


@dataclass(eq=False, slots=True)
class Batch:
    """Arrays that passed `check`: views of the caller's, in their own dtype and layout.

    The anchors are the first two axes, (B, A), of a dense batch, and the first one, (N,), of a ragged one.
    """

    conf_loss: NDArray[Any] | Losses  # (B, A) or (N,) float or integer
    labels: NDArray[Any]  # (B, A) or (N,) integer or bool, or (B, A, C) or (N, C)
    rank_by: NDArray[Any] | Losses | None  # (B, A) or (N,)
    valid: NDArray[np.bool_] | None  # (B, A) or (N,)
    overlaps: NDArray[Any] | None  # (B, A) or (N,)
    weights: NDArray[Any] | None  # (B, A) or (N,)
    quotas: NDArray[np.int64]  # (B,), or (0,): the rule decides
    offsets: NDArray[np.int64]  # (B + 1,) sample i owns the anchors offsets[i] to offsets[i + 1]
    rng: Rng | None
    dtype: np.dtype[Any]  # float32 or float64: what the kernel computes with
    mining: Mining

    is_dense: bool = field(init=False)  # every sample has the same number of anchors, the second axis
    num_samples: int = field(init=False)

    def __post_init__(self) -> None:
        self.is_dense = self.conf_loss.ndim == 2
        self.num_samples = self.offsets.size - 1

    @property
    def blocks(self) -> list[slice]:
        """Slices of the batch, each of at most `BLOCK_ELEMENTS` losses or scores but for a single sample."""
        num_samples, most = self.num_samples, BLOCK_ELEMENTS
        if num_samples == 1 or (num_samples and self.mining.scope != "sample"):
            return [slice(0, num_samples)]  # a batch that is mined as one is one block
        if self.labels.ndim > self.conf_loss.ndim:
            most //= self.labels.shape[-1]
        if self.is_dense:
            step = max(1, most // max(self.conf_loss.shape[1], SHORTEST_ROW))
            return [slice(i, min(i + step, num_samples)) for i in range(0, num_samples, step)]
        room = np.concatenate([[0], np.cumsum(np.maximum(np.diff(self.offsets), SHORTEST_ROW))])
        blocks, start = [], 0
        while start < num_samples:
            stop = max(start + 1, int(np.searchsorted(room, room[start] + most, "right")) - 1)
            blocks.append(slice(start, stop))
            start = stop
        return blocks

    def anchors(self, block: slice) -> slice:
        """Return which anchors the samples of a block own."""
        return slice(int(self.offsets[block.start]), int(self.offsets[block.stop]))

    def part(self, array: NDArray[Any] | Losses, block: slice) -> NDArray[Any]:
        """Return what an array with the axes of the losses holds of a block, its anchors on one axis, (n, ...)."""
        if not self.is_dense:
            return array[self.anchors(block)]
        part = array[block]
        return part.reshape(-1) if part.ndim == 2 else part.reshape(-1, part.shape[2])

    def rows(self, block: slice) -> Rows:
        """Return the rows of one block as a kernel takes them; a view where dtype and layout allow it."""
        valid = None if self.valid is None else self.part(self.valid, block)
        is_near = None if self.overlaps is None else self.part(self.overlaps, block) >= self.mining.neg_overlap
        offsets, shortest, longest = self._block_offsets(block)
        roles = Roles(self.part(self.labels, block), valid, is_near)
        labels, codes = label_codes(roles, self.mining, lambda anchor: locate(offsets, block.start, anchor))
        loss = native(self.part(self.conf_loss, block), self.dtype)
        if self.weights is not None:
            weights = self.part(self.weights, block)
            # A weight of 0 silences even inf and NaN; beyond its type a product is inf.
            with np.errstate(over="ignore", invalid="ignore"):
                loss = np.multiply(loss, weights, out=np.zeros_like(loss), where=weights != 0, casting="same_kind")
            loss = read_only(loss)
        rank = _NO_RANKS[self.dtype] if self.rank_by is None else native(self.part(self.rank_by, block), self.dtype)
        quotas = self.quotas if self.quotas is NO_QUOTAS else read_only(self.quotas[block])
        return Rows(loss, rank, labels, codes, quotas, offsets, shortest, longest)

    def _block_offsets(self, block: slice) -> tuple[NDArray[np.int64], int, int]:
        """Return the offsets of a block from its own start, and its shortest and longest row."""
        if self.is_dense:
            num_anchors = self.conf_loss.shape[1]
            return dense_offsets(block.stop - block.start, num_anchors), num_anchors, num_anchors
        offsets = self.offsets[block.start : block.stop + 1] - self.offsets[block.start]
        lengths = np.diff(offsets)
        return read_only(offsets), int(lengths.min(initial=SHORTEST_ROW)), int(lengths.max(initial=0))


@functools.lru_cache(maxsize=16)
def dense_offsets(num_samples: int, num_anchors: int) -> NDArray[np.int64]:
    """Return the offsets of a dense batch."""
    return read_only(np.arange(num_samples + 1) * num_anchors)


def in_samples(offsets: NDArray[np.int64], anchors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which anchors of their samples some anchors of a block are."""
    return anchors - offsets[np.searchsorted(offsets, anchors, "right") - 1]


def locate(offsets: NDArray[np.int64], first_sample: int, anchor: int) -> str:
    """Say which anchor of which sample the anchor of a block is; a sample may have none."""
    sample = int(np.searchsorted(offsets, anchor, "right")) - 1
    return f"(sample {first_sample + sample}, anchor {anchor - int(offsets[sample])})"


def raise_bad_values(batch: Batch, block: slice, mined: Mined) -> None:
    """Raise for what the kernel counted in this block: labels out of range, NaN under ``nan_policy="raise"``."""
    if not np.count_nonzero(mined.counts[NUM_NAN : NUM_BAD + 1]):
        return
    if np.count_nonzero(mined.num_bad):
        _refuse_label(batch, block.start + int(np.flatnonzero(mined.num_bad)[0]))
    if batch.mining.nan_policy == "raise" and np.count_nonzero(mined.num_nan):
        _refuse_nan(batch, block.start + int(np.flatnonzero(mined.num_nan)[0]))


def _refuse_label(batch: Batch, sample: int) -> NoReturn:
    alone, ignore_index = slice(sample, sample + 1), batch.mining.ignore_index
    row = batch.part(batch.labels, alone)
    bad = row < 0
    if ignore_index is not None:
        bad &= row != ignore_index
    if batch.valid is not None:
        bad &= batch.part(batch.valid, alone)
    anchor = int(bad.argmax())  # 0 if another thread has changed the label since the kernel counted it
    expected = "class numbers of at least 0"
    if ignore_index is not None:
        expected += f" or ignore_index ({ignore_index})"
    hint = "" if ignore_index is not None else "; name the label of ignored anchors in ignore_index"
    refuse("labels", expected, f"{row[anchor]} at (sample {sample}, anchor {anchor}){hint}")


def _refuse_nan(batch: Batch, sample: int) -> None:
    rows = batch.rows(slice(sample, sample + 1))
    counts = (rows.labels != rows.codes[1]) | (rows.codes[0] == rows.codes[1])
    ranked = getattr(batch.rank_by, "name", "rank_by")
    for name, values in ((getattr(batch.conf_loss, "name", "conf_loss"), rows.loss), (ranked, rows.rank)):
        anchors = np.flatnonzero(np.isnan(values) & counts[: values.size])
        if anchors.size:
            got = f"NaN at (sample {sample}, anchor {anchors[0]})"
            refuse(name, 'no NaN (nan_policy="raise"; "omit" and "propagate" allow it)', got)
