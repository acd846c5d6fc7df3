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
    return _aligned((num_workers, tile_size(num_classes)), dtype), tails


def gradients(
    rows: LogitRows, rule: SoftmaxRule | SigmoidRule, factors: Any, computed: Computed, num_workers: int
) -> None:
    """Write ``factor * d loss / d logits`` of every anchor whose factor, in `factors` (b, A), is not 0."""
    num_samples, _, num_classes = rows.logits.shape
    num_workers = max(1, min(num_workers, num_samples))
    driver = _GRADIENTS[type(rule)][num_workers > 1]
    driver(num_samples, num_workers, *rows, *rule, factors, *computed, np.empty((num_workers, 2, num_classes)))


def _aligned(shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
    """Allocate an array that begins at a cache line. A vector that straddles two lines is loaded twice."""
    size = shape[0] * shape[1]
    room = np.empty(size + LINE // dtype.itemsize, dtype)
    first = -room.__array_interface__["data"][0] % LINE // dtype.itemsize
    return room[first : first + size].reshape(shape)
