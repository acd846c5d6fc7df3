"""The rules that one pass over a sample cannot obey, composed out of plain passes.

A batch that is mined as one, ties kept or dropped together, the hardest passed over, a pool to draw from: each of
them only decides *which* negatives compete and *how many* of them every sample keeps. `mine` finds that out by mining,
and leaves rows, with explicit quotas and further anchors ignored, that the ordinary pass then mines. So there is one
selection, the kernel's, for every rule and every device.
"""

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ssd_mining.inputs.arrays import read_only
from ssd_mining.kernels.records import (
    IGNORED,
    NEGATIVE,
    NUM_COUNTS,
    NUM_KEPT,
    NUM_NEG,
    NUM_POS,
    NUM_SUMS,
    THRESHOLD,
    Mined,
    Rows,
    Rule,
)
from ssd_mining.kernels.rules import ROLE_CODES, quota, roles_of
from ssd_mining.mining_rule import Mining, Rng

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]


class PlainPass(Protocol):
    """A plain pass on the device of the call."""

    def __call__(self, rows: Rows, rule: Rule, mined: Mined) -> None:
        """Mine rows."""


def mine(rows: Rows, mining: Mining, mined: Mined, plain_pass: PlainPass, rng: Rng | None) -> None:
    """Find out which negatives of the rows compete, and how many of them every sample keeps; then mine them so."""
    rule, samples = mining.rule, rows.offsets
    roles = roles_of(rows.labels, rows.codes)
    rows = units = rows._replace(labels=roles, codes=ROLE_CODES)  # what is ignored in the one is ignored in the other
    if mining.scope in ("batch", "batch_of_sample_quotas"):
        units = rows._replace(offsets=samples[[0, -1]], shortest=rows.loss.size, longest=rows.loss.size)

    def passed(rows: Rows, rule: Rule, quotas: Counts, num_masked: int) -> Mined:
        shape = rows.offsets.size - 1
        masks = np.empty((2, num_masked), np.bool_)
        into = Mined(np.zeros((NUM_COUNTS, shape), np.int64), np.empty((NUM_SUMS, shape)), *masks)
        plain_pass(_asking(rows, quotas), rule, into)
        return into

    def hardest(quotas: Counts) -> Mined:
        return passed(units, rule.unbounded, quotas, rows.loss.size)

    def count() -> Counts:
        return passed(rows, rule, np.zeros(samples.size - 1, np.int64), 0).counts

    counts = count()
    num_neg = counts[NUM_NEG]
    if mining.skip_hardest:
        skipped = hardest(np.full(units.offsets.size - 1, min(mining.skip_hardest, rows.loss.size)))
        roles[skipped.hard_negative_mask] = IGNORED
        counts = count()
    quotas = _quotas(rows, counts, mining)
    if mining.pool_size > 1:
        pool = hardest(np.minimum(quotas * mining.pool_size, rows.loss.size).astype(np.int64))
        kept = _drawn(pool.hard_negative_mask, quotas, units.offsets, np.random.default_rng(rng))
        roles[(roles == NEGATIVE) & ~kept] = IGNORED
    else:
        kept = _with_ties(hardest(quotas), units, mining)
    plain_pass(_asking(rows, _per_sample(kept, samples)), rule.unbounded, mined)
    mined.counts[NUM_NEG] = num_neg  # of all negatives, those that no longer compete among them


def _asking(rows: Rows, quotas: Counts) -> Rows:
    """Return rows with explicit quotas, read-only as every row that a kernel sees."""
    return rows._replace(labels=read_only(rows.labels), offsets=read_only(rows.offsets), quotas=read_only(quotas))


def _quotas(rows: Rows, counts: Counts, mining: Mining) -> Counts:
    """Say how many negatives every unit keeps: the samples, or the one batch."""
    lengths = np.diff(rows.offsets)
    explicit = rows.quotas if rows.quotas.size else np.full(lengths.size, -1)
    num_pos, num_neg, num_anchors = int(counts[NUM_POS].sum()), int(counts[NUM_NEG].sum()), rows.loss.size
    rule = mining.rule_for(rows.longest if mining.scope == "smallest_sample_quota" else num_anchors)
    if mining.scope == "batch":
        per_batch = rule._replace(extra=rule.extra * lengths.size)
        return np.array([quota(num_pos, num_neg, int(explicit[0]), per_batch)])
    samples = np.stack([counts[NUM_POS], counts[NUM_NEG], explicit, lengths], axis=1).tolist()
    if mining.scope == "sample":
        return np.array([quota(p, n, given, mining.rule_for(length)) for p, n, given, length in samples])
    own = np.array([quota(p, n, given, rule.unbounded) for p, n, given, _ in samples])
    has_both = (counts[NUM_POS] > 0) & (counts[NUM_NEG] > 0)  # the other samples have no quota
    num_pos = int(counts[NUM_POS, has_both].sum())
    if mining.scope == "batch_of_sample_quotas":
        return np.array([quota(num_pos, num_neg, int(own.sum()), rule)])
    least = own[has_both].min(initial=num_anchors) if num_pos else 0
    kept: Counts = np.minimum(quota(num_pos, num_anchors, int(least), rule), counts[NUM_NEG])
    return kept


def _drawn(pool: Mask, quotas: Counts, offsets: Counts, rng: np.random.Generator) -> Mask:
    """Draw the quota of every unit from its pool, whose anchors are in order."""
    drawn = np.zeros_like(pool)
    for start, stop, quota_of_unit in zip(offsets[:-1], offsets[1:], quotas, strict=True):
        drawn[start + rng.choice(np.flatnonzero(pool[start:stop]), quota_of_unit, replace=False)] = True
    return drawn


def _with_ties(mined: Mined, units: Rows, mining: Mining) -> Mask:
    """Return the kept negatives, of those at the cut none or all where the spec says so."""
    kept, thresholds = mined.hard_negative_mask, mined.sums[THRESHOLD]
    if mining.tie_policy == "index":
        return kept
    rank = units.rank if units.rank.size else units.loss
    at_cut = np.zeros_like(kept)
    # One unit after the other: to repeat the thresholds for every anchor takes ten times as long.
    for start, stop, cut in zip(units.offsets[:-1], units.offsets[1:], thresholds, strict=True):
        at_cut[start:stop] = rank[start:stop] == cut
    for unit in np.flatnonzero(np.isnan(thresholds) & (mined.counts[NUM_KEPT] > 0)):
        anchors = slice(units.offsets[unit], units.offsets[unit + 1])
        at_cut[anchors] = np.isnan(rank[anchors])
    if mining.tie_policy == "strict":
        return kept & ~at_cut
    competes = units.labels == NEGATIVE
    if mining.nan_policy == "omit":
        competes &= ~(np.isnan(rank) | np.isnan(units.loss))
    return cast("Mask", kept | (competes & at_cut))


def _per_sample(mask: Mask, offsets: Counts) -> Counts:
    """Count the anchors of every sample in a mask."""
    ends = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return np.array([np.count_nonzero(mask[start:stop]) for start, stop in ends], np.int64)
