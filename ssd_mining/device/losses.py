"""Losses from logits of device arrays, their ranks, their gradients, and the mining of them.

What is mined are arrays of losses and ranks, as if the caller had brought them. Nothing waits for the device but
mining, where an error could come of it.
"""

import functools
from typing import Any, NamedTuple, cast

import numpy as np

from ssd_mining.checks import refuse
from ssd_mining.classification import Classification
from ssd_mining.device.arrays import Foreign, contiguous, gathered, library_of, remembered
from ssd_mining.device.mining import DeviceBatch, Form, HostArrays, Resident, checked, not_yet
from ssd_mining.inputs.arrays import FLOAT32, FLOAT64
from ssd_mining.inputs.batch import Batch, check_logit_batch
from ssd_mining.inputs.logits import Logits, check_logits, weights_of
from ssd_mining.kernels.cuda.logit_gradients import Anchors, enqueue_gradients
from ssd_mining.kernels.cuda.logit_losses import enqueue_losses, enqueue_negation
from ssd_mining.kernels.cuda.pack import NO_MASK, Meaning, enqueue_classes
from ssd_mining.kernels.cuda.runtime import DeviceArray, Library, nothing, numba_library
from ssd_mining.mining_rule import Extras, Mining


class DeviceLogits(NamedTuple):
    """Logits on the device that is the current one, and what is computed of them."""

    checked: Logits  # of arrays that stand in for those of the device
    logits: Foreign
    labels: Foreign
    class_axis: int
    library: Library
    anchors: Anchors

    def losses(self) -> DeviceArray:
        """Enqueue the losses, (B, A) or (N,)."""
        losses = self.library.allocate(self.labels.shape, self.checked.dtype)
        enqueue_losses(self.anchors, self.checked.rule, losses, self.library.stream)
        return losses

    def ranks(self, ranked: Logits) -> DeviceArray:
        """Enqueue what negatives are ranked by instead, (B, A) or (N,), as `ranked` says."""
        background = ranked.background or 0
        every = Meaning(num_legal=0, illegal=background, ignore_index=0, may_ignore=0, has_valid=0)
        weights = _weights(ranked.classification, self.anchors.num_classes, ranked.dtype, self.library.stream.device)
        anchors = self.anchors._replace(labels=_classes(self.labels, None, every, self.library), weights=weights)
        ranks = self.library.allocate(self.labels.shape, ranked.dtype)
        enqueue_losses(anchors, ranked.rule, ranks, self.library.stream)
        if ranked.ranked == "foreground_max":
            enqueue_negation(ranks, self.library.stream)
        return ranks

    def gradients(self, factors: DeviceArray) -> DeviceArray:
        """Enqueue the gradients of anchors with these factors, (N,), in the shape of the logits."""
        gradients = self.library.allocate(self.logits.shape, self.checked.dtype)
        layout = self.logits._replace(array=gradients, strides=contiguous(gradients.shape)).strided(self.class_axis)
        enqueue_gradients(self.anchors, self.checked.rule, factors, layout, self.library.stream)
        return gradients


def losses(
    logits: Any,
    labels: Any,
    classification: Classification,
    *,
    background: int | None,
    ignore_index: int | None,
    valid: Any,
    class_axis: int,
) -> Any:
    """Compute the losses of every anchor, (B, A): an array of the caller's library."""
    arrays = gathered(logits=logits, labels=labels, valid=valid)
    forms = tuple((name, array.dtype, array.shape) for name, array in arrays.items())
    known = _check_once(forms, classification, background, ignore_index, class_axis)
    library = library_of(arrays["logits"])
    with library.current():
        return _on_device(known, arrays, class_axis, library).losses().owner


@remembered
def _check_once(
    forms: tuple[Form, ...],
    classification: Classification,
    background: int | None,
    ignore_index: int | None,
    class_axis: int,
) -> Logits:
    host = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, dtype, shape in forms}
    words: dict[str, Any] = {"background": background, "ignore_index": ignore_index, "class_axis": class_axis}
    return check_logits(host["logits"], host["labels"], classification, valid=host.get("valid"), **words)


