"""The rules that every device obeys, once: plain scalar Python, jitted by each twin."""

from ssd_mining._spec import Rule


def quota(num_pos: int, num_neg: int, explicit: int, rule: Rule) -> int:
    """Say how many of `num_neg` negatives are kept; `explicit`, unless below 0, replaces ratio times positives."""
    # In float64 the product saturates: an integer one would wrap round to a wrong, finite count.
    wanted = rule.ratio * num_pos if explicit < 0 else float(explicit)
    lowest = rule.min_negatives if num_pos > 0 else rule.min_negatives_without_positives
    wanted = min(max(wanted, float(lowest)), float(rule.max_negatives))
    return num_neg if wanted >= num_neg else int(wanted)
