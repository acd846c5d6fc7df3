"""Pick the twin that computes, and run it over the blocks of a batch: the one loop of the engine."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.engine import lazy_losses, multi_pass, threads
from ssd_mining.engine.announcement import announce_compilation
from ssd_mining.engine.hazards import warn_of_hazards
from ssd_mining.inputs.arrays import INT64
from ssd_mining.inputs.batch import Batch
from ssd_mining.kernels import records
from ssd_mining.kernels.loss_rules import loss_divisors, normalized_loss
from ssd_mining.kernels.records import Divisor, Mined, Rows
from ssd_mining.mining_rule import Mining, Rng

Backend = Literal["cpu", "cuda", "reference"]
Columns = dict[str, NDArray[Any]]  # per sample, of equal length

# Another thread needs so many anchors to save more than it costs to call it (docs/performance.md).
ANCHORS_EACH = 250_000


_NO_MASK = np.empty(0, np.bool_)


class Call(NamedTuple):
    """Where a call computes: the twin, and how many threads it may use."""

    twin: Any  # kernels.cpu, kernels.cuda or kernels.reference
    is_cpu: bool
    num_threads: int | None

    def workers(self, most: int) -> int:
        """Return how many threads a pass may use, `most` at most, and 1 where more would not help."""
        return min(most, threads.num_workers(self.num_threads)) if most > 1 else 1

    def one_hot_roles(
        self, scores: NDArray[Any], column: int, role_of_empty: int
    ) -> tuple[NDArray[np.uint8], int] | None:
        """Read one-hot labels by a kernel, if there is one that can; see `inputs.labels.OneHotRoles`."""
        if not self.is_cpu:
            return None
        workers = self.workers(scores.size // lazy_losses.LOGITS_EACH)
        return self.twin.one_hot_roles(scores, column, role_of_empty, workers)  # type: ignore[no-any-return]


def call_of(backend: Backend | None, num_threads: int | None) -> Call:
    """Return where to compute NumPy arrays: on the CPU unless `backend` says otherwise."""
    try:
        return _remembered(backend, num_threads)
    except TypeError:  # an argument that cannot be hashed: the check refuses it
        return _resolved(backend, num_threads)


def _resolved(backend: Any, num_threads: Any) -> Call:
    num_threads = threads.check_threads(num_threads)
    return Call(_twin(backend), backend in (None, "cpu"), num_threads)


_remembered = functools.lru_cache(maxsize=64, typed=True)(_resolved)  # errors are not kept


def _twin(backend: Any) -> Any:
    # Each import is a statement, so that tools that freeze programs find it.
    if backend in (None, "cpu"):
        from ssd_mining.kernels import cpu

        announce_compilation()
        return cpu
    if backend == "cuda":
        from ssd_mining.kernels import cuda
        from ssd_mining.kernels.cuda import runtime

        runtime.check()
        return cuda
    if backend != "reference":
        refuse("backend", "'cpu', 'cuda', 'reference' or None", f"{backend!r}")
    from ssd_mining.kernels import reference

    return reference


class Block(NamedTuple):
    """Some samples of a batch: their rows, and the record that their results are written to."""

    samples: slice
    rows: Rows
    mined: Mined


def mine_batch(batch: Batch, call: Call, *, masks: bool) -> Mined:
    """Mine a checked batch. Raise if it has bad values; warn of hazards."""
    mined = empty_mined(batch.offsets.size - 1, int(batch.offsets[-1]) if masks else 0)
    for block in blocks(batch, call, mined, may_be_large=True):
        mine_rows(block.rows, batch.mining, block.mined, call, batch.rng)
    if batch.num_empty or not np.count_nonzero(mined.counts[records.NUM_NEG]):
        warn_of_hazards(batch, mined.counts[records.NUM_POS], mined.counts[records.NUM_NEG])
    return mined


def blocks(batch: Batch, call: Call, mined: Mined, *, may_be_large: bool = False) -> Iterator[Block]:
    """Yield the blocks of a batch. The caller mines a block before it asks for the next one.

    Then the counts of the kernel are checked, and the first bad value is raised.
    """
    is_lazy = batch.logits is not None
    for samples in batch.blocks(may_be_large=may_be_large):
        loss, rank = lazy_losses.block_losses(batch, samples, call) if is_lazy else (None, None)
        rows = batch.rows(samples, loss, rank, call.one_hot_roles)
        # Most batches are one block. In a call of a single sample, every view saved counts.
        whole = samples.stop - samples.start == batch.offsets.size - 1
        part = mined if whole else _part(mined, samples, batch.anchors(samples))
        yield Block(samples, rows, part)
        if part.counts[records.NUM_NAN :].tobytes() != _clean(rows.offsets.size - 1):
            done = part.counts[records.DONE]
            if np.count_nonzero(done) < done.size:
                msg = f"sample {samples.start + int(np.argmin(done))} was not mined: a worker thread was lost"
                raise RuntimeError(msg)
            batch.refuse_values(samples, rows, part)
        if not whole:
            mined.counts[:, samples], mined.sums[:, samples] = part.counts, part.sums


@functools.lru_cache(maxsize=16)
def _clean(num_samples: int) -> bytes:
    """Return the counts NUM_NAN, NUM_BAD and DONE of samples without NaN and bad labels that are mined."""
    return np.repeat([0, 0, 1], num_samples).astype(INT64).tobytes()


def mine_rows(rows: Rows, mining: Mining, mined: Mined, call: Call, rng: Rng | None = None) -> None:
    """Mine rows by any `Mining`, in one pass or in several."""
    size = rows.loss.size
    workers = 1 if size < 2 * ANCHORS_EACH else call.workers(size // ANCHORS_EACH)
    if mining.is_plain:
        call.twin.mine(rows, mining.rule, mined, workers)
    else:
        multi_pass.mine_in_passes(rows, mining, mined, functools.partial(call.twin.mine, num_workers=workers), rng)


def sample_columns(mined: Mined) -> Columns:
    """Return the public columns of a `Mined`: an array (b,) for each name."""
    counts, sums = mined.counts, mined.sums
    return {
        "num_pos": counts[records.NUM_POS],
        "num_neg": counts[records.NUM_NEG],
        "num_kept": counts[records.NUM_KEPT],
        "positive_sum": sums[records.POSITIVE_SUM],
        "negative_sum": sums[records.NEGATIVE_SUM],
        "threshold": sums[records.THRESHOLD],
    }


def sample_table(
    columns: Columns, loss: NDArray[np.float64], start: int = 0, ids: NDArray[Any] | None = None
) -> Columns:
    """Return all columns of some samples: their numbers from `start` on, their names, what mining says, the loss."""
    named = {} if ids is None else {"id": ids}
    said = dict(columns)
    threshold = said.pop("threshold")
    numbers = np.arange(start, start + loss.size)
    return {"sample": numbers, **named, **said, "confidence_loss": loss, "threshold": threshold}


def joined(blocks: Sequence[Columns]) -> Columns:
    """Return the columns of blocks that follow one another as one table."""
    columns = zip(*[block.values() for block in blocks], strict=True)
    return dict(zip(blocks[0], map(np.concatenate, columns), strict=True))


def sample_losses(positive_sum: NDArray[np.float64], negative_sum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the confidence losses of samples, before any division."""
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
        return positive_sum + negative_sum


