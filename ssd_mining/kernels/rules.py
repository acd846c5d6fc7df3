"""The rules of the selection, written once: plain scalar Python that both twins compile.

A rule calls no other rule, because each twin compiles them one at a time.
"""

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.records import (
    BACKGROUND,
    BAD,
    HIGHEST,
    IGNORED,
    IGNORED_LABEL,
    NEGATIVE,
    POSITIVE,
    Mined,
    Rows,
    Rule,
    Scalar,
)

# More anchors than any sample has, and finite: infinity has no whole part.
MOST = 2.0**64

# What a product may miss a whole number by: 16 units in its last place (docs/semantics.md#whole-numbers).
MISS = 2.0**-48


# --- the role of an anchor, and how many negatives are kept


def is_negative(label: Scalar, codes: Scalar) -> Scalar:
    """Say whether this is the label of a negative."""
    return label == codes[BACKGROUND]


def is_positive(label: Scalar, codes: Scalar) -> Scalar:
    """Say whether this is the label of a positive. A bad label counts as one."""
    return (label != codes[BACKGROUND]) & (label != codes[IGNORED_LABEL])


def is_bad(label: Scalar, codes: Scalar) -> Scalar:
    """Say whether the label of a positive is out of range."""
    return label > codes[HIGHEST]


def whole_number(factor: float, count: int, round_up: bool) -> float:
    """Return ``factor * count`` rounded down, or up. A product that all but is a whole number is that number."""
    # In float64 the product saturates; in integers it would wrap around to a wrong count.
    product = min(factor * count, MOST)
    rest = product % 1.0  # math.floor and math.ceil do not compile for every device
    below, miss = product - rest, product * MISS
    if rest <= miss:
        return below
    return below + 1.0 if round_up or 1.0 - rest <= miss else below


def quota(by_ratio: float, num_pos: int, num_neg: int, explicit: int, rule: Rule) -> int:
    """Return how many of `num_neg` negatives are kept. An `explicit` of at least 0 replaces ratio times positives.

    `by_ratio` is the `whole_number` of the ratio and the positives.
    """
    wanted = by_ratio + rule.extra if explicit < 0 else float(explicit)
    if rule.min_always or num_pos == 0:
        wanted = max(wanted, float(rule.min_negatives))
    wanted = min(wanted, float(rule.max_negatives))
    return num_neg if wanted >= num_neg else int(wanted)


def quota_of(num_pos: int, num_neg: int, explicit: int, rule: Rule) -> int:
    """Return the `quota`, on the host."""
    return quota(whole_number(rule.ratio, num_pos, rule.round_up), num_pos, num_neg, explicit, rule)


# --- keys: unsigned integers in the order of floats


def order_key(image: Scalar, sign: Scalar, ones: Scalar) -> Scalar:
    """Return the unsigned integer that sorts as a float does: `image` are its bits, `sign` is the highest bit."""
    return image ^ ones if image & sign else image | sign


def image_of_key(key: Scalar, sign: Scalar, ones: Scalar) -> Scalar:
    """Return the bits of the float with this key."""
    return key ^ (sign if key & sign else ones)


# --- roles as labels, which the host writes where plain labels do not say enough

ROLE_CODES = np.array([NEGATIVE, IGNORED, np.iinfo(np.int8).max], np.uint8)
ROLE_CODES.flags.writeable = False


def roles_of(labels: NDArray[np.unsignedinteger], codes: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """Return the role of every label, (n,), in a fresh array of bytes."""
    positive = is_positive(labels, codes)
    # What is neither is 0, IGNORED. A sum takes half the time of writing where a mask says so.
    roles: NDArray[np.uint8] = np.uint8(NEGATIVE) * is_negative(labels, codes) + np.uint8(POSITIVE) * positive
    roles[positive & is_bad(labels, codes)] = BAD
    return roles


# --- the kept negatives, where a kernel does not list them


def list_kept(rows: Rows, mined: Mined) -> None:
    """List the kept negatives by their mask, if lists are wanted."""
    if mined.kept is None:
        return
    kept = np.flatnonzero(mined.hard_negative_mask)
    first = int(mined.kept.total[0])
    own = slice(first, first + kept.size)
    mined.kept.anchors[own] = kept - rows.offsets[np.searchsorted(rows.offsets, kept, "right") - 1]
    mined.kept.ranks[own] = (rows.rank if rows.rank.size else rows.loss)[kept]
    mined.kept.first[...] = first + np.searchsorted(kept, rows.offsets[:-1])
    mined.kept.total[0] += kept.size
