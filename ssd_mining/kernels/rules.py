"""The rules that every device obeys, once: plain scalar Python, jitted by each twin."""

import math

from ssd_mining._spec import Rule

# From here on every float is a whole number.
WHOLE = 2.0**53


def quota(num_pos: int, num_neg: int, explicit: int, rule: Rule) -> int:
    """Say how many of `num_neg` negatives are kept; `explicit`, unless below 0, replaces ratio times positives."""
    # In float64 the product saturates: an integer one would wrap round to a wrong, finite count.
    wanted = rule.ratio * num_pos
    if wanted < WHOLE:
        wanted = float(math.ceil(wanted) if rule.round_up else math.floor(wanted))
    wanted += rule.extra
    if explicit >= 0:
        wanted = float(explicit)
    if rule.min_always or num_pos == 0:
        wanted = max(wanted, float(rule.min_negatives))
    wanted = min(wanted, float(rule.max_negatives))
    return num_neg if wanted >= num_neg else int(wanted)
