"""Mining of device arrays: checked, packed where their layout wants it, mined where they are, on their own stream.

What costs no pass over the values is checked before anything is enqueued, by the same code as on the host. What does
is counted by the kernels, and read back only where an error could come of it; the host then says which one.
"""

import functools
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ssd_mining.checks import refuse
from ssd_mining.device import arrays as foreign
from ssd_mining.device.arrays import Allocate, Foreign
from ssd_mining.engine import run as _backends
from ssd_mining.inputs import losses as _inputs
from ssd_mining.inputs.arrays import FLOAT32, FLOAT64, is_on_device
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.labels import Roles, label_codes, own_codes
from ssd_mining.kernels.cuda import mining as cuda
from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.pack import THREADS, Coding, Strided, counter, packer, recoder
from ssd_mining.kernels.cuda.runtime import DeviceArray, Stream, argument
from ssd_mining.kernels.records import Mined, Rows
from ssd_mining.mining_rule import Extras, Mining

_UNSUPPORTED = ("overlaps", "anchor_weights")
_OWN_CODES = own_codes(np.empty(0, np.uint8), np.zeros(3, np.uint8))[1]


class OnDevice(NamedTuple):
    """A batch of device arrays that was mined, or will be as soon as its stream comes to it."""

    mined: Any  # Mined, of DeviceArray; their owners are arrays of the caller's library
    ranks: DeviceArray  # (n,)
    offsets: NDArray[np.int64]  # (B + 1,)
    stream: Stream
    allocate: Allocate

    def read(self, array: DeviceArray) -> NDArray[Any]:
        """Copy an array to the host, after waiting for it."""
        with _cuda.current(self.stream.device):
            return _cuda.download(array, self.stream)

    def read_numbers(self) -> Mined:
        """Copy the counts and the sums to the host, after waiting for them; the masks are left out."""
        without: Any = (None, None)
        return Mined(self.read(self.mined.counts), self.read(self.mined.sums), *without)

    def owned(self) -> Mined:
        """Return the results as arrays of the caller's library."""
        arrays: Any = (array.owner for array in self.mined)
        return Mined(*arrays)

    def like(self, array: NDArray[Any]) -> Any:
        """Copy an array to the device, into one of the caller's library."""
        with _cuda.current(self.stream.device):
            return _cuda.upload(array, self.stream, self.allocate).owner


def mine(conf_loss: Any, labels: Any, mining: Mining, extras: Extras, *, masks: bool) -> OnDevice:
    """Mine a batch whose losses and labels, and whatever else has their shape, are on one device."""
    others = {name: extras.get(name) for name in ("rank_by", "valid")}
    arrays = gathered({"conf_loss": conf_loss, "labels": labels, **others})
    first = arrays["conf_loss"]
    batch = _stand_in(arrays, mining, extras)
    with _cuda.current(first.stream.device):
        resident = Resident(arrays, batch, first.stream, foreign.allocator(first))
        mined = resident.mine(masks=masks)
    can_be_bad = batch.labels.dtype.kind not in "bu" or batch.labels.ndim > batch.conf_loss.ndim
    if can_be_bad or mining.nan_policy == "raise":
        read = mined.read_numbers()
        if read.num_bad.any() or (mining.nan_policy == "raise" and read.num_nan.any()):
            resident.tell(extras)
    return mined


def gathered(given: dict[str, Any]) -> dict[str, Foreign]:
    """Describe device arrays, those that are None left out; all must be on the device of the first."""
    _cuda.check()
    leader, arrays = next(iter(given)), {}
    for name, value in given.items():
        if value is None:
            continue
        if not is_on_device(value):
            refuse(name, f"a device array, as {leader} is one", type(value).__name__, TypeError)
        arrays[name] = foreign.foreign(name, value)
        ours, device = arrays[name].stream.device, arrays[leader].stream.device
        if ours != device:
            refuse(name, f"an array on the device of {leader} ({device})", f"one on device {ours}")
    return arrays


def stand_ins(arrays: dict[str, Foreign]) -> dict[str, NDArray[Any]]:
    """Return host arrays of the same types and shapes, which take no memory."""
    return {name: np.broadcast_to(np.zeros((), each.array.dtype), each.array.shape) for name, each in arrays.items()}


def read(given: Foreign, stream: Stream) -> NDArray[Any]:
    """Copy a device array of any layout to the host, after waiting for the stream."""
    flat = _cuda.download(given.elements, stream)
    in_bytes = [stride * flat.itemsize for stride in given.strides]
    return np.lib.stride_tricks.as_strided(flat, given.array.shape, in_bytes, writeable=False)


