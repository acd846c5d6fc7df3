"""Compose plain passes for the rules that one pass over a sample cannot follow.

Such a rule mines the batch as a whole, treats ties alike, skips the hardest negatives, or draws from a pool. Each of
them only decides *which* negatives compete and *how many* every sample keeps. `mine_in_passes` finds both out with
plain passes. Then it ignores the other negatives, sets explicit quotas, and mines once more. So one selection, the
kernel's, serves every rule and every device.
"""

from typing import Protocol, cast

import numpy as np

from ssd_mining.inputs.arrays import read_only
from ssd_mining.kernels import records
from ssd_mining.kernels.records import Counts, Mask, Mined, Rows, Rule
from ssd_mining.kernels.rules import ROLE_CODES, quota_of, roles_of, whole_number
from ssd_mining.mining_rule import Mining, Rng


class PlainPass(Protocol):
    """The twin's `mine`, with the number of workers filled in."""

    def __call__(self, rows: Rows, rule: Rule, mined: Mined) -> None:
        """Mine rows."""


def mine_in_passes(rows: Rows, mining: Mining, mined: Mined, plain_pass: PlainPass, rng: Rng | None) -> None:
    """Find out which negatives compete and how many every sample keeps, then mine those.

    A unit is what a quota is for: a sample, or the whole batch.
    """
    rule, samples = mining.rule, rows.offsets
    roles = roles_of(rows.labels, rows.codes)
    rows = units = rows._replace(labels=roles, codes=ROLE_CODES)  # both share `roles`
    if mining.scope in ("batch", "batch_of_sample_quotas"):
        units = rows._replace(offsets=samples[[0, -1]], shortest=rows.loss.size, longest=rows.loss.size)

    def passed(rows: Rows, rule: Rule, quotas: Counts, num_masked: int) -> Mined:
        shape = rows.offsets.size - 1
        masks = np.empty((2, num_masked), np.bool_)
        into = Mined(np.zeros((records.NUM_COUNTS, shape), np.int64), np.empty((records.NUM_SUMS, shape)), *masks)
        plain_pass(_asking(rows, quotas), rule, into)
        return into

    def hardest(quotas: Counts) -> Mined:
        return passed(units, rule.unbounded, quotas, rows.loss.size)

    def count() -> Counts:
        return passed(rows, rule, np.zeros(samples.size - 1, np.int64), 0).counts

    counts = count()
    num_neg = counts[records.NUM_NEG]
    if mining.skip_hardest:
        skipped = hardest(np.full(units.offsets.size - 1, min(mining.skip_hardest, rows.loss.size)))
        roles[skipped.hard_negative_mask] = records.IGNORED
        counts = count()
    quotas = _quotas(rows, counts, mining)
    if mining.pool_size > 1:
        sizes = [whole_number(mining.pool_size, own, round_up=False) for own in quotas.tolist()]
        pool = hardest(np.minimum(sizes, rows.loss.size).astype(np.int64))
        kept = _drawn(pool.hard_negative_mask, quotas, units.offsets, np.random.default_rng(rng))
        roles[(roles == records.NEGATIVE) & ~kept] = records.IGNORED
    else:
        kept = _with_ties(hardest(quotas), units, mining)
    plain_pass(_asking(rows, _per_sample(kept, samples)), rule.unbounded, mined)
    mined.counts[records.NUM_NEG] = num_neg  # all negatives, also those that no longer compete


def _asking(rows: Rows, quotas: Counts) -> Rows:
    """Return the rows with explicit quotas, read-only like every row that a kernel gets."""
    return rows._replace(labels=read_only(rows.labels), offsets=read_only(rows.offsets), quotas=read_only(quotas))


def _quotas(rows: Rows, counts: Counts, mining: Mining) -> Counts:
    """Return how many negatives every unit keeps."""
    lengths = np.diff(rows.offsets)
    explicit = rows.quotas if rows.quotas.size else np.full(lengths.size, -1)
    num_pos, num_neg = counts[[records.NUM_POS, records.NUM_NEG]].sum(axis=1).tolist()
    num_anchors = rows.loss.size
    rule = mining.rule_for(rows.longest if mining.scope == "smallest_sample_quota" else num_anchors)
    if mining.scope == "batch":
        per_batch = rule._replace(extra=rule.extra * lengths.size)
        return np.array([quota_of(num_pos, num_neg, int(explicit[0]), per_batch)])
    samples = np.stack([counts[records.NUM_POS], counts[records.NUM_NEG], explicit, lengths], axis=1).tolist()
    if mining.scope == "sample":
        return np.array([quota_of(p, n, given, mining.rule_for(length)) for p, n, given, length in samples])
    own = np.array([quota_of(p, n, given, rule.unbounded) for p, n, given, _ in samples])
    has_both = (counts[records.NUM_POS] > 0) & (counts[records.NUM_NEG] > 0)  # the other samples have no quota
    num_pos = int(counts[records.NUM_POS, has_both].sum())
    if mining.scope == "batch_of_sample_quotas":
        return np.array([quota_of(num_pos, num_neg, int(own.sum()), rule)])
    least = own[has_both].min(initial=num_anchors) if num_pos else 0
    kept: Counts = np.minimum(quota_of(num_pos, num_anchors, int(least), rule), counts[records.NUM_NEG])
    return kept


def _drawn(pool: Mask, quotas: Counts, offsets: Counts, rng: np.random.Generator) -> Mask:
    """Draw the quota of every unit from its pool, whose anchors are in order."""
    drawn = np.zeros_like(pool)
    for start, stop, quota_of_unit in zip(offsets[:-1], offsets[1:], quotas, strict=True):
        drawn[start + rng.choice(np.flatnonzero(pool[start:stop]), quota_of_unit, replace=False)] = True
    return drawn


def _with_ties(mined: Mined, units: Rows, mining: Mining) -> Mask:
    """Return the kept negatives: without ties at the threshold, with all of them, or as they are, by `tie_policy`."""
    kept, thresholds = mined.hard_negative_mask, mined.sums[records.THRESHOLD]
    if mining.tie_policy == "index":
        return kept
    rank = units.rank if units.rank.size else units.loss
    at_threshold = np.zeros_like(kept)
    # A loop over units: repeating the thresholds for every anchor takes ten times as long.
    for start, stop, threshold in zip(units.offsets[:-1], units.offsets[1:], thresholds, strict=True):
        at_threshold[start:stop] = rank[start:stop] == threshold
    for unit in np.flatnonzero(np.isnan(thresholds) & (mined.counts[records.NUM_KEPT] > 0)):
        anchors = slice(units.offsets[unit], units.offsets[unit + 1])
        at_threshold[anchors] = np.isnan(rank[anchors])
    if mining.tie_policy == "strict":
        return kept & ~at_threshold
    competes = units.labels == records.NEGATIVE
    if mining.nan_policy == "omit":
        competes &= ~(np.isnan(rank) | np.isnan(units.loss))
    return cast("Mask", kept | (competes & at_threshold))


def _per_sample(mask: Mask, offsets: Counts) -> Counts:
    """Count the True anchors of every sample."""
    ends = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return np.array([np.count_nonzero(mask[start:stop]) for start, stop in ends], np.int64)