def mine(
    logits: Any, labels: Any, mining: Mining, extras: Extras, classification: Classification | None, class_axis: int
) -> Resident:
    """Mine a batch by losses from logits, with masks."""
    given = checked(check_batch, (mining, classification, class_axis), extras, logits=logits, labels=labels)
    with given.library.current():
        return mine_checked(given, class_axis).resident


def check_batch(
    host: HostArrays, extras: Extras, mining: Mining, classification: Classification | None, class_axis: int
) -> Batch:
    """Check logits and labels of the host, by the names of the arguments."""
    return check_logit_batch(host["logits"], host["labels"], mining, extras, classification, class_axis)


class MinedLogits(NamedTuple):
    """Logits whose losses were mined."""

    logits: DeviceLogits
    resident: Resident


def mine_checked(given: DeviceBatch, class_axis: int) -> MinedLogits:
    """Mine a checked batch by losses from its logits, with masks, on the device that is the current one."""
    logits = _on_device(cast("Logits", given.batch.logits), given.arrays, class_axis, given.library)
    ranked, classes = given.batch.ranks, logits.anchors.labels._replace(dtype=np.dtype(np.uint32))
    ranks = given.ranks if ranked is None else logits.ranks(ranked)
    # What is no class is one more than the highest.
    codes = np.array([given.batch.mining.background, -1, logits.anchors.num_classes], np.int32).view(np.uint32)
    return MinedLogits(logits, given.mine(logits.losses(), ranks, classes, codes, masks=True))


def _on_device(checked: Logits, arrays: dict[str, Foreign], class_axis: int, library: Library) -> DeviceLogits:
    """Pack logits, and recode their labels, as the kernels take them."""
    logits, labels, valid = arrays["logits"], arrays["labels"], arrays.get("valid")
    if logits.dtype not in (FLOAT32, FLOAT64):
        refuse("logits", "float32 or float64 on a device", f"dtype {logits.dtype}", TypeError)
    if checked.labels.ndim == 3:
        not_yet("labels", "one-hot scores beside logits")
    num_classes, ignore_index = checked.values.shape[2], checked.ignore_index
    # Kernels take labels for int64, by their bits; others than uint64 are never beyond.
    beyond = 2**64 if labels.array.dtype == np.uint64 else 2**63
    if ignore_index is not None and not -(2**63) <= ignore_index < beyond:
        ignore_index = None
    meaning = Meaning(
        num_legal=num_classes + (checked.background == num_classes),
        illegal=num_classes + 1,
        ignore_index=0 if ignore_index is None else (ignore_index + 2**63) % 2**64 - 2**63,
        may_ignore=int(ignore_index is not None),
        has_valid=int(valid is not None),
    )
    anchors = Anchors(
        logits=logits.packed(library, class_axis),
        labels=_classes(labels, valid, meaning, library),
        scores=nothing(checked.dtype),
        weights=_weights(checked.classification, num_classes, checked.dtype, library.stream.device),
        num_anchors=labels.array.size,
        num_classes=num_classes,
        is_scored=0,
    )
    return DeviceLogits(checked, logits, labels, class_axis, library, anchors)


def _classes(labels: Foreign, valid: Foreign | None, meaning: Meaning, library: Library) -> DeviceArray:
    classes = library.allocate((labels.array.size,), np.int32)
    mask = NO_MASK if valid is None else valid.strided()
    enqueue_classes(labels.strided(), mask, meaning, classes, library.stream)
    return classes


@functools.lru_cache(maxsize=32)
def _weights(classification: Classification, num_classes: int, dtype: np.dtype[Any], device: int) -> DeviceArray:
    """Copy class weights to a device, once; wait for it, so that any stream may read them from now on."""
    library = numba_library(device)
    copy = library.upload(weights_of(classification, num_classes, dtype))
    library.synchronize()
    return copy