def refuse_unsupported(extras: Extras) -> None:
    """Refuse what a batch of device arrays cannot have."""
    for name in _UNSUPPORTED:
        if extras.get(name) is not None:
            not_yet(name, "it")
    for name in ("num_negatives", "sample_offsets"):
        if is_on_device(extras.get(name)):
            refuse(name, "whole numbers on the host", "a device array", TypeError)


def _stand_in(arrays: dict[str, Foreign], mining: Mining, extras: Extras) -> Batch:
    """Check the batch by host arrays of the same types and shapes, which take no memory."""
    refuse_unsupported(extras)
    described = tuple((name, each.array.dtype, each.array.shape) for name, each in arrays.items())
    others = {name: value for name, value in extras.items() if name not in arrays and value is not None}
    return _described(described, mining, others) if others else _remembered(described, mining)


Described = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


# A training loop gives the same types and shapes every time.
@functools.lru_cache(maxsize=128)
def _remembered(described: Described, mining: Mining) -> Batch:
    return _described(described, mining, {})


def _described(described: Described, mining: Mining, others: dict[str, Any]) -> Batch:
    stand_ins: Any = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, dtype, shape in described}
    loss, labels = stand_ins.pop("conf_loss"), stand_ins.pop("labels")
    batch = _inputs.check(loss, labels, mining, others | stand_ins)
    if loss.dtype not in (FLOAT32, FLOAT64):
        refuse("conf_loss", "float32 or float64 on a device", f"dtype {loss.dtype}", TypeError)
    if "rank_by" in stand_ins and stand_ins["rank_by"].dtype != loss.dtype:
        refuse("rank_by", f"{loss.dtype} on a device, as conf_loss", f"dtype {stand_ins['rank_by'].dtype}", TypeError)
    if labels.dtype == np.float16:
        refuse("labels", "float32 or float64 scores on a device", "dtype float16", TypeError)
    return batch


def not_yet(name: str, what: str) -> NoReturn:
    """Raise for what device arrays cannot have in this version."""
    msg = f"{name}: backend 'cuda' does not support {what} with device arrays; pass NumPy arrays"
    raise NotImplementedError(msg)


