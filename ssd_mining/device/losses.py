"""Losses from logits of device arrays, and the whole loss: computed where the arrays are, on their own stream.

Shapes and types are checked by the host's own code, on arrays that stand in for those of the device. What is mined
then are arrays of losses and ranks, as if the caller had brought them. Nothing waits for the device but mining, where
an error could come of it.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssd_mining.classification import Classification
from ssd_mining.device import arrays as foreign
from ssd_mining.device import mining as miner
from ssd_mining.device.arrays import Allocate, Foreign
from ssd_mining.device.mining import OnDevice
from ssd_mining.engine import run as _backends
from ssd_mining.engine.lazy_losses import LogitLosses
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.logits import check_logits, logit_batch
from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.classes import Meaning, enqueue_classes, enqueue_rows
from ssd_mining.kernels.cuda.gradients import enqueue_gradients
from ssd_mining.kernels.cuda.losses import enqueue_losses, enqueue_negation
from ssd_mining.kernels.cuda.pack import Strided
from ssd_mining.kernels.cuda.runtime import DeviceArray, Stream
from ssd_mining.kernels.records import LogitRows
from ssd_mining.mining_rule import Extras, Mining


@dataclass(frozen=True, eq=False)
class DeviceLosses:
    """The losses of checked logits, on the device that is the current one."""

    known: LogitLosses  # of arrays that stand in for those of the device
    arrays: dict[str, Foreign]  # logits and labels, valid if there is one
    class_axis: int
    stream: Stream
    allocate: Allocate

    def __getitem__(self, part: slice) -> Any:
        """Compute the losses, all of them: an array of the caller's library."""
        with _cuda.current(self.stream.device):
            return self.losses().owner[part]

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, A) or (N,)."""
        return self.arrays["labels"].array.shape

    def losses(self) -> DeviceArray:
        """Enqueue the losses, (B, A) or (N,)."""
        return self._computed(self.known.classification, self._rows, besides=-1)

    def ranks(self, ranked: LogitLosses) -> DeviceArray:
        """Enqueue what negatives are ranked by instead, of which `ranked` says how."""
        background = ranked.background or 0
        meaning = Meaning(num_legal=0, illegal=background, ignore_index=0, may_ignore=0, has_valid=0)
        weights = self._weights((1.0,) * ranked.num_classes)
        rows = self._rows._replace(labels=self._classes(meaning), weights=weights)
        if ranked.ranked == "background":
            return self._computed(ranked.classification, rows, besides=-1)
        ranks = self._computed(ranked.classification, rows, besides=background)
        enqueue_negation(ranks, self.stream)
        return ranks

    def gradients(self, factors: DeviceArray) -> Any:
        """Enqueue the gradients of anchors with these factors, (N,): an array of the shape of the logits."""
        gradients = self.allocate((*self.shape, self.known.num_classes), self.known.dtype)
        enqueue_gradients(self._rows, self.known.classification.rule, factors, gradients, self.stream)
        return _transposed(gradients.owner) if self.class_axis == 1 else gradients.owner

    def _computed(self, classification: Classification, rows: Any, besides: int) -> DeviceArray:
        losses = self.allocate(self.shape, self.known.dtype)
        enqueue_losses(rows, classification.rule._replace(besides=besides), losses, self.stream)
        return losses

    @functools.cached_property
    def _rows(self) -> Any:
        """`LogitRows` of device arrays."""
        known, ignore_index = self.known, self.known.ignore_index
        meaning = Meaning(
            num_legal=known.num_classes + (known.background == known.num_classes),
            illegal=known.num_classes + 1,
            ignore_index=0 if ignore_index is None else ignore_index,
            may_ignore=int(ignore_index is not None),
            has_valid=int("valid" in self.arrays),
        )
        logits = packed(self.arrays["logits"], self.class_axis, self.stream, self.allocate)
        weights = getattr(known.classification, "class_weights", None) or (1.0,) * known.num_classes
        rows: Any = LogitRows
        return rows(logits, self._classes(meaning), _cuda.nothing(known.dtype), self._weights(weights))

    def _classes(self, meaning: Meaning) -> DeviceArray:
        labels, valid = self.arrays["labels"], self.arrays.get("valid", self.arrays["labels"])
        classes = self.allocate((labels.array.size,), np.int32)
        sources = _strided(labels, None), _strided(valid, None)
        enqueue_classes((sources[0], labels.array.dtype), sources[1], meaning, classes, self.stream)
        return classes

    def _weights(self, weights: tuple[float, ...]) -> DeviceArray:
        return _uploaded(weights, self.known.dtype, self.stream.device)


@functools.lru_cache(maxsize=32)
def _uploaded(weights: tuple[float, ...], dtype: np.dtype[Any], device: int) -> DeviceArray:
    """Copy class weights to a device, once; wait for it, so that any stream may read them from now on."""
    copy = _cuda.upload(np.array(weights, dtype), Stream(device))
    _cuda.synchronize(Stream(device))
    return copy


def packed(array: Foreign, class_axis: int, stream: Stream, allocate: Allocate) -> DeviceArray:
    """Return an array (B, A, C), or (N, C), as (N, C): a copy if it must be one."""
    source = _strided(array, class_axis)
    shape = array.array.size // max(1, source.num_classes), source.num_classes
    if array.is_contiguous and class_axis != 1:
        return array.array._replace(shape=shape)
    rows = allocate(shape, array.array.dtype)
    enqueue_rows(source, rows, stream)
    return rows


def _transposed(array: Any) -> Any:
    """Exchange the last two axes of an array of any library."""
    return array.permute(0, 2, 1) if hasattr(array, "permute") else array.transpose((0, 2, 1))


def _strided(array: Foreign, class_axis: int | None) -> Strided:
    """Describe an array of any layout, (B, A) or (N,), and one axis more where there are classes."""
    axes = list(zip(array.array.shape, array.strides, strict=True))
    (num_classes, of_class) = (1, 0) if class_axis is None else axes.pop(class_axis)
    (_, of_sample), (num_anchors, of_anchor) = axes if len(axes) == 2 else [(1, 0), *axes]
    elements = _cuda.argument(array.elements)
    return Strided(elements, max(1, num_anchors), of_sample, of_anchor, of_class, num_classes)


def check(
    logits: Any, labels: Any, classification: Classification, *, valid: Any, class_axis: int, **known: Any
) -> DeviceLosses:
    """Check logits of a device as `check_logits` checks those of the host."""
    arrays = miner.gathered({"logits": logits, "labels": labels, "valid": valid})
    stand_ins: Any = miner.stand_ins(arrays)
    whole = check_logits(**stand_ins, classification=classification, class_axis=class_axis, **known)
    return _losses(whole, arrays, class_axis)


def _losses(whole: LogitLosses, arrays: dict[str, Foreign], class_axis: int) -> DeviceLosses:
    if whole.labels.ndim == whole.logits.ndim:
        miner.not_yet("labels", "one-hot scores beside logits")
    first = arrays["logits"]
    return DeviceLosses(whole, arrays, class_axis, first.stream, foreign.allocator(first))


class LogitBatch:
    """Checked logits of a device, to be mined."""

    def __init__(
        self, logits: Any, labels: Any, mining: Mining, extras: Extras, classification: Any, class_axis: int
    ) -> None:
        miner.refuse_unsupported(extras)
        self.logits, self.labels, self.extras = logits, labels, dict(extras)
        others = {name: self.extras.get(name) for name in ("valid", "rank_by")}
        self.arrays = miner.gathered({"logits": logits, "labels": labels, **others})
        self._check = functools.partial(self._checked, mining, classification, class_axis)  # of arrays of the host
        self.batch, whole = self._check(miner.stand_ins(self.arrays), "cuda")
        self.losses = _losses(whole, self.arrays, class_axis)

    def _checked(
        self, mining: Mining, classification: Any, class_axis: int, arrays: dict[str, Any], backend: Any
    ) -> tuple[Batch, LogitLosses]:
        others: Any = self.extras | {name: arrays[name] for name in ("valid", "rank_by") if name in arrays}
        where = {"class_axis": class_axis, "backend": backend, "num_threads": None}
        return logit_batch(arrays["logits"], arrays["labels"], mining, others, classification, where)

    def mine(self) -> OnDevice:
        """Enqueue the losses, and mine them, with masks."""
        extras: Any = dict(self.extras)
        ranked: Any = getattr(self.batch.rank_by, "whole", self.batch.rank_by)  # of a ragged batch
        with _cuda.current(self.losses.stream.device):
            conf_loss = self.losses.losses().owner
            if isinstance(ranked, LogitLosses):
                extras["rank_by"] = self.losses.ranks(ranked).owner
        mining = dataclasses.replace(self.batch.mining, rank_by="loss")
        try:
            return miner.mine(conf_loss, self.labels, mining, extras, masks=True)
        except ValueError:  # of values: the host says which, in the caller's words
            stream = self.losses.stream
            host, _ = self._check({name: miner.read(array, stream) for name, array in self.arrays.items()}, "cpu")
            _backends.run(host, masks=False, backend="cpu", num_threads=1)
            raise
