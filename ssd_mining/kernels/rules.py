"""The rules of the selection, written once: plain scalar Python, which each twin compiles for itself.

No rule calls another, for each twin compiles them one by one.
"""

from typing import Any

import numpy as np

from ssd_mining.kernels.records import (
    BACKGROUND,
    BAD,
    HIGHEST,
    IGNORED,
    IGNORED_LABEL,
    NEGATIVE,
    POSITIVE,
    Rule,
)

# No sample has so many anchors, and of infinity there is no whole part.
MOST = 2.0**64


# --- which anchors are what, and how many negatives are kept


def is_negative(label, codes):
    """Say whether a label is that of a negative."""
    return label == codes[BACKGROUND]


def is_positive(label, codes):
    """Say whether a label is that of a positive, or is bad."""
    return (label != codes[BACKGROUND]) & (label != codes[IGNORED_LABEL])


def is_bad(label, codes):
    """Say whether the label of a positive is none."""
    return label > codes[HIGHEST]


def quota(num_pos: int, num_neg: int, explicit: int, rule: Rule) -> int:
    """Say how many of `num_neg` negatives are kept; `explicit`, unless below 0, replaces ratio times positives."""
    # In float64 the product saturates: an integer one would wrap round to a wrong, finite count.
    wanted = min(rule.ratio * num_pos, MOST)
    rest = wanted % 1.0  # floor and ceil are not to be had on every device
    wanted = wanted - rest + (1.0 if rule.round_up and rest > 0.0 else 0.0) + rule.extra
    if explicit >= 0:
        wanted = float(explicit)
    if rule.min_always or num_pos == 0:
        wanted = max(wanted, float(rule.min_negatives))
    wanted = min(wanted, float(rule.max_negatives))
    return num_neg if wanted >= num_neg else int(wanted)


# --- the order of floats, as that of whole numbers


def order_key(image, sign, ones):
    """Return the unsigned integer that has the order of a float: `image` are its bits, `sign` the highest of them."""
    return image ^ ones if image & sign else image | sign


def image_of_key(key, sign, ones):
    """Return the bits of the float that has this key."""
    return key ^ (sign if key & sign else ones)


# --- labels that are roles themselves, which the host makes where plain labels do not tell enough

ROLE_CODES = np.array([NEGATIVE, IGNORED, np.iinfo(np.int8).max], np.uint8)
ROLE_CODES.flags.writeable = False


def roles_of(labels: Any, codes: Any) -> Any:
    """Return the roles of labels (n,) of any width: a byte for each, in a fresh array."""
    roles = np.full(labels.shape, IGNORED, np.uint8)
    positive = is_positive(labels, codes)
    roles[positive] = POSITIVE
    roles[positive & is_bad(labels, codes)] = BAD
    roles[is_negative(labels, codes)] = NEGATIVE
    return roles
