"""The k largest losses of any number, and what is known of each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]


class TopK:
    """The k largest losses, NaN above all; of equal ones, those of the lower samples, then of the lower anchors.

    What is known of each is kept in columns of equal length, the worst first: ``loss``, ``sample``, ``anchor`` and
    whatever else the caller names.
    """

    def __init__(self, k: int, dtypes: Mapping[str, Any]) -> None:
        self.k = k
        self.columns: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}

    def candidates(self, losses: NDArray[Any]) -> NDArray[np.int64]:
        """Return which of some losses (n,), in the order of their samples and anchors, could be among the k."""
        if self.k == 0 or losses.size == 0:
            return np.empty(0, np.int64)
        known = self.columns["loss"]
        least = known[-1] if known.size == self.k else -np.inf
        # Negated comparisons: NaN passes, and a NaN among the k lets nothing else pass.
        with np.errstate(over="ignore"):  # what float32 cannot hold is inf to it, and that is as good
            able = np.flatnonzero(np.isnan(losses) if least != least else ~(losses < least))
        if able.size <= self.k:
            return able
        values = losses[able]
        if np.isnan(values).any():
            return able[np.lexsort((-values, ~np.isnan(values)))[: self.k]]
        cut = np.partition(values, -self.k)[-self.k]
        above, ties = able[values > cut], able[values == cut]
        return np.sort(np.concatenate([above, ties[: self.k - above.size]]))

    def add(self, columns: Columns) -> None:
        """Add what is known of further losses."""
        joined = {
            name: np.concatenate([column, np.asarray(columns[name], column.dtype)])
            for name, column in self.columns.items()
        }
        loss = joined["loss"]
        is_number = ~np.isnan(loss)
        falling = np.where(is_number, -loss, 0.0)
        order = np.lexsort((joined["anchor"], joined["sample"], falling, is_number))[: self.k]
        self.columns = {name: column[order] for name, column in joined.items()}

    def to_state(self) -> list[list[Any]]:
        """Return the rows as JSON can hold them: floats, which may be NaN, as hexadecimal strings in a list."""
        columns = [
            [[value.hex()] for value in column.tolist()] if column.dtype.kind == "f" else column.tolist()
            for column in self.columns.values()
        ]
        return list(map(list, zip(*columns, strict=True)))

    def add_state(self, state: Iterable[Sequence[Any]]) -> None:
        """Add the rows that `to_state` told."""
        rows = [[float.fromhex(value[0]) if isinstance(value, list) else value for value in row] for row in state]
        if rows:
            self.add(
                {name: _column(values) for name, values in zip(self.columns, zip(*rows, strict=True), strict=True)}
            )


def _column(values: Sequence[Any]) -> NDArray[Any]:
    column = np.empty(len(values), object)
    column[:] = values
    return column
