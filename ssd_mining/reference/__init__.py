"""The reference: every rule once more in plain NumPy, slow and simple. Tests judge the kernels by it.

Read `notebook` (the seed notebook, cell by cell), `mining` (every selection rule), `losses` (from logits, one anchor
and one class at a time), then `matching` (from boxes to labels). ``kernels/reference.py`` gives it the functions of a
twin, for ``backend="reference"``.

The contract: it imports only NumPy and the standard library, and shares no code with the kernels.
"""

from ssd_mining.reference.mining import (
    Roles,
    Sample,
    describe,
    hardest_first,
    keep,
    mine_batch,
    num_wanted,
    roles,
    total,
)
from ssd_mining.reference.notebook import Notebook, confidence_loss

__all__ = [
    "Notebook",
    "Roles",
    "Sample",
    "confidence_loss",
    "describe",
    "hardest_first",
    "keep",
    "mine_batch",
    "num_wanted",
    "roles",
    "total",
]
