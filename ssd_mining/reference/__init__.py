"""The judges: the same rules once more, in plain NumPy, slow and simple.

Read in this order: ``notebook`` (the seed notebook, cell by cell), ``mining`` (every selection rule), ``losses`` (from
logits, one anchor and one class at a time). Contract: nothing here imports anything but NumPy and the standard library,
and nothing is taken over from the kernels. ``kernels/reference.py`` puts them behind the signatures of a backend.
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
