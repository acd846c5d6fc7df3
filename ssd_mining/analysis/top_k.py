"""The k largest losses of any number, and what is known of each: `Worst`; which samples were seen: `Stretches`."""

import bisect
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Worst:
    """The k largest losses, NaN above all; of equal ones, those of the lower samples, then of the lower anchors."""

    def __init__(self, most: int, floor: float = -np.inf) -> None:
        self.most = most
        self.floor = floor  # what is below it is known not to be among the k
        self.records: list[tuple[Any, ...]] = []  # (loss, sample, anchor, ...), the worst first

    @property
    def least(self) -> float:
        """What a loss must reach to be among the k; NaN if it must be NaN."""
        return float(self.records[-1][0]) if self.most and len(self.records) == self.most else self.floor

    def candidates(self, losses: NDArray[Any]) -> NDArray[np.int64]:
        """Return which of some losses (n,), in the order of their samples and anchors, could be among the k."""
        if self.most == 0 or losses.size == 0:
            return np.empty(0, np.int64)
        least = self.least
        # Negated comparisons: NaN passes, and a NaN among the k lets nothing else pass.
        with np.errstate(over="ignore"):  # what float32 cannot hold is inf to it, and that is as good
            able = np.flatnonzero(np.isnan(losses) if least != least else ~(losses < least))
        if able.size <= self.most:
            return able
        values = losses[able]
        if np.isnan(values).any():
            return able[np.lexsort((-values, ~np.isnan(values)))[: self.most]]
        cut = np.partition(values, -self.most)[-self.most]
        above, ties = able[values > cut], able[values == cut]
        return np.sort(np.concatenate([above, ties[: self.most - above.size]]))

    def add(self, records: Iterable[Sequence[Any]]) -> None:
        """Add records (loss, sample, anchor, ...) of Python numbers."""
        self.records = heapq.nsmallest(self.most, [*self.records, *map(tuple, records)], key=_order)

    def to_state(self) -> list[list[Any]]:
        """Return the records as JSON can hold them: floats, which may be NaN, as hexadecimal strings in a list."""
        return [[[v.hex()] if isinstance(v, float) else v for v in record] for record in self.records]

    def add_state(self, state: Iterable[Sequence[Any]]) -> None:
        """Add the records that `to_state` told."""
        self.add([float.fromhex(v[0]) if isinstance(v, list) else v for v in record] for record in state)


def _order(record: tuple[Any, ...]) -> tuple[bool, float, int, int]:
    loss = record[0]
    is_number = loss == loss
    return is_number, -loss if is_number else 0.0, record[1], record[2]


class Stretches:
    """Which whole numbers were seen, as the stretches [start, stop) that hold them: apart, and in order."""

    def __init__(self, pairs: Iterable[Sequence[int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in pairs:
            self.add(start, stop)

    def __iter__(self) -> Any:
        return iter(zip(self._starts, self._stops, strict=True))

    @property
    def stop(self) -> int:
        """The number after the last that was seen."""
        return self._stops[-1] if self._stops else 0

    def first_of(self, start: int, stop: int) -> int | None:
        """Return the lowest number of a stretch that was seen before; None where all of it is new."""
        if start == stop:
            return None
        i = bisect.bisect_right(self._stops, start)
        if i < len(self._starts) and self._starts[i] < stop:
            return max(start, self._starts[i])
        return None

    def add(self, start: int, stop: int) -> None:
        """Add a stretch that is new."""
        if start == stop:
            return
        i = bisect.bisect_left(self._stops, start)  # the first stretch that this one touches or precedes
        j = bisect.bisect_right(self._starts, stop)
        if i < j:
            start, stop = min(start, self._starts[i]), max(stop, self._stops[j - 1])
        self._starts[i:j], self._stops[i:j] = [start], [stop]
