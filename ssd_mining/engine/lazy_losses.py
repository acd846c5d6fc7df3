"""The losses of a batch of logits, block by block: `LogitLosses`, an array of (B, A) that is computed as it is read.

A miner asks for the losses of a few samples at a time, so that the losses of a whole batch need never exist. What is
wrong with shapes and types is raised by `check_logits`; what is wrong with labels, when their block is read.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.classification import Classification, Sigmoid, Softmax
from ssd_mining.engine import run as _backends
from ssd_mining.engine.run import Backend
from ssd_mining.inputs import batch as _batch
from ssd_mining.inputs.arrays import INT64, kernel_dtype, native, read_only
from ssd_mining.inputs.labels import Roles, check_rows, check_targets
from ssd_mining.kernels.records import Computed, LogitRows, SoftmaxRule

# How many times larger a block of logits may be of which no copy is made: Ctrl-C still arrives in some 10 ms.
VIEWED = 8

RankKind = Literal["background", "foreground_max"]


@dataclass(frozen=True, eq=False)
class LogitLosses:
    """The losses (B, A) of checked logits: ``losses[first:last]`` computes those of some samples."""

    logits: NDArray[Any]  # (B, A, C) a view of the caller's, in its own dtype and layout
    labels: NDArray[Any]  # (B, A) integer, or (B, A, C) scores, likewise
    classification: Classification
    background: int | None  # 0 to C; C, of a sigmoid head: a class without a logit
    ignore_index: int | None
    valid: NDArray[np.bool_] | None  # (B, A)
    backend: Backend | None
    num_threads: int | None
    ranked: RankKind | None = None  # the values are these ranks, not losses
    offsets: NDArray[np.int64] | None = None  # (B + 1,) of a ragged batch, whose anchors are those of one sample here
    first_anchor: int = 0  # of a ragged batch

    name = "logits"
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Return (B, A)."""
        return self.logits.shape[0], self.logits.shape[1]

    @property
    def size(self) -> int:
        """Return B times A."""
        return self.shape[0] * self.shape[1]

    @property
    def num_classes(self) -> int:
        """Return C."""
        return int(self.logits.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return what the losses are computed in: float64 from float64 logits, else float32."""
        return kernel_dtype(self.logits.dtype)

    def __getitem__(self, samples: slice) -> NDArray[Any]:
        """Compute the losses of some samples, or their ranks: a fresh array, (b, A)."""
        start, stop, _ = samples.indices(self.shape[0])
        losses = Computed(np.empty((max(0, stop - start), self.shape[1]), self.dtype), _not_done(start, stop))
        for block in self._blocks(start, stop):
            part = slice(block.start - start, block.stop - start)
            self._compute(block, Computed(losses.values[part], losses.done[part]))
        return losses.values

    def ranks(self, kind: RankKind, background: int) -> "LogitLosses":
        """Return what negatives can be ranked by instead of their losses, computed as it is read.

        ``"background"``: the loss that an anchor has as background, unweighted, for a softmax ``-log(p)``.
        ``"foreground_max"``: the logarithm of the largest probability among all other classes.
        """
        background = normalized_background(background, self.num_classes, self.classification)
        plain: Classification = Softmax() if isinstance(self.classification, Softmax) else Sigmoid()
        return dataclasses.replace(self, classification=plain, background=background, ranked=kind)

    def gradients(self, samples: slice, factors: NDArray[np.float64]) -> NDArray[Any]:
        """Compute ``factor * d loss / d logits`` of some samples, (b, A, C), where `factors` (b, A) are not 0."""
        start, stop, _ = samples.indices(self.shape[0])
        gradients = np.zeros((max(0, stop - start), *self.logits.shape[1:]), self.dtype)
        done = _not_done(start, stop)
        for block in self._blocks(start, stop):
            part = slice(block.start - start, block.stop - start)
            self._differentiate(block, read_only(factors[part]), Computed(gradients[part], done[part]))
        return gradients

    def _blocks(self, start: int, stop: int) -> Iterator[slice]:
        """Yield slices of at most `BLOCK_ELEMENTS` logits, but for a single sample; of more where none is copied."""
        as_it_lies = self.logits.dtype == self.dtype and self.logits.flags.c_contiguous and self.labels.ndim == 2
        most = _batch.BLOCK_ELEMENTS * (VIEWED if as_it_lies else 1)
        step = max(1, most // max(1, math.prod(self.logits.shape[1:])))
        for first in range(start, stop, step):
            yield slice(first, min(first + step, stop))

    def _compute(self, block: slice, losses: Computed) -> None:
        twin, rule, rows = _backends.load_logits(self.backend), self.classification.rule, self._rows(block)
        if self.ranked == "foreground_max":
            rule = rule._replace(besides=cast("int", self.background))
        if isinstance(rule, SoftmaxRule):
            twin.softmax_losses(rows, rule, losses, self._num_workers(rows))
        else:
            twin.sigmoid_losses(rows, rule, losses, self._num_workers(rows))
        _check_done(block, losses)
        if losses.done.min(initial=1) < 0:
            self._check_classes(block)
        if self.ranked == "foreground_max":
            np.negative(losses.values, out=losses.values)

    def _differentiate(self, block: slice, factors: NDArray[np.float64], gradients: Computed) -> None:
        twin, rule, rows = _backends.load_logits(self.backend), self.classification.rule, self._rows(block)
        if isinstance(rule, SoftmaxRule):
            twin.softmax_gradients(rows, rule, factors, gradients, self._num_workers(rows))
        else:
            twin.sigmoid_gradients(rows, rule, factors, gradients, self._num_workers(rows))
        _check_done(block, gradients)

    def _num_workers(self, rows: LogitRows) -> int:
        return _backends.workers_for(rows.logits.size, _backends.PARALLEL_LOGITS, self.backend, self.num_threads)

    def _rows(self, block: slice) -> LogitRows:
        """Return the rows of one block as a twin takes them; the logits are a view where that is possible."""
        logits = native(self.logits[block], self.dtype)
        weights = getattr(self.classification, "class_weights", None) or (1.0,) * self.num_classes
        labels, scores = self._targets(block)
        return LogitRows(logits, labels, scores, read_only(np.array(weights, self.dtype)))

    def _targets(self, block: slice) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return labels as int64, -1 where an anchor is ignored, and the scores where there are any."""
        valid = None if self.valid is None else self.valid[block]
        no_scores = read_only(np.empty((0, 0, 0), self.dtype))
        if self.ranked is not None:
            shape = (block.stop - block.start, self.shape[1])
            return read_only(np.full(shape, self.background, np.int64)), no_scores
        if self.labels.ndim == 3:
            scores = self.labels[block]
            per_sample, rows = self.shape[1], scores.reshape(-1, self.num_classes)
            roles = Roles(rows, None if valid is None else valid.reshape(-1), None)
            where = functools.partial(self._locate_row, block.start, per_sample)
            if isinstance(self.classification, Softmax):
                check_rows(roles, where, all_zero="positive")
            else:  # every class has a target of its own
                check_targets(roles, where)
            labels = np.zeros(scores.shape[:2], np.int64)
            if valid is not None:
                labels[~valid] = -1
            return read_only(labels), native(scores, self.dtype)
        return self._class_numbers(self.labels[block], valid), no_scores

    def _locate_row(self, first_sample: int, per_sample: int, row: int) -> str:
        return self._locate(first_sample + row // per_sample, row % per_sample)

    def _locate(self, sample: int, anchor: int) -> str:
        if self.offsets is None:
            return f"(sample {sample}, anchor {anchor})"
        return _batch.locate(self.offsets, 0, self.first_anchor + anchor)

    def _class_numbers(self, labels: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Return labels as a twin takes them; it tells where one is no class, and `_check_classes` judges."""
        if valid is None and self.ignore_index is None:
            return native(labels, INT64)
        return read_only(np.where(self._are_ignored(labels, valid), -1, labels.astype(np.int64)))

    def _are_ignored(self, labels: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        ignored = np.zeros(labels.shape, np.bool_) if valid is None else ~valid
        if self.ignore_index is not None:
            ignored |= labels == self.ignore_index
        return ignored

    def _check_classes(self, block: slice) -> None:
        """Refuse labels that are neither classes nor ignored."""
        if self.labels.ndim == 3 or self.ranked is not None:
            return
        labels, valid = self.labels[block], None if self.valid is None else self.valid[block]
        known = self.num_classes + (self.background == self.num_classes)
        bad = ((labels < 0) | (labels >= known)) & ~self._are_ignored(labels, valid)
        if not bad.any():
            return
        sample, anchor = (int(i) for i in np.argwhere(bad)[0])
        expected = f"class numbers from 0 to {known - 1}"
        if self.ignore_index is not None:
            expected += f" or ignore_index ({self.ignore_index})"
        hint = "" if self.ignore_index is not None else "; name the label of ignored anchors in ignore_index"
        got = f"{labels[sample, anchor]} at {self._locate(block.start + sample, anchor)}{hint}"
        refuse("labels", expected, got)


@dataclass(frozen=True, eq=False)
class RaggedLosses:
    """The losses (N,) of a ragged batch: ``losses[first:last]`` computes those of some anchors."""

    whole: LogitLosses  # (1, N)

    name = "logits"
    ndim = 1

    @property
    def shape(self) -> tuple[int]:
        """Return (N,)."""
        return (self.whole.shape[1],)

    @property
    def size(self) -> int:
        """Return N."""
        return self.whole.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return what the losses are computed in."""
        return self.whole.dtype

    def __getitem__(self, anchors: slice) -> NDArray[Any]:
        """Compute the losses of some anchors, or their ranks: a fresh array, (n,)."""
        valid = None if self.whole.valid is None else self.whole.valid[:, anchors]
        part = dataclasses.replace(
            self.whole,
            logits=self.whole.logits[:, anchors],
            labels=self.whole.labels[:, anchors],
            valid=valid,
            first_anchor=anchors.start,
        )
        return part[0:1].reshape(-1)

    def ranks(self, kind: RankKind, background: int) -> "RaggedLosses":
        """Return what negatives can be ranked by instead of their losses."""
        return RaggedLosses(self.whole.ranks(kind, background))


def normalized_background(background: int, num_classes: int, classification: Classification) -> int:
    """Return the background class as a number from 0; -1 is the last class; C, for sigmoid heads, is none of them."""
    check_class("background", background)
    last = num_classes - isinstance(classification, Softmax)
    if not -num_classes <= background <= last:
        refuse("background", f"a class of logits, {-num_classes} to {last}", f"{background}")
    return background + num_classes if background < 0 else background


def check_class(name: str, value: Any) -> None:
    """Refuse a class that is no whole number."""
    if value is not None and (isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer)):
        refuse(name, "a whole number or None", f"{value!r}", TypeError)


def _not_done(start: int, stop: int) -> NDArray[np.int64]:
    return np.zeros(max(0, stop - start), np.int64)


def _check_done(block: slice, computed: Computed) -> None:
    if np.count_nonzero(computed.done) < computed.done.size:
        msg = f"sample {block.start + int(np.argmin(computed.done))} was not computed: a worker thread was lost"
        raise RuntimeError(msg)
