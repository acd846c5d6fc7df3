"""The base of all results: a short `repr`, and columns for a data frame."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.records import KeptLists


class Kept(NamedTuple):
    """The kept negatives of B samples, by sample, then by anchor."""

    num_kept: NDArray[np.int64]  # (B,)
    anchors: NDArray[np.int64]  # (K,) indices in the samples
    ranks: NDArray[Any]  # (K,)

    def read(self) -> "Kept":
        """Return them."""
        return self

    def hardest_first(self) -> NDArray[np.int64]:
        """Return the anchors of each sample in descending order of rank, NaN first; equal ranks in anchor order."""
        keys, rank_bits = _descending_keys(self.ranks), 8 * self.ranks.itemsize
        samples = np.arange(self.num_kept.size, dtype=np.uint64)
        anchor_bits = int(self.anchors.max(initial=0)).bit_length()
        if samples.size.bit_length() + rank_bits + anchor_bits > 64:
            return self.anchors[np.lexsort((keys, np.repeat(samples, self.num_kept)))]  # stable
        # Sample, rank and anchor in one number: sorting it takes a tenth of the time.
        packed = np.repeat(samples << np.uint64(rank_bits + anchor_bits), self.num_kept)
        packed |= keys.astype(np.uint64) << np.uint64(anchor_bits)
        packed |= self.anchors.view(np.uint64)
        packed.sort()
        packed &= np.uint64((1 << anchor_bits) - 1)
        return packed.view(np.int64)


class Listed(NamedTuple):
    """The kept negatives as kernels listed them: `Kept.num_kept` and the lists of each block."""

    blocks: list[tuple[NDArray[np.int64], KeptLists]]

    def read(self) -> Kept:
        """Return them, sample after sample."""
        if len(self.blocks) == 1:
            return _in_order(*self.blocks[0])
        none = Kept(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        return Kept(*map(np.concatenate, zip(none, *(_in_order(*block) for block in self.blocks), strict=True)))


def _in_order(num_kept: NDArray[np.int64], lists: KeptLists) -> Kept:
    total, first, anchors, ranks = lists
    if (first[1:] < first[:-1]).any():  # several threads took turns
        places = np.repeat(first - np.cumsum(num_kept) + num_kept, num_kept) + np.arange(total[0])
        anchors, ranks = anchors[places], ranks[places]
    return Kept(num_kept, anchors, ranks)


def _descending_keys(ranks: NDArray[Any]) -> NDArray[Any]:
    """Return unsigned integers that sort as ranks do in descending order, NaN first; equal ranks have equal keys."""
    keys: NDArray[Any] = (-ranks).view(f"i{ranks.itemsize}")
    keys[ranks == 0] = 0  # also -0.0
    keys[np.isnan(ranks)] = -1  # the bits of a negative NaN, before all others
    last_bit = 8 * ranks.itemsize - 1
    keys ^= keys >> last_bit | -1 << last_bit
    return keys.view(f"u{ranks.itemsize}")


class KeptNegatives(Protocol):
    """The kept negatives. Those on a GPU are read only when `read` is called."""

    def read(self) -> Kept:
        """Return them, on the host."""


FEW = 6  # up to this many elements are shown


class Result:
    """Base of the frozen dataclasses that the functions return."""

    columns: ClassVar[tuple[str, ...]] = ()  # of equal length

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """Return the columns of equal length by name, ready for a data frame. One number, as `loss`, is no column."""
        return {name: getattr(self, name) for name in self.columns}

    def __repr__(self) -> str:
        """Show the shape and the sum of every array, and its elements if they are few."""
        shown = [f"{each.name}={_look(getattr(self, each.name))}" for each in fields(self) if each.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


class SampleLosses(Result):
    """Base of the results that have the confidence loss of every sample."""

    confidence_loss: NDArray[np.float64]

    @property
    def per_sample(self) -> NDArray[np.float64]:
        """The same array as `confidence_loss`."""
        return self.confidence_loss


def _look(value: Any) -> str:
    if isinstance(value, np.ndarray):
        kind = f"{value.dtype} {value.shape}"
        if value.dtype == np.bool_:
            return f"{kind} {np.count_nonzero(value)} true"
        if value.dtype.kind in "iuf" and 0 < value.size <= FEW:
            return f"{kind} {np.array2string(value, precision=6, separator=', ')}".replace("\n", "")
        if value.dtype.kind in "iuf" and value.size:
            with np.errstate(invalid="ignore", over="ignore"):
                return f"{kind} sum {value.sum():.6g}"
        return kind
    if isinstance(value, Result):
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return f"<{', '.join(map(str, value))}>"
    if hasattr(value, "shape") and hasattr(value, "dtype"):  # on a GPU: a sum would have to wait for it
        return f"{value.dtype} {tuple(value.shape)}"
    return repr(value)
