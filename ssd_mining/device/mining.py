"""Mining of device arrays: checked, packed where their layout wants it, mined where they are, on their own stream.

What costs no pass over the values is checked before anything is enqueued, by the same code as on the host. What does
is counted by the kernels, and read back only where an error could come of it; the host then says which one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.device.arrays import Foreign, gathered, library_of, remembered
from ssd_mining.engine import run
from ssd_mining.engine.result import Kept
from ssd_mining.inputs.arrays import FLOAT32, FLOAT64, is_on_device
from ssd_mining.inputs.batch import Batch, check_losses
from ssd_mining.inputs.labels import SCORE_SUM_TOLERANCE, background_column, codes_of, role_of_empty
from ssd_mining.kernels import records
from ssd_mining.kernels.cuda.mining import enqueue
from ssd_mining.kernels.cuda.pack import ClassCoding, ScoreCoding, enqueue_counts, enqueue_roles
from ssd_mining.kernels.cuda.runtime import DeviceArray, Library, nothing
from ssd_mining.kernels.cuda.short_rows import DeviceMined, DeviceRows
from ssd_mining.kernels.records import Mined
from ssd_mining.kernels.rules import ROLE_CODES
from ssd_mining.mining_rule import NO_EXTRAS, Extras, Mining


class Resident(NamedTuple):
    """A batch of device arrays that was mined, or will be as soon as its stream comes to it."""

    mined: DeviceMined  # the owners are arrays of the caller's library
    ranks: DeviceArray  # (n,)
    offsets: NDArray[np.int64]  # (B + 1,)
    library: Library

    def owned(self) -> Mined:
        """Return the results as arrays of the caller's library."""
        return Mined(**{name: array.owner for name, array in self.mined._asdict().items()})

    def on_host(self) -> Mined:
        """Copy the counts and the sums to the host, after waiting for them; the masks are left out."""
        with self.library.current():
            counts, sums = self.library.download(self.mined.counts), self.library.download(self.mined.sums)
        none = np.empty(0, np.bool_)
        return Mined(counts, sums, pos_mask=none, hard_negative_mask=none)

    def read(self) -> Kept:
        """Copy the kept negatives to the host, after waiting for them."""
        with self.library.current():
            arrays = self.mined.counts, self.mined.hard_negative_mask, self.ranks
            counts, mask, ranks = (self.library.download(array) for array in arrays)
        kept = np.flatnonzero(mask)
        anchors = kept - self.offsets[np.searchsorted(self.offsets, kept, "right") - 1]
        return Kept(counts[records.NUM_KEPT], anchors, ranks.reshape(-1)[kept])

    def like(self, array: NDArray[Any]) -> Any:
        """Copy an array to the device, into one of the caller's library."""
        with self.library.current():
            return self.library.upload(array).owner


HostArrays = dict[str, NDArray[Any]]  # of the host, by the names of the arguments
Form = tuple[str, np.dtype[Any], tuple[int, ...]]  # of an array: the name of the argument, dtype and shape


