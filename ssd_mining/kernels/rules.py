"""The rules that every device obeys, once: plain scalar Python, jitted by each twin."""

from ssd_mining.kernels.records import Rule

# No sample has so many anchors, and of infinity there is no whole part.
MOST = 2.0**64


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
