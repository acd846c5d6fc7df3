"""Losses from logits and their gradients on the CPU: pick the drivers and allocate the workspace."""

from typing import Any

import numpy as np

from ssd_mining.kernels.cpu.jit import drivers
from ssd_mining.kernels.cpu.lanes import LANES
from ssd_mining.kernels.cpu.matrices import COLUMNS
from ssd_mining.kernels.cpu.sigmoid import sigmoid_gradients, sigmoid_losses
from ssd_mining.kernels.cpu.softmax import softmax_gradients, softmax_losses
from ssd_mining.kernels.cpu.tiles import tile_size
from ssd_mining.kernels.records import Computed, LogitRows, SigmoidRule, SoftmaxRule

LINE = 64  # bytes of a cache line

_LOSSES: dict[Any, Any] = {SoftmaxRule: drivers(softmax_losses), SigmoidRule: drivers(sigmoid_losses)}
_GRADIENTS: dict[Any, Any] = {SoftmaxRule: drivers(softmax_gradients), SigmoidRule: drivers(sigmoid_gradients)}


def losses(rows: LogitRows, rule: SoftmaxRule | SigmoidRule, computed: Computed, num_workers: int) -> None:
    """Compute the losses of every sample of `rows`, by at most `num_workers` threads."""
    num_samples = rows.logits.shape[0]
    num_workers = max(1, min(num_workers, num_samples))
    driver = _LOSSES[type(rule)][num_workers > 1]
    driver(num_samples, num_workers, *rows, *rule, *computed, *workspace(rows, num_workers))


def workspace(rows: LogitRows, num_workers: int) -> tuple[Any, Any]:
    """Allocate for each worker a tile of logits, one of targets, the vectors, and room for a padded tail."""
    num_classes, dtype = rows.logits.shape[2], rows.logits.dtype
    tails = np.zeros((num_workers, LANES * num_classes + COLUMNS), dtype)
    shape = num_workers, tile_size(num_classes)
    # Tiles begin at a cache line: a vector that straddles two lines is loaded twice.
    room = np.empty(shape[0] * shape[1] + LINE // dtype.itemsize, dtype)
    first = -room.__array_interface__["data"][0] % LINE // dtype.itemsize
    return room[first : first + shape[0] * shape[1]].reshape(shape), tails


def gradients(
    rows: LogitRows, rule: SoftmaxRule | SigmoidRule, factors: Any, computed: Computed, num_workers: int
) -> None:
    """Write ``factor * d loss / d logits`` of every anchor whose factor, in `factors` (b, A), is not 0.

    The samples do not matter: all anchors are one list, in blocks of 64. Scores that are one-hot count as labels.
    """
    num_classes, num_blocks = rows.logits.shape[2], -(-factors.size // LANES)
    labels, scores = rows.labels.reshape(-1), rows.scores.reshape(-1, num_classes)
    if scores.size:
        is_one_hot = (np.count_nonzero(scores, axis=1) == 1) & (scores.max(axis=1) == 1)
        labels = np.where(labels < 0, labels, np.where(is_one_hot, scores.argmax(axis=1), num_classes))
        labels.flags.writeable = False
    listed = rows._replace(logits=rows.logits.reshape(-1, num_classes), labels=labels, scores=scores)
    num_workers, done = max(1, min(num_workers, num_blocks)), np.zeros(num_blocks, np.int64)
    space = *workspace(rows, num_workers), np.empty((num_workers, 2, num_classes))
    written = computed.values.reshape(-1, num_classes), done
    driver = _GRADIENTS[type(rule)][num_workers > 1]
    driver(num_blocks, num_workers, *listed, *rule, factors.reshape(-1), *written, *space)
    of_anchors = np.repeat(done, LANES)[: factors.size].reshape(factors.shape)
    computed.done[...] = of_anchors.min(axis=1, initial=1)
