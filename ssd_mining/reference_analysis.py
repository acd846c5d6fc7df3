"""What the kernels of the analysis are judged by: the same functions in plain NumPy (``backend="reference"``)."""

import itertools
from typing import Any

import numpy as np

from ssd_mining import reference


def tally(rows: Any, spans: Any, rule: Any, mined: Any, tallied: Any) -> None:
    """Count the negatives of every span by the upper half of their float32, and find what was selected."""
    negative = rows.labels == rows.codes[0]
    rank = rows.rank if rows.rank.shape[0] else rows.loss
    if rule.omit_nan:
        negative &= ~(np.isnan(rows.loss) | np.isnan(rank))
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = rows.loss[negative].astype(np.float32)
    bins = np.where(np.isnan(numbers), 0x7FC0, numbers.view(np.uint32) >> np.uint32(16))
    np.add.at(tallied.tables[0, :, 0], bins, 1)
    tallied.places[:] = np.flatnonzero(mined.pos_mask | mined.hard_negative_mask)
    for i, (start, stop) in enumerate(itertools.pairwise(spans)):
        tallied.num_neg[i] = negative[start:stop].sum()


def sweep(rows: Any, rule: Any, mined: Any, ratios: Any, swept: Any, num_workers: int = 1) -> None:
    """Mine every sample once for every ratio."""
    for i, ratio in enumerate(ratios.tolist()):
        own = type(mined)(np.zeros_like(mined.counts), np.empty_like(mined.sums), *2 * (np.empty(0, np.bool_),))
        reference.mine(rows, rule._replace(ratio=ratio), own, num_workers)
        swept.num_kept[:, i], swept.sums[:, i], swept.threshold[:, i] = own.num_kept, own.negative_sum, own.threshold
    swept.done[:] = 1