@dataclass(frozen=True, eq=False)
class DeviceBatch:
    """A checked batch of device arrays; to mine it, their device has to be the current one."""

    batch: Batch  # of arrays that stand in for those of the device
    arrays: dict[str, Foreign]
    library: Library  # of the first of the arrays
    check: Callable[[HostArrays], Batch]  # of arrays of the host

    @property
    def ranks(self) -> DeviceArray | None:
        """The ranks that were given, (n,)."""
        return self.arrays["rank_by"].packed(self.library) if "rank_by" in self.arrays else None

    def mine(
        self, loss: DeviceArray, ranks: DeviceArray | None, labels: DeviceArray, codes: NDArray[Any], *, masks: bool
    ) -> Resident:
        """Mine losses (n,), by ranks (n,) if they are not the losses themselves; raise if a value is wrong."""
        batch, library = self.batch, self.library
        num_samples, quotas = batch.offsets.size - 1, nothing(np.int64)
        mined = _empty(num_samples, batch.mask_shape if masks else (0,), library)
        lengths = [batch.shape[1]] if batch.is_dense else np.diff(batch.offsets).tolist()
        shortest, longest = min(lengths, default=0), max(lengths, default=0)
        if batch.quotas is not None:
            quotas = library.upload(batch.quotas)
        rows = DeviceRows(
            loss=loss,
            rank=nothing(loss.dtype) if ranks is None else ranks,
            labels=labels,
            quotas=quotas,
            offsets=nothing(np.int64) if shortest == longest else library.upload(batch.offsets),
            codes=tuple(codes.tolist()),
            num_anchors=longest if shortest == longest else -1,
            is_explicit=int(batch.quotas is not None),
        )
        rule = batch.mining.rule_for(longest)
        if batch.mining.scope == "batch":
            rows, rule = self._by_quotas_of_batch(rows), rule.unbounded
        enqueue(rows, rule, mined, library, shortest=shortest, longest=longest)
        resident = Resident(mined, loss if ranks is None else ranks, batch.offsets, library)
        if self._has_bad_values(resident):
            host = self.check({name: array.read(library) for name, array in self.arrays.items()})
            run.mine_batch(host, run.call_of("cpu", 1), masks=False)
            msg = "labels: expected labels and losses that nothing changes during the call, got other ones"
            raise ValueError(msg)
        return resident

    def _by_quotas_of_batch(self, rows: DeviceRows) -> DeviceRows:
        """Mine all rows as if they were one sample; every sample keeps as many as it has in that one's mask."""
        library, num_samples, size = self.library, self.batch.offsets.size - 1, rows.loss.size
        together, quotas = _empty(1, (size,), library), library.allocate((num_samples,), np.int64)
        rule = self.batch.mining.rule_for(size)
        rule = rule._replace(extra=min(rule.extra * num_samples, np.iinfo(np.int64).max))
        enqueue(rows._replace(num_anchors=size), rule, together, library, shortest=size, longest=size)
        enqueue_counts(together.hard_negative_mask, library.upload(self.batch.offsets), quotas, library.stream)
        return rows._replace(quotas=quotas, is_explicit=1)

    def _has_bad_values(self, resident: Resident) -> bool:
        """Say whether a value is wrong; wait for the counts only where one can be."""
        batch, must_be_numbers = self.batch, self.batch.mining.nan_policy == "raise"
        can_be_bad = batch.labels.dtype.kind not in "bu" or batch.labels.ndim > len(batch.shape)
        if not (can_be_bad or must_be_numbers):
            return False
        counts = self.library.download(resident.mined.counts)
        return bool(counts[records.NUM_BAD].any() or (must_be_numbers and counts[records.NUM_NAN].any()))


def _empty(num_samples: int, shape: tuple[int, ...], library: Library) -> DeviceMined:
    return DeviceMined(
        counts=library.allocate((records.NUM_COUNTS, num_samples), np.int64),
        sums=library.allocate((records.NUM_SUMS, num_samples), np.float64),
        pos_mask=library.allocate(shape, np.bool_),
        hard_negative_mask=library.allocate(shape, np.bool_),
    )


def mine(conf_loss: Any, labels: Any, mining: Mining, extras: Extras, *, masks: bool) -> Resident:
    """Mine a batch whose losses and labels, and whatever else has their shape, are on one device."""
    given = checked(_check, (mining,), extras, conf_loss=conf_loss, labels=labels)
    with given.library.current():
        unsigned, codes = _labels(given)
        return given.mine(given.arrays["conf_loss"].packed(given.library), given.ranks, unsigned, codes, masks=masks)


def _check(host: HostArrays, extras: Extras, mining: Mining) -> Batch:
    return check_losses(host["conf_loss"], host["labels"], mining, extras)


