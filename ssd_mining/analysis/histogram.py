"""The distribution of losses: counts by the upper 16 bits of their float32. Such counts can be added.

These bits are the sign, the exponent and 7 bits of the mantissa: 128 bins for every factor of two, in which no value is
more than 0.4 % from the middle. This holds for all normal numbers of either sign. Zero (with numbers below 1e-40),
infinity and NaN have their own bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import check_number
from ssd_mining.engine.result import Result
from ssd_mining.kernels.records import NAN_BIN

INF_BIN = 0x7F80
_SIGN = 0x8000

# All bins in ascending order of their values. For negative numbers, larger bits are lower values.
_ORDER = np.concatenate([np.arange(_SIGN | INF_BIN, _SIGN - 1, -1), np.arange(INF_BIN + 1)])

PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
PER_OCTAVE = 4


def _edge(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number with the smallest magnitude in each bin."""
    return (bins.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _middle(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number that stands for each bin: its middle; 0 or inf for the bins of these."""
    half = np.where(np.isin(bins & ~_SIGN, (0, INF_BIN)), 0, 0x8000)
    bits = (bins.astype(np.uint32) << np.uint32(16)) | half.astype(np.uint32)
    middle = bits.view(np.float32).astype(np.float64)
    return np.where(middle == 0, 0.0, middle)


@dataclass(frozen=True, eq=False, repr=False)
class LossHistogram(Result):
    """The distribution of a set of losses.

    Attributes
    ----------
    count : int
        Number of losses, including NaN.
    num_nan, num_negative, num_zero, num_inf : int
        How many are NaN, below zero, zero (or below 1e-40), and infinite (of either sign).
    least, largest : float
        The smallest and the largest loss, exactly; NaN where all are NaN.
    values : ndarray of float64, (n,)
        One value for every bin that is not empty, ascending. Every loss of the bin is within 0.4 % of it.
    counts : ndarray of int64, (n,)
        How many losses each value stands for. NaN is not counted here.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> analysis = sm.LossAnalysis(background=0)
    >>> _ = analysis.update([[9.0, 0.1, 0.3, 0.2, 0.4]], [[1, 0, 0, 0, 0]])
    >>> negatives = analysis.result().distributions["negatives"]
    >>> negatives.count, round(negatives.quantile(0.5), 2)
    (4, 0.2)
    """

    count: int
    num_nan: int
    num_negative: int
    num_zero: int
    num_inf: int
    least: float
    largest: float
    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, counts: NDArray[np.int64], least: float, largest: float) -> LossHistogram:
        """Describe counts by bin, (65536,), of losses from `least` to `largest`; NaN if there are none."""
        ordered = counts[_ORDER]
        present = np.flatnonzero(ordered)
        bins = _ORDER[present]
        values, number = _middle(bins), ordered[present]
        return cls(
            count=int(number.sum() + counts[NAN_BIN]),
            num_nan=int(counts[NAN_BIN]),
            num_negative=int(number[values < 0].sum()),
            num_zero=int(number[values == 0].sum()),
            num_inf=int(number[np.isinf(values)].sum()),
            least=least,
            largest=largest,
            values=values,
            counts=number,
        )

    def quantile(self, probability: float) -> float:
        """Return the smallest loss that this share of the losses does not exceed, within 0.4 %.

        It is not below `least`, nor above `largest`. NaN among the losses is ignored. Without losses, it is NaN.
        """
        return self._quantiles((check_number("probability", probability, highest=1, words="from 0 to 1"),))[0]

    def _quantiles(self, probabilities: tuple[float, ...]) -> list[float]:
        reached = np.cumsum(self.counts)
        if not reached.size:
            return [float("nan")] * len(probabilities)
        # A share is the decimal that it prints as: 0.07 of 100 losses are 7, though the product of floats is above 7.
        ranks = [max(1, math.ceil(Fraction(str(share)) * int(reached[-1]))) for share in probabilities]
        middles = self.values[np.minimum(np.searchsorted(reached, ranks), reached.size - 1)]
        # The middle of the last bin may lie beyond all losses. Infinite: what float32 cannot hold, or infinity itself.
        quantiles: list[float] = np.where(np.isinf(middles), middles, middles.clip(self.least, self.largest)).tolist()
        return quantiles

    def log_bins(self, per_octave: int = PER_OCTAVE) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return a coarser histogram of the finite losses above zero, for a logarithmic axis.

        Parameters
        ----------
        per_octave : {1, 2, 4, 8, 16, 32, 64, 128}
            Bins for every factor of two.

        Returns
        -------
        edges : ndarray of float64, (m + 1,)
            Ascending, from the first bin that is not empty to the last; (0,) if all are empty.
        counts : ndarray of int64, (m,)
            How many losses lie from each edge, inclusive, to the next.

        Raises
        ------
        ValueError
            If `per_octave` is another number.
        """
        if per_octave not in (1, 2, 4, 8, 16, 32, 64, 128):
            msg = f"per_octave: expected a power of two from 1 to 128, got {per_octave!r}"
            raise ValueError(msg)
        chosen = (self.values > 0) & (self.values < np.inf)
        if not chosen.any():
            return np.empty(0), np.empty(0, np.int64)
        step = 128 // int(per_octave)
        bins = (self.values[chosen].astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.int64) // step
        counts = np.bincount(bins - bins[0], self.counts[chosen]).astype(np.int64)
        return _edge(np.arange(bins[0], bins[-1] + 2) * step), counts

    def to_dict(self) -> dict[str, Any]:
        """Return counts, extremes, quantiles and a histogram for a logarithmic axis, ready for JSON."""
        edges, counts = self.log_bins()
        return {
            "count": self.count,
            "num_nan": self.num_nan,
            "num_negative": self.num_negative,
            "num_zero": self.num_zero,
            "num_inf": self.num_inf,
            "least": self.least,
            "largest": self.largest,
            "quantiles": dict(zip(map(str, PROBABILITIES), self._quantiles(PROBABILITIES), strict=True)),
            "log_bins": {"edges": edges.tolist(), "counts": counts.tolist()},
        }