class Resident:
    """A checked batch of device arrays; whoever calls has made their device the current one."""

    def __init__(self, arrays: dict[str, Foreign], batch: Batch, stream: Stream, allocate: Allocate) -> None:
        self.arrays, self.batch, self.stream, self.allocate = arrays, batch, stream, allocate
        self.num_anchors = batch.conf_loss.size

    def mine(self, *, masks: bool) -> OnDevice:
        """Enqueue everything."""
        batch, mining, num_samples = self.batch, self.batch.mining, self.batch.num_samples
        mined, rows = self._results(num_samples, batch.conf_loss.shape if masks else (0,)), self._rows()
        if mining.tie_policy != "index" or mining.skip_hardest or mining.pool_size > 1:
            name = next(
                n for n in ("skip_hardest", "pool_size", "tie_policy") if getattr(mining, n) != getattr(Mining, n)
            )
            not_yet(name, f"{name}={getattr(mining, name)!r}")
        if mining.scope == "batch":
            rows, rule = rows._replace(quotas=self._quotas_of_batch(rows)), mining.rule.unbounded
        elif mining.scope != "sample":
            not_yet("scope", f"scope={mining.scope!r}")
        elif mining.is_share and rows.shortest != rows.longest:
            not_yet("min_negatives", "a share of the anchors of samples of unequal length")
        else:
            rule = mining.rule_for(rows.longest)
        cuda.enqueue(rows, rule, mined, self.stream, self.allocate)
        return OnDevice(mined, rows.rank if rows.rank.size else rows.loss, batch.offsets, self.stream, self.allocate)

    def _results(self, num_samples: int, shape: tuple[int, ...]) -> Any:
        counts, sums = self.allocate((6, num_samples), np.int64), self.allocate((3, num_samples), np.float64)
        result: Any = Mined
        return result(counts, sums, self.allocate(shape, np.bool_), self.allocate(shape, np.bool_))

    def _rows(self) -> Any:
        batch, nothing = self.batch, _cuda.nothing(self.batch.dtype)
        labels, codes = self._labels()
        lengths = [batch.conf_loss.shape[1]] if batch.is_dense else np.diff(batch.offsets).tolist()
        shortest, longest = min(lengths, default=0), max(lengths, default=0)
        offsets = self._upload(batch.offsets) if shortest != longest else _cuda.nothing(np.int64)
        quotas = self._upload(batch.quotas) if batch.quotas.size else _cuda.nothing(np.int64)
        rank = self._packed("rank_by") if "rank_by" in self.arrays else nothing
        rows: Any = Rows
        return rows(self._packed("conf_loss"), rank, labels, codes, quotas, offsets, shortest, longest)

    def _upload(self, array: NDArray[Any]) -> DeviceArray:
        return _cuda.upload(np.ascontiguousarray(array), self.stream, self.allocate)

    def _packed(self, name: str, dtype: DTypeLike | None = None) -> DeviceArray:
        """Return an array flat, its elements taken for those of a type of the same size; a copy if it must be."""
        given = self.arrays[name]
        array = given.array._replace(dtype=np.dtype(dtype or given.array.dtype))
        if given.is_contiguous:
            return array._replace(shape=(array.size,))
        packed = self.allocate((array.size,), array.dtype)
        source = self._source(name, array)
        self._launch(packer(array.dtype), source, argument(packed), self.num_anchors)
        return packed

    def _source(self, name: str, array: DeviceArray) -> Strided:
        """Describe an array of any layout by its strides."""
        strides, dense = self.arrays[name].strides, self.batch.is_dense
        of_sample, of_anchor, *rest = strides if dense else (0, *strides)
        return Strided(
            elements=argument(self.arrays[name].elements._replace(dtype=array.dtype)),
            num_anchors=max(1, array.shape[1] if dense else array.shape[0]),
            of_sample=of_sample,
            of_anchor=of_anchor,
            of_class=rest[0] if rest else 0,
            num_classes=array.shape[-1] if rest else 1,
        )

    def _launch(self, kernel: _cuda.Kernel, *arguments: Any) -> None:
        if self.num_anchors:
            kernel.launch(-(-self.num_anchors // THREADS), self.stream, *arguments)

    def _labels(self) -> tuple[DeviceArray, NDArray[Any]]:
        """Return labels as unsigned integers, and their codes, as `label_codes` does on the host."""
        labels, mining = self.batch.labels, self.batch.mining
        scores = labels.ndim > self.batch.conf_loss.ndim
        background, codes = -1 if mining.background is None else mining.background, _OWN_CODES
        dtype = labels.dtype if scores else np.dtype(f"u{labels.dtype.itemsize}")
        if not scores:
            none = np.empty(0, labels.dtype)
            _, codes = label_codes(Roles(none, None, None), mining, str)
            if "valid" not in self.arrays:
                return self._packed("labels", dtype), codes
        of_background, ignored, highest = (background % labels.shape[-1], 0, 0) if scores else codes.tolist()
        valid = self._packed("valid") if "valid" in self.arrays else _cuda.nothing(np.bool_)
        coding = Coding(
            background=of_background,
            ignored=ignored,
            highest=highest,
            has_valid=int(valid.size > 0),
            is_empty_ignored=int(mining.all_zero == "ignore"),
            is_empty_wrong=int(mining.all_zero == "raise"),
        )
        recoded = self.allocate((self.num_anchors,), np.uint8)
        source = self._source("labels", self.arrays["labels"].array._replace(dtype=dtype))
        kernel = recoder(dtype, scores=scores)
        self._launch(kernel, source, argument(valid), coding, argument(recoded), self.num_anchors)
        return recoded, _OWN_CODES

    def _quotas_of_batch(self, rows: Any) -> DeviceArray:
        """Mine the batch as if it were one sample, and count how many each sample keeps."""
        batch, mining = self.batch, self.batch.mining
        rule = mining.rule_for(self.num_anchors)
        rule = rule._replace(extra=rule.extra * batch.num_samples)
        whole = rows._replace(shortest=self.num_anchors, longest=self.num_anchors)
        together = self._results(1, (self.num_anchors,))
        cuda.enqueue(whole, rule, together, self.stream, self.allocate)
        offsets, quotas = self._upload(batch.offsets), self.allocate((batch.num_samples,), np.int64)
        if batch.num_samples:
            addresses = map(argument, (together.hard_negative_mask, offsets, quotas))
            counter().launch(batch.num_samples, self.stream, *addresses)
        return quotas

    def tell(self, extras: Extras) -> NoReturn:
        """Raise what the host has to say about these values."""
        with _cuda.current(self.stream.device):
            on_host: Any = {name: read(array, self.stream) for name, array in self.arrays.items()}
        others: Any = {name: value for name, value in extras.items() if name not in on_host}
        loss, labels = on_host.pop("conf_loss"), on_host.pop("labels")
        batch = _inputs.check(loss, labels, self.batch.mining, others | on_host)
        _backends.run(batch, masks=False, backend="cpu", num_threads=1)
        msg = "labels: expected labels and losses that nothing changes during the call, got other ones"
        raise ValueError(msg)
