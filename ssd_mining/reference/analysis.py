"""What the kernel of the analysis is judged by: the same function in plain NumPy (``backend="reference"``)."""

import itertools
from typing import Any

import numpy as np

from ssd_mining import reference
from ssd_mining.kernels.tally import EVEN, KEPT, POSITIVES


def analyse(rows: Any, rule: Any, given: Any, mined: Any, tally: Any, num_workers: int = 1) -> None:
    """Mine every sample once for every ratio; count losses by the upper half of their float32."""
    starts, ratios = given
    masks = np.empty((2, rows.loss.size), np.bool_)
    reference.mine(rows, rule, type(mined)(mined.counts, mined.sums, *masks), num_workers)
    for i, ratio in enumerate(ratios.tolist()):
        own = type(mined)(np.zeros_like(mined.counts), np.empty_like(mined.sums), *2 * (np.empty(0, np.bool_),))
        reference.mine(rows, rule._replace(ratio=ratio), own, num_workers)
        tally.num_kept[:, i], tally.sums[:, i], tally.threshold[:, i] = own.num_kept, own.negative_sum, own.threshold
    negative = rows.labels == rows.codes[0]
    if rule.omit_nan:
        negative &= ~(np.isnan(rows.loss) | np.isnan(rows.rank if rows.rank.size else rows.loss))
    for table, chosen in ((EVEN, negative), (POSITIVES, masks[0]), (KEPT, masks[1])):
        np.add.at(tally.tables[0, table], _bins(rows.loss[chosen]), 1)
    anchors = np.arange(rows.loss.size) - np.repeat(rows.offsets[:-1], np.diff(rows.offsets))
    for role, mask in enumerate(masks):
        count = np.count_nonzero(mask)
        tally.anchors[role, :count], tally.losses[role, :count] = anchors[mask], rows.loss[mask]
        tally.places[0, role, 1] = count
    for level, (start, stop) in enumerate(itertools.pairwise(starts)):
        tally.levels[0, level] += np.count_nonzero(negative & (start <= anchors) & (anchors < stop))


def _bins(losses: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = losses.astype(np.float32)
    return np.where(np.isnan(numbers), 0x7FC0, numbers.view(np.uint32) >> np.uint32(16))
