"""The CUDA twin: which kernels mine which rows, and the way of host arrays to the device and back."""

from typing import Any, cast

from ssd_mining.kernels.cuda import long_rows as cuda_long
from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda import short_rows as cuda_rows
from ssd_mining.kernels.cuda.digits import THREADS
from ssd_mining.kernels.cuda.runtime import Stream, argument
from ssd_mining.kernels.cuda.short_rows import MAX_KEYS, Input
from ssd_mining.kernels.records import Mined, Rows, Rule


def mine(rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:  # noqa: ARG001 - the twins' signature
    """Mine every sample of `rows` into `mined`, arrays of the host, on the current device."""
    stream = Stream(_cuda.current_device())
    with _cuda.current(stream.device):
        names = ("loss", "rank", "labels", "quotas", "offsets")
        arrays: Any = {name: _cuda.upload(getattr(rows, name), stream) for name in names}
        written: Any = Mined(*(cast("Any", _cuda.empty(array.shape, array.dtype)) for array in mined))
        enqueue(rows._replace(**arrays), rule, written, stream)
        for host, array in zip(mined, written, strict=True):
            host[...] = _cuda.download(array, stream)


def enqueue(rows: Any, rule: Rule, mined: Any, stream: Stream, allocate: Any = _cuda.empty) -> None:
    """Enqueue the mining of rows on the current device; all arrays of both records but `codes` are device arrays."""
    num_samples = mined.counts.shape[1]
    if not num_samples:
        return
    dtype, labels = rows.loss.dtype, rows.labels.dtype
    given = Input(
        **{name: argument(getattr(rows, name)) for name in Input._fields[:5]},
        codes=tuple(rows.codes.tolist()),
        num_anchors=rows.longest if rows.shortest == rows.longest else -1,
        is_explicit=int(rows.quotas.size > 0),
    )
    results = Mined(*map(argument, mined))
    flags = {"ranked": rows.rank.size > 0, "masked": mined.pos_mask.size > 0}
    most = MAX_KEYS[dtype.itemsize]
    if rows.shortest <= most * THREADS:
        num_keys = max(1, -(-min(rows.longest, most * THREADS) // THREADS))
        kernel = cuda_rows.kernel(dtype, labels, num_keys, dense=given.num_anchors >= 0, **flags)
        kernel.launch(num_samples, stream, given, rule, results)
    if rows.longest > most * THREADS:
        kernels = cuda_long.kernels(dtype, labels, **flags)
        scratch = cuda_long.scratch((num_samples, rows.longest), dtype, most * THREADS + 1, allocate)
        cuda_long.launch(kernels, (given, rule, results), scratch, num_samples, stream)
