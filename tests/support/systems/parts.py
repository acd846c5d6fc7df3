"""What the systems share: the softmax, the two losses, ranks by double sorting, and the shape of an answer.

The modules beside this one are oracles: each function is another system's loss, transliterated to NumPy float64 from
its source in the order and with the tricks of that system, not ours. They import NumPy only.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Result(NamedTuple):
    """A system's answer for one batch, divided as the system divides."""

    conf_loss: float
    loc_loss: float
    hard_negatives: Mask | None  # (B, A); None where the system sorts losses and never knows which anchors it kept

    @property
    def loss(self) -> float:
        return self.conf_loss + self.loc_loss


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def cross_entropy(logits: Array, labels: Labels) -> Array:
    """Return the loss (B, A) of the labelled class; a label below 0 picks class 0, as MXNet's ``pick`` does."""
    return -np.take_along_axis(log_softmax(logits), np.maximum(labels, 0)[..., None], axis=-1)[..., 0]


def one_hot(labels: Labels, num_classes: int) -> Array:
    """Return one row per anchor (B, A, C); all zeros where the label is below 0."""
    return np.where(labels[..., None] == np.arange(num_classes), 1.0, 0.0)


def smooth_l1(loc_pred: Array, loc_target: Array) -> Array:
    """Return the loss of every coordinate, with its knee at 1."""
    difference = np.abs(loc_pred - loc_target)
    return np.where(difference < 1, 0.5 * difference**2, difference - 0.5)


def descending(values: Array) -> NDArray[np.int64]:
    """Return the order of the last axis from the largest value down; equal values keep their order."""
    return np.argsort(-values, axis=-1, kind="stable")


def ascending_rank(values: Array) -> NDArray[np.int64]:
    """Return the place of every element, the smallest first, by sorting twice."""
    return np.argsort(np.argsort(values, axis=-1, kind="stable"), axis=-1, kind="stable")


def descending_rank(values: Array) -> NDArray[np.int64]:
    """Return the place of every element, the largest first, by sorting twice."""
    return np.argsort(descending(values), axis=-1, kind="stable")


def quotient(total: float, divisor: float) -> float:
    """Divide as a tensor library does: 0 / 0 is NaN, without a warning."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.float64(total) / np.float64(divisor))


def bits(*losses):
    """Return rows of two logits whose class 0 has the probability 2 ** -loss; class 1 has the rest."""
    chances = 0.5 ** np.array(losses, float)
    return np.log(np.stack([chances, 1 - chances], axis=-1))
