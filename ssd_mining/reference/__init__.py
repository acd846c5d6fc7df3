"""The judges: the rules once more, in plain NumPy."""

from ssd_mining.reference.mining import (
    Notebook,
    Roles,
    Sample,
    confidence_loss,
    describe,
    hardest_first,
    keep,
    mine,
    mine_batch,
    num_wanted,
    roles,
    total,
)

__all__ = [
    "Notebook",
    "Roles",
    "Sample",
    "confidence_loss",
    "describe",
    "hardest_first",
    "keep",
    "mine",
    "mine_batch",
    "num_wanted",
    "roles",
    "total",
]
