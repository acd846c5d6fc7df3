"""Keep the k largest scores, with columns that describe them."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]


class TopK:
    """The k largest scores, where NaN is the largest. Of equal scores, the lower sample wins, then the lower anchor.

    They are kept as columns of equal length, the worst first: ``score``, ``sample``, ``anchor`` and others that the
    caller names.
    """

    def __init__(self, k: int, dtypes: Mapping[str, Any]) -> None:
        self.k = k
        self.names = frozenset(dtypes)
        self.least = -np.inf  # what is below this is not among the k; if it is NaN, nothing but NaN is
        self._columns: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
        self._waiting: list[Columns] = []  # added since they were sorted, which has a fixed cost
        self._num_waiting = 0

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of the k largest."""
        self._sort()
        return self._columns

    def candidates(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Return which of these scores, (n,), could be among the k. They are in the order of samples and anchors."""
        if self.k == 0 or scores.size == 0:
            return np.empty(0, np.int64)
        # The negated comparison lets NaN pass. If the least of the k is NaN, only NaN passes.
        with np.errstate(over="ignore"):  # a `least` beyond float32 becomes inf, which is as good
            able = np.flatnonzero(np.isnan(scores) if self.least != self.least else ~(scores < self.least))
        if able.size <= self.k:
            return able
        values = scores[able]
        if np.isnan(values).any():
            return np.sort(able[np.lexsort((-values, ~np.isnan(values)))[: self.k]])
        threshold = np.partition(values, -self.k)[-self.k]
        above, ties = able[values > threshold], able[values == threshold]
        return np.sort(np.concatenate([above, ties[: self.k - above.size]]))

    def add(self, columns: Columns) -> None:
        """Add scores, with their columns."""
        self._waiting.append(columns)
        self._num_waiting += columns["score"].size
        if self._num_waiting > self.k:
            self._sort()

    def _sort(self) -> None:
        """Sort in what waits."""
        if not self._waiting:
            return
        joined = {}
        with np.errstate(invalid="ignore"):  # a float32 may be a signalling NaN
            for name, column in self._columns.items():
                more = map(operator.itemgetter(name), self._waiting)
                joined[name] = np.concatenate([column, *more], dtype=column.dtype, casting="unsafe")
        self._waiting, self._num_waiting = [], 0
        score = joined["score"]
        is_number = ~np.isnan(score)
        descending = np.where(is_number, -score, 0.0)
        order = np.lexsort((joined["anchor"], joined["sample"], descending, is_number))[: self.k]
        for name, column in joined.items():
            self._columns[name] = column[order]
        if order.size == self.k > 0:
            self.least = float(self._columns["score"][-1])

    def to_state(self) -> list[list[Any]]:
        """Return the rows, ready for JSON: a float, which may be NaN, is a list of one hexadecimal string."""
        columns = [
            [[value.hex()] for value in column.tolist()] if column.dtype.kind == "f" else column.tolist()
            for column in self.columns.values()
        ]
        return list(map(list, zip(*columns, strict=True)))

    def add_state(self, state: Iterable[Sequence[Any]]) -> None:
        """Add the rows of `to_state`."""
        rows = [[float.fromhex(value[0]) if isinstance(value, list) else value for value in row] for row in state]
        if rows:
            self.add(
                {name: _column(values) for name, values in zip(self.columns, zip(*rows, strict=True), strict=True)}
            )


def _column(values: Sequence[Any]) -> NDArray[Any]:
    column = np.empty(len(values), object)
    column[:] = values
    return column
