"""The base of all results: a short `repr`, and columns for a data frame."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Kept(NamedTuple):
    """The kept negatives of B samples, by sample, then by anchor."""

    num_kept: NDArray[np.int64]  # (B,)
    anchors: NDArray[np.int64]  # (K,) indices in the samples
    ranks: NDArray[Any]  # (K,)

    def read(self) -> "Kept":
        """Return them."""
        return self


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
        """`confidence_loss`, in the word of one who has a batch before him."""
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
