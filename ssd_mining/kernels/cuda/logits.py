"""The losses from logits, and their gradients, of host arrays: their way to the device and back."""

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.cuda.logit_gradients import Anchors, enqueue_gradients
from ssd_mining.kernels.cuda.logit_losses import enqueue_losses
from ssd_mining.kernels.cuda.pack import Strided
from ssd_mining.kernels.cuda.runtime import Library, numba_library
from ssd_mining.kernels.records import Computed, LogitRows, SigmoidRule, SoftmaxRule


def losses(rows: LogitRows, rule: SoftmaxRule | SigmoidRule, computed: Computed, num_workers: int) -> None:
    """Compute the losses of every sample of `rows`, on the current device."""
    library = numba_library()
    with library.current():
        values = library.allocate(computed.values.shape, computed.values.dtype)
        enqueue_losses(_anchors(rows, library, num_workers), rule, values, library.stream)
        computed.values[...] = library.download(values, num_workers)
    are_classes = (rows.labels >= 0) & (rows.labels < rows.logits.shape[2])
    computed.done[...] = np.where(are_classes.all(axis=1), 1, -1)


def gradients(
    rows: LogitRows,
    rule: SoftmaxRule | SigmoidRule,
    factors: NDArray[np.float64],
    computed: Computed,
    num_workers: int,
) -> None:
    """Write ``factor * d loss / d logits`` of every anchor whose factor, of `factors` (b, A), is not 0."""
    library = numba_library()
    with library.current():
        values = library.allocate(computed.values.shape, computed.values.dtype)
        _, num_anchors, num_classes = values.shape
        layout = Strided(
            elements=values,
            num_anchors=num_anchors,
            of_sample=num_anchors * num_classes,
            of_anchor=num_classes,
            of_class=1,
            num_classes=num_classes,
        )
        anchors, multiplied = _anchors(rows, library, num_workers), library.upload(factors, num_workers)
        enqueue_gradients(anchors, rule, multiplied, layout, library.stream)
        computed.values[...] = library.download(values, num_workers)
    computed.done[...] = 1


def _anchors(rows: LogitRows, library: Library, num_workers: int) -> Anchors:
    return Anchors(
        logits=library.upload(rows.logits, num_workers),
        labels=library.upload(rows.labels.astype(np.int32)),
        scores=library.upload(rows.scores, num_workers),
        weights=library.upload(rows.weights),
        num_anchors=rows.labels.size,
        num_classes=rows.logits.shape[2],
        is_scored=int(rows.scores.size > 0),
    )
