"""Mining by the CUDA twin: which kernels mine which rows, and the way of host arrays to the device and back."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.cuda import short_rows
from ssd_mining.kernels.cuda.copies import LARGE
from ssd_mining.kernels.cuda.long_rows import enqueue_long
from ssd_mining.kernels.cuda.runtime import Library, numba_library
from ssd_mining.kernels.cuda.short_rows import DeviceMined, DeviceRows, enqueue_short
from ssd_mining.kernels.records import BACKGROUND, HIGHEST, IGNORED_LABEL, Mined, Rows, Rule
from ssd_mining.kernels.rules import list_kept

MOST = 255  # of a byte
STEP = 1 << 16  # labels that are looked at and narrowed while they are in the cache


def mine(rows: Rows, rule: Rule, mined: Mined, num_workers: int) -> None:
    """Mine every sample of `rows` into `mined`, arrays of the host, on the current device; so many threads copy."""
    library = numba_library()
    labels, codes = narrowed(rows.labels, rows.codes, num_workers)
    with library.current():
        ours = DeviceRows(
            loss=library.upload(rows.loss, num_workers),
            rank=library.upload(rows.rank, num_workers),
            labels=library.upload(labels, num_workers),
            quotas=library.upload(rows.quotas),
            offsets=library.upload(rows.offsets),
            codes=tuple(codes.tolist()),
            num_anchors=rows.longest if rows.shortest == rows.longest else -1,
            is_explicit=int(rows.quotas.size > 0),
        )
        into = {name: getattr(mined, name) for name in DeviceMined._fields}
        written = DeviceMined(**{name: library.allocate(to.shape, to.dtype) for name, to in into.items()})
        enqueue(ours, rule, written, library, shortest=rows.shortest, longest=rows.longest)
        for name, to in into.items():
            to[...] = library.download(getattr(written, name), num_workers)
    list_kept(rows, mined)


def narrowed(labels: NDArray[Any], codes: NDArray[Any], num_workers: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return labels and their codes as bytes where they fit: then fewer bytes cross the bus than the losses have."""
    if labels.itemsize == 1 or labels.nbytes < LARGE or codes[:HIGHEST].max() > MOST:
        return labels, codes
    small = np.empty(labels.size, np.uint8)

    def narrow(start: int) -> bool:
        part = labels[start : start + STEP]
        if part.max() > MOST:  # also a negative one, by its bits
            return False
        small[start : start + STEP] = part
        return True

    with ThreadPoolExecutor(num_workers) as pool:
        fits = all(pool.map(narrow, range(0, labels.size, STEP)))
    return (small, np.array([codes[BACKGROUND], codes[IGNORED_LABEL], MOST], np.uint8)) if fits else (labels, codes)


def enqueue(
    rows: DeviceRows, rule: Rule, mined: DeviceMined, library: Library, *, shortest: int, longest: int
) -> None:
    """Enqueue the mining of rows of `shortest` to `longest` anchors, on the current device."""
    num_samples, beyond = mined.counts.shape[1], -1
    for threads, keys in short_rows.MAX_KEYS.items():
        most = threads * keys[rows.loss.dtype.itemsize]
        if num_samples and longest > beyond and shortest <= most:
            enqueue_short(rows, rule, mined, library.stream, threads=threads, longest=min(longest, most))
        beyond = most
    if num_samples and longest > beyond:
        enqueue_long(rows, rule, mined, library, shortest=beyond + 1, longest=longest)
