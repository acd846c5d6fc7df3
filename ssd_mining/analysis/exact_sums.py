"""Exact counts and sums of float64 values, which do not depend on the order of the values.

Every float64 is a whole number of units of 2**-1126 (the smallest subnormal, 2**-1074, is 2**52 of them). Python's
integers add these units exactly. Only the result is rounded.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STORED_BITS = 52  # of the mantissa of a float64; its first bit is not stored, and 1 unless the exponent is 0
_MAX_EXPONENT = 0x7FF
_LOWEST = 1126
_LOWEST_SHIFT = _LOWEST - 1075  # with an exponent of 0 or 1, the last bit of the mantissa is worth 2**-1074
_HALF = 27  # bits of a half mantissa: 2**26 of them add up without rounding in the float64 of `bincount`
_MOST_VALUES = 1 << 26
_SHIFTS = 1 << 12  # more than any shift: 2098

# So many values are collected before they are summed, because a sum has a fixed cost.
MOST_WAITING = 1 << 16

K = TypeVar("K", bound=Hashable)
_NAN, _INF, _NEGATIVE_INF = "nan", "inf", "-inf"


@dataclass(eq=False)
class Totals:
    """The count and the exact sum of the values of each group. A group is created when its first value comes.

    Examples
    --------
    >>> totals = Totals()
    >>> totals.add([1e300, 1.0, -1e300])
    >>> totals.count_of(), totals.sum_of()
    (3, 1.0)
    """

    counts: dict[int, int] = field(default_factory=dict)
    units: dict[int, int] = field(default_factory=dict)  # the sums of the finite values, in 2**-1126
    special: dict[tuple[int, str], int] = field(default_factory=dict)  # how many of a group are NaN or infinite
    waiting: list[tuple[NDArray[Any], ...]] = field(default_factory=list)  # values, groups, counts: summed together
    num_waiting: int = 0

    def add(self, values: ArrayLike, groups: ArrayLike | int = 0, counts: ArrayLike = 1) -> None:
        """Add values, (n,), to their groups: (n,), or one group for all.

        Each value counts as one, or as its element of `counts`, (n,).
        """
        numbers = np.array(values, np.float64)
        names, each = np.empty((2, numbers.size), np.int64)
        names[...], each[...] = groups, counts
        self.waiting.append((numbers, names, each))
        self.num_waiting += numbers.size
        if self.num_waiting > MOST_WAITING:
            self._sum_up()

    def _sum_up(self) -> None:
        """Sum the collected values."""
        if not self.waiting:
            return
        numbers, names, counts = (np.concatenate(columns) for columns in zip(*self.waiting, strict=True))
        self.waiting.clear()
        self.num_waiting = 0
        present, rows = numbered(names)
        met = np.flatnonzero(np.bincount(rows))
        each = np.bincount(rows, counts).astype(np.int64)  # exact: far below 2**53
        self.add_counts(present[met], each[met])
        finite = np.isfinite(numbers)
        if not finite.all():
            self._add_special(numbers[~finite], names[~finite])
            numbers, rows = numbers[finite], rows[finite]
        for start in range(0, numbers.size, _MOST_VALUES):
            part = slice(start, start + _MOST_VALUES)
            self._add_finite(numbers[part], rows[part], present.tolist())

    def add_counts(self, groups: ArrayLike, counts: ArrayLike) -> None:
        """Add to the counts of some groups, (n,), without values."""
        for group, count in zip(np.asarray(groups).tolist(), np.asarray(counts).tolist(), strict=True):
            self.counts[group] = self.counts.get(group, 0) + count

    def _add_special(self, values: NDArray[np.float64], groups: NDArray[np.int64]) -> None:
        for kind, is_kind in ((_NAN, np.isnan(values)), (_INF, values == np.inf), (_NEGATIVE_INF, values == -np.inf)):
            _add_up(self.special, (((group, kind), 1) for group in groups[is_kind].tolist()))

    def _add_finite(self, values: NDArray[np.float64], rows: NDArray[np.int64], names: list[int]) -> None:
        bits = values.view(np.int64)
        exponents = bits >> _STORED_BITS & _MAX_EXPONENT
        whole = bits & ((1 << _STORED_BITS) - 1) | np.minimum(exponents, 1) << _STORED_BITS
        np.negative(whole, out=whole, where=bits < 0)
        keys, places = numbered(rows * _SHIFTS + np.maximum(exponents, 1) + _LOWEST_SHIFT)
        high = np.bincount(places, whole >> _HALF, keys.size)
        low = np.bincount(places, whole & ((1 << _HALF) - 1), keys.size)
        for i in np.flatnonzero((high != 0) | (low != 0)).tolist():
            row, shift = divmod(int(keys[i]), _SHIFTS)
            _add_up(self.units, [(names[row], ((int(high[i]) << _HALF) + int(low[i])) << shift)])

    def merge(self, other: "Totals") -> None:
        """Add the counts and sums of another to these."""
        self.waiting += other.waiting
        self.num_waiting += other.num_waiting
        if self.num_waiting > MOST_WAITING:
            self._sum_up()
        _add_up(self.counts, other.counts.items())
        _add_up(self.units, other.units.items())
        _add_up(self.special, other.special.items())

    @property
    def groups(self) -> set[int]:
        """The groups that were met."""
        self._sum_up()
        return set(self.counts)

    def count_of(self, group: int = 0) -> int:
        """Return how many values a group has."""
        self._sum_up()
        return self.counts.get(group, 0)

    def counts_of(self, groups: Iterable[int]) -> NDArray[np.int64]:
        """Return how many values each of some groups has, (n,)."""
        return np.array([self.count_of(group) for group in groups], np.int64)

    def sum_of(self, group: int = 0) -> float:
        """Return the sum of a group, correctly rounded; 0 of a group without values; NaN of inf - inf."""
        self._sum_up()
        kinds = [kind for kind in (_NAN, _INF, _NEGATIVE_INF) if (group, kind) in self.special]
        if kinds:
            return float(kinds[0]) if len(kinds) == 1 else float(_NAN)
        total = self.units.get(group, 0)
        try:
            return total / (1 << _LOWEST)  # Python rounds the quotient of whole numbers correctly
        except OverflowError:
            return float(_INF) if total > 0 else float(_NEGATIVE_INF)

    def sums_of(self, groups: Iterable[int]) -> NDArray[np.float64]:
        """Return the sums of some groups, (n,)."""
        return np.array([self.sum_of(group) for group in groups], np.float64)

    def to_state(self) -> dict[str, Any]:
        """Return all that there is to know, as JSON can hold it."""
        self._sum_up()
        return {
            "counts": [[group, count] for group, count in sorted(self.counts.items())],
            "units": [[group, hex(total)] for group, total in sorted(self.units.items())],
            "special": [[group, kind, count] for (group, kind), count in sorted(self.special.items())],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Totals":
        """Return the totals that `to_state` told."""
        totals = cls()
        totals.counts = {int(group): int(count) for group, count in state["counts"]}
        totals.units = {int(group): int(total, 16) for group, total in state["units"]}
        totals.special = {(int(group), str(kind)): int(count) for group, kind, count in state["special"]}
        return totals


def numbered(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return names, (m,), which include all of `groups`, and for each group the place of its name."""
    if not groups.size:
        return groups, groups
    first, span = int(groups.min()), int(np.ptp(groups)) + 1
    if span > max(1024, 4 * groups.size):  # far apart
        return np.unique(groups, return_inverse=True)
    return np.arange(first, first + span), groups - first


def by_sample(
    sample: NDArray[np.int64], group: NDArray[np.int64], losses: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Sum and count losses by sample and group, in float64 and in order. Return sums, groups, counts."""
    names, rows = numbered(group)
    cells, rows = numbered(sample * max(1, names.size) + rows)
    counts = np.bincount(rows, minlength=cells.size)
    present = np.flatnonzero(counts)
    with np.errstate(invalid="ignore"):  # some NaN are signalling
        sums = np.bincount(rows, losses, cells.size)[present].astype(np.float64)
    return sums, names[cells[present] % max(1, names.size)], counts[present].astype(np.int64)


def _add_up(totals: dict[K, int], pairs: Iterable[tuple[K, int]]) -> None:
    for key, number in pairs:
        totals[key] = totals.get(key, 0) + number