def batch_losses(mined: Mined, by: Divisor) -> tuple[NDArray[np.float64], float | NDArray[np.float64], float]:
    """Return the confidence losses of the samples, what they are divided by, and the loss of the batch."""
    divisors = loss_divisors(mined.counts, by)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN
        per_sample = mined.sums[records.POSITIVE_SUM] + mined.sums[records.NEGATIVE_SUM]
        return per_sample, divisors, normalized_loss(per_sample, divisors)


def empty_mined(num_samples: int, num_masked: int) -> Mined:
    """Allocate the record that a kernel writes: for `num_samples` samples, with masks of `num_masked` anchors."""
    counts: NDArray[np.int64] = np.zeros((records.NUM_COUNTS, num_samples), INT64)
    sums: NDArray[np.float64] = np.empty((records.NUM_SUMS, num_samples))
    if not num_masked:
        return Mined(counts, sums, _NO_MASK, _NO_MASK)
    return Mined(counts, sums, np.empty(num_masked, np.bool_), np.empty(num_masked, np.bool_))


def _part(mined: Mined, samples: slice, anchors: slice) -> Mined:
    """Return a record for some samples: their part of the masks, and fresh, contiguous counts and sums."""
    own = empty_mined(samples.stop - samples.start, 0)
    return own._replace(pos_mask=mined.pos_mask[anchors], hard_negative_mask=mined.hard_negative_mask[anchors])
