"""Compute losses, ranks and gradients from logits, block by block: those of a whole batch need never exist."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.inputs import batch as boundary
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.logits import Logits
from ssd_mining.kernels.records import Computed

if TYPE_CHECKING:
    from ssd_mining.engine.run import Call

# Another thread needs so many logits to save more than it costs to call it (docs/performance.md).
LOGITS_EACH = 250_000

ALL = slice(None)


def block_losses(batch: Batch, block: slice, call: "Call") -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Compute the losses and the ranks, (n,), of a block of a batch; None: it does not come from logits."""
    place = (block, ALL) if batch.is_dense else (slice(0, 1), batch.anchors(block))
    loss = None if batch.logits is None else losses(batch.logits, call, *place).reshape(-1)
    rank = None if batch.ranks is None else losses(batch.ranks, call, *place).reshape(-1)
    for array in (loss, rank):
        if array is not None:
            array.flags.writeable = False
    return loss, rank


def losses(logits: Logits, call: "Call", samples: slice = ALL, anchors: slice = ALL) -> NDArray[Any]:
    """Compute the losses, or the ranks, of some anchors of some samples: a fresh array, (b, a)."""
    shape = logits.values[samples, anchors].shape[:2]
    values = np.empty(shape, logits.dtype)
    for part, where in _parts(logits, samples, anchors):
        rows = logits.rows(where, anchors)
        computed = Computed(values[part], np.zeros(where.stop - where.start, np.int64))
        size = rows.logits.size
        workers = 1 if size < 2 * LOGITS_EACH else call.workers(size // LOGITS_EACH)
        call.twin.losses(rows, logits.rule, computed, workers)
        _check_done(where, computed)
        if computed.done.min(initial=1) < 0:
            logits.check_classes(where, anchors)
    return np.negative(values, out=values) if logits.ranked == "foreground_max" else values


def gradients(logits: Logits, anchors: NDArray[np.int64], factors: NDArray[np.float64], call: "Call") -> NDArray[Any]:
    """Compute ``factor * d loss / d logits`` of some anchors, a fresh array, (K, C).

    `anchors`, (K,), counts the anchors of the batch in C order; `factors`, (K,).
    """
    values = np.zeros((anchors.size, logits.values.shape[2]), logits.dtype)
    step = max(1, boundary.BLOCK_ELEMENTS // values.shape[1])
    for first in range(0, anchors.size, step):
        part = slice(first, first + step)
        rows = logits.of_anchors(anchors[part]).rows(ALL, ALL)
        computed = Computed(values[part, None], np.zeros(rows.logits.shape[0], np.int64))
        size = rows.logits.size
        workers = 1 if size < 2 * LOGITS_EACH else call.workers(size // LOGITS_EACH)
        own = factors[part, None]
        own.flags.writeable = False  # of the view
        call.twin.gradients(rows, logits.rule, own, computed, workers)
        if np.count_nonzero(computed.done) < computed.done.size:
            msg = f"gradient {first + int(np.argmin(computed.done))} was not computed: a worker thread was lost"
            raise RuntimeError(msg)
    return values


def _parts(logits: Logits, samples: slice, anchors: slice) -> Iterator[tuple[slice, slice]]:
    """Yield a slice of the result and the same slice of all samples, for each block.

    A block has at most `BLOCK_ELEMENTS` logits, or `VIEWED` times as many if nothing is copied, or one sample.
    """
    values = logits.values
    as_it_lies = values.dtype == logits.dtype and values.flags.c_contiguous and logits.labels.ndim == 2
    most = boundary.BLOCK_ELEMENTS * (boundary.VIEWED if as_it_lies else 1)
    step = max(1, most // max(1, math.prod(values[:1, anchors].shape)))
    start, stop, _ = samples.indices(values.shape[0])
    for first in range(start, stop, step):
        last = min(first + step, stop)
        yield slice(first - start, last - start), slice(first, last)


def _check_done(where: slice, computed: Computed) -> None:
    if np.count_nonzero(computed.done) < computed.done.size:
        msg = f"sample {where.start + int(np.argmin(computed.done))} was not computed: a worker thread was lost"
        raise RuntimeError(msg)
