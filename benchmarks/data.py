"""Inputs of realistic and of hostile kinds, fresh for every case."""

import numpy as np
from numpy.typing import NDArray

KINDS = ("gamma", "log-normal", "mostly zeros", "all equal", "ascending", "descending")
LABELS = ("int64", "uint8", "bool", "one-hot")
NUM_CLASSES = 21


def losses(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw losses (B, A): two heavy tails, as detectors have them, and four kinds that are hard on a selection."""
    values = {
        "gamma": lambda: rng.gamma(0.3, 1.0, shape),
        "log-normal": lambda: rng.lognormal(-3.0, 2.0, shape),
        "mostly zeros": lambda: np.where(rng.random(shape) < 0.8, 0.0, rng.gamma(0.3, 1.0, shape)),
        "all equal": lambda: np.full(shape, 0.7),
        "ascending": lambda: np.sort(rng.gamma(0.3, 1.0, shape), axis=1),
        "descending": lambda: -np.sort(-rng.gamma(0.3, 1.0, shape), axis=1),
    }[kind]()
    return values.astype(np.float32)


def classes(shape: tuple[int, int], positives: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw integer classes (B, A), background 0, of which a share `positives` is foreground."""
    foreground = rng.integers(1, NUM_CLASSES, shape)
    return np.where(rng.random(shape) < positives, foreground, 0)


def labels(kind: str, drawn: NDArray[np.int64]) -> tuple[NDArray[np.generic], dict[str, int]]:
    """Turn classes into labels of a kind; return them and the keywords that go with them."""
    if kind == "bool":
        return drawn != 0, {}
    if kind == "one-hot":  # background last, as in the notebook
        return np.eye(NUM_CLASSES, dtype=np.float32)[drawn - 1], {}
    return drawn.astype(kind, copy=False), {"background": 0}  # int64: the very array that the peers read