def _labels(given: DeviceBatch) -> tuple[DeviceArray, NDArray[Any]]:
    """Return labels as unsigned integers, and their codes, as `Batch.rows` does on the host."""
    labels, mining, has_valid = given.arrays["labels"], given.batch.mining, int("valid" in given.arrays)
    coding: ClassCoding | ScoreCoding
    if given.batch.labels.ndim > len(given.batch.shape):
        source = labels.strided(-1)
        coding = ScoreCoding(
            background=background_column(mining, source.num_classes),
            role_of_empty=role_of_empty(mining, source.num_classes),
            tolerance=SCORE_SUM_TOLERANCE,
            has_valid=has_valid,
        )
    else:
        codes = codes_of(labels.dtype, mining.background, mining.ignore_index)
        labels = labels.viewed(codes.dtype)
        if not has_valid:
            return labels.packed(given.library), codes
        source, coding = labels.strided(), ClassCoding(codes=tuple(codes.tolist()), has_valid=has_valid)
    valid = given.arrays["valid"].packed(given.library) if has_valid else nothing(np.bool_)
    roles = given.library.allocate((int(given.batch.offsets[-1]),), np.uint8)
    enqueue_roles(source, valid, coding, roles, given.library.stream)
    return roles, ROLE_CODES


def checked(check: Callable[..., Batch], how: tuple[Any, ...], extras: Extras, **given: Any) -> DeviceBatch:
    """Check device arrays, the losses or logits first, by ``check(host, extras, *how)``, a check of the host's."""
    arrays = gathered(**given, rank_by=extras.rank_by, valid=extras.valid)
    for extra in ("overlaps", "anchor_weights"):
        if getattr(extras, extra) is not None:
            not_yet(extra, "it")
    for extra in ("num_negatives", "sample_offsets"):
        if is_on_device(getattr(extras, extra)):
            refuse(extra, "whole numbers on the host", "a device array", TypeError)
    forms = tuple((name, array.dtype, array.shape) for name, array in arrays.items())
    others = extras._replace(valid=None, rank_by=None)
    batch = _check_forms(check, forms, *how, others=others) if others.given else _check_once(check, forms, *how)

    def check_host(host: HostArrays) -> Batch:
        return check(host, extras._replace(valid=host.get("valid"), rank_by=host.get("rank_by")), *how)

    return DeviceBatch(batch, arrays, library_of(next(iter(arrays.values()))), check_host)


def _check_forms(
    check: Callable[..., Batch], forms: tuple[Form, ...], *how: Any, others: Extras = NO_EXTRAS
) -> Batch:
    """Check what costs no pass over the values: dtypes and shapes, by arrays that stand in for those of the device."""
    host = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, dtype, shape in forms}
    batch = check(host, others._replace(valid=host.get("valid"), rank_by=host.get("rank_by")), *how)
    _refuse_unsupported(batch)
    name, first, _ = forms[0]
    if first not in (FLOAT32, FLOAT64):
        refuse(name, "float32 or float64 on a device", f"dtype {first}", TypeError)
    if "rank_by" in host and host["rank_by"].dtype != first:
        got = f"dtype {host['rank_by'].dtype}"
        refuse("rank_by", f"{first} on a device, as {name}", got, TypeError)
    if batch.labels.dtype == np.float16:
        refuse("labels", "float32 or float64 scores on a device", "dtype float16", TypeError)
    return batch


# A loop passes arrays of the same forms again and again.
_check_once = remembered(_check_forms)


def _refuse_unsupported(batch: Batch) -> None:
    """Refuse what device arrays cannot have in this version."""
    mining = batch.mining
    for name in ("skip_hardest", "pool_size", "tie_policy"):
        if getattr(mining, name) != getattr(Mining, name):
            not_yet(name, f"{name}={getattr(mining, name)!r}")
    if mining.scope not in ("sample", "batch"):
        not_yet("scope", f"scope={mining.scope!r}")
    if mining.scope == "sample" and mining.is_share and np.unique(np.diff(batch.offsets)).size > 1:
        not_yet("min_negatives", "a share of the anchors of samples of unequal length")


def not_yet(name: str, what: str) -> NoReturn:
    """Raise for what device arrays cannot have in this version."""
    msg = f"{name}: backend 'cuda' does not support {what} with device arrays; pass NumPy arrays"
    raise NotImplementedError(msg)
