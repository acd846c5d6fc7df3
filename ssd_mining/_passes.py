"""The passes of an analysis over a block that was mined: how its losses are distributed, what other ratios keep."""

import dataclasses
import functools
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ssd_mining import _backends
from ssd_mining._arrays import read_only
from ssd_mining._backends import Backend
from ssd_mining._histogram import BINS
from ssd_mining._spec import Mined, Mining, Rows, Rule
from ssd_mining._tally import Swept, Tally

TABLES = 2  # of each worker: cpu_analysis takes turns

_OF_RATIOS = ("num_kept", "sums", "threshold")

Counts = NDArray[np.int64]


class AnalysisTwin(Protocol):
    """What every backend module of the analysis offers."""

    def tally(self, rows: Rows, spans: Counts, rule: Rule, mined: Mined, tallied: Tally) -> None:
        """Count the negatives of every span, and find what was selected."""

    def sweep(
        self, rows: Rows, rule: Rule, mined: Mined, ratios: NDArray[np.float64], swept: Swept, num_workers: int
    ) -> None:
        """Say what every sample keeps under each ratio."""


def _twin(backend: Backend | None) -> AnalysisTwin:
    return cast("AnalysisTwin", _backends.load_analysis(backend))


def empty_tables(num_anchors: int, backend: Backend | None, num_threads: int | None) -> Counts:
    """Return tables for as many threads as may work on a block with so many anchors."""
    workers = _backends.workers_for(num_anchors, _backends.PARALLEL_ANCHORS, backend, num_threads)
    return np.zeros((workers, BINS, TABLES), np.int64)


def tally_rows(
    rows: Rows, spans: Counts, mining: Mining, mined: Mined, tables: Counts, backend: Backend | None
) -> Tally:
    """Tally rows that were mined with masks; their negatives are added to `tables`."""
    num_selected = int(mined.num_pos.sum() + mined.num_kept.sum())
    tallied = Tally(tables, np.full(spans.size - 1, -1), np.zeros(num_selected, np.int64))
    _twin(backend).tally(rows, spans, mining.rule, mined, tallied)
    _check_done(tallied.num_neg >= 0)
    return tallied


@functools.lru_cache(maxsize=16)
def level_spans(levels: tuple[int, ...], num_samples: int) -> Counts:
    """Return where the feature maps of every sample begin, and the end of the last, (num_samples * L + 1,)."""
    starts = np.concatenate([[0], np.cumsum(levels)])
    own = np.arange(num_samples)[:, None] * starts[-1] + starts[:-1]
    return read_only(np.append(own.reshape(-1), num_samples * starts[-1]))


def sweep_rows(
    rows: Rows,
    mining: Mining,
    mined: Mined,
    ratios: tuple[float, ...],
    backend: Backend | None,
    num_threads: int | None,
) -> Swept:
    """Say what rows that were mined keep under each of some ratios."""
    shape = mined.num_pos.size, len(ratios)
    swept = Swept(np.zeros(shape, np.int64), np.empty(shape), np.empty(shape), np.zeros(shape[0], np.int64))
    if mining.is_plain and not rows.rank.size and not rows.quotas.size:
        workers = _backends.workers_for(rows.loss.size, _backends.PARALLEL_ANCHORS, backend, num_threads)
        falling = np.argsort(-np.array(ratios, np.float64), kind="stable")
        in_order = swept._replace(**{name: np.empty_like(getattr(swept, name)) for name in _OF_RATIOS})
        given = read_only(np.array(ratios, np.float64)[falling])
        _twin(backend).sweep(rows, mining.rule, mined, given, in_order, workers)
        _check_done(swept.done != 0)
        for name in _OF_RATIOS:
            getattr(swept, name)[:, falling] = getattr(in_order, name)
    for i, ratio in enumerate(ratios):
        if ratio == mining.neg_pos_ratio:  # the same bits as elsewhere
            _copy(mined, swept, i)
        elif not swept.done.all():  # no one selection holds those of all ratios
            part, other = _backends.empty_mined(shape[0], 0), dataclasses.replace(mining, neg_pos_ratio=ratio)
            _backends.mine_rows(rows, other, part, None, backend=backend, num_threads=num_threads)
            _copy(part, swept, i)
    return swept


def _copy(mined: Mined, swept: Swept, ratio: int) -> None:
    swept.num_kept[:, ratio], swept.sums[:, ratio] = mined.num_kept, mined.negative_sum
    swept.threshold[:, ratio] = mined.threshold


def _check_done(done: NDArray[Any]) -> None:
    if not done.all():
        msg = f"part {int(np.argmin(done))} was not analysed: a worker thread was lost"
        raise RuntimeError(msg)
