"""SSD hard-negative mining and the SSD confidence loss on NumPy arrays.

The public names are loaded on first use, so that ``import ssd_mining`` costs nothing but this page: no Numba, no
optional package.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd_mining import reference
    from ssd_mining._spec import Mining
    from ssd_mining._warmup import Warmup, warmup
    from ssd_mining.losses import ConfidenceLoss, confidence_loss
    from ssd_mining.mining import MiningResult, hard_negative_mask, mine_hard_negatives, negative_quota

__all__ = [
    "ConfidenceLoss",
    "Mining",
    "MiningResult",
    "Warmup",
    "confidence_loss",
    "hard_negative_mask",
    "mine_hard_negatives",
    "negative_quota",
    "reference",
    "warmup",
]

_ROOMS = {
    "ConfidenceLoss": "losses",
    "Mining": "_spec",
    "MiningResult": "mining",
    "Warmup": "_warmup",
    "confidence_loss": "losses",
    "hard_negative_mask": "mining",
    "mine_hard_negatives": "mining",
    "negative_quota": "mining",
    "warmup": "_warmup",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ssd_mining")
    if name == "reference":
        return importlib.import_module("ssd_mining.reference")
    if name not in _ROOMS:
        msg = f"module 'ssd_mining' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"ssd_mining.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
