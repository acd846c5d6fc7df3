"""Compile ahead: `warmup`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from ssd_mining.analysis.one_pass import Analyser
from ssd_mining.checks import check_choice, check_int, refuse
from ssd_mining.classification import Focal, Sigmoid, Softmax
from ssd_mining.engine.lazy_losses import gradients, losses
from ssd_mining.engine.run import call_of, mine_batch
from ssd_mining.inputs.batch import check_losses
from ssd_mining.inputs.logits import check_logits
from ssd_mining.losses import confidence_loss
from ssd_mining.matching.match import match_anchors
from ssd_mining.mining import mine_hard_negatives
from ssd_mining.mining_rule import Mining
from ssd_mining.multibox import multibox_loss


@dataclass(frozen=True)
class Warmup:
    """What `warmup` did.

    Attributes
    ----------
    compiled, loaded : int
        How many functions it compiled, and how many it loaded from the cache. Both are 0 if nothing was missing.
    seconds : float
        How long it took.
    """

    compiled: int
    loaded: int
    seconds: float


def warmup(
    *,
    loss_dtypes: Iterable[DTypeLike] = ("float32", "float64"),
    label_dtypes: Iterable[DTypeLike] = ("uint8", "uint16", "uint32", "uint64"),
    score_dtypes: Iterable[DTypeLike] = ("float32",),
    logit_dtypes: Iterable[DTypeLike] = (),
    analysis: bool = False,
    matching: bool = False,
    backend: Literal["cpu", "cuda"] = "cpu",
    num_anchors: int = 8732,
) -> Warmup:
    """Compile what later calls need, or load it from the cache, so that they do not have to wait.

    There is one function for each size of losses and of labels, once for one thread and once for several. Layout, byte
    order, signedness and flags of the arrays make no difference.

    Parameters
    ----------
    loss_dtypes : iterable of dtype
        Dtypes of ``conf_loss``. Losses of other dtypes are computed as float32 or float64.
    label_dtypes : iterable of dtype
        Dtypes of ``labels``: integers or bool. Only their size counts. One-hot labels, and labels with ``valid``, have
        the size of bool, 1.
    score_dtypes : iterable of dtype
        Dtypes of one-hot labels, which a function of its own reads first. Only their size counts.
    logit_dtypes : iterable of dtype
        Dtypes of ``logits``, for losses and gradients; most detectors need ``["float32"]``. None by default, because
        they double the time.
    analysis : bool
        Also compile what `LossAnalysis`, `ratio_sweep` and the tables need.
    matching : bool
        Also compile what `match_anchors` needs, for float32 and float64.
    backend : {"cpu", "cuda"}
        Where the calls will run. ``"cuda"`` compiles for the current GPU, which then runs each kernel once: mining and,
        with `logit_dtypes`, losses and gradients of at most 47 classes.
    num_anchors : int
        For ``"cuda"`` alone: how many anchors a sample will have. There is a kernel for each thousand.

    Returns
    -------
    Warmup
        How many functions were compiled and loaded, and how long it took.

    Raises
    ------
    TypeError
        If a dtype is unknown, or losses, labels or logits cannot have it.
    ValueError
        If `backend` or `num_anchors` has a wrong value, or `analysis` or `matching` is asked of ``"cuda"``.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.

    Notes
    -----
    Call it in the parent before it forks workers. A child that is forked while another thread of its parent compiles
    hangs as soon as it has to compile itself.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> first = sm.warmup(loss_dtypes=["float32"], label_dtypes=["int64"])
    >>> again = sm.warmup(loss_dtypes=["float32"], label_dtypes=["int64"])
    >>> again.compiled, again.loaded
    (0, 0)
    """
    start = time.perf_counter()
    if check_choice("backend", backend, ("cpu", "cuda")) == "cuda":
        for name, asked in (("analysis", analysis), ("matching", matching)):
            if asked:
                refuse(name, "False with backend='cuda', which has no such kernels", f"{asked!r}")
        compiled, loaded = _compile_for_gpu(loss_dtypes, label_dtypes, logit_dtypes, num_anchors)
    else:
        dtypes = loss_dtypes, label_dtypes, score_dtypes, logit_dtypes
        compiled, loaded = _compile_for_cpu(*dtypes, analysis=analysis, matching=matching)
    return Warmup(compiled=compiled, loaded=loaded, seconds=time.perf_counter() - start)


def _compile_for_cpu(
    loss_dtypes: Iterable[DTypeLike],
    label_dtypes: Iterable[DTypeLike],
    score_dtypes: Iterable[DTypeLike],
    logit_dtypes: Iterable[DTypeLike],
    *,
    analysis: bool,
    matching: bool,
) -> tuple[int, int]:
    """Return how many functions were compiled, and how many loaded."""
    call = call_of("cpu", 1)  # loads Numba
    from ssd_mining.kernels.cpu import jit

    labels = [np.zeros((1, 64), dtype) for dtype in label_dtypes]
    batches = [
        check_losses(loss, array, Mining(background=None if array.dtype == np.bool_ else 0))
        for loss in [np.zeros((1, 64), dtype) for dtype in loss_dtypes]
        for array in labels
    ]
    scores = [np.zeros((64, 1), dtype) for dtype in score_dtypes]
    for array in scores:
        check_losses(np.zeros((1, 64)), array[None], Mining())
    lazy = [
        check_logits(logits, np.zeros((1, 64), np.int64), classification)
        for logits in [np.zeros((1, 64, 2), dtype) for dtype in logit_dtypes]
        for classification in (Softmax(), Sigmoid())  # a focal loss runs the code of the sigmoid
    ]
    before = jit.counts()  # all is checked: now compile
    for batch in batches:
        mine_batch(batch, call, masks=True)
        if analysis:
            Analyser((1.0,), None, call).analyse(batch)
    for array in scores:
        call.one_hot_roles(array, 0, 0)
    for checked in lazy:
        losses(checked, call)
        gradients(checked, np.zeros(1, np.int64), np.ones(1), call)
    for boxes in [np.ones((1, 1, 4), dtype) for dtype in ("float32", "float64") if matching]:
        match_anchors(boxes, [[1]], boxes[0], num_threads=1)
    after = jit.counts()
    return after.compiled - before.compiled, after.loaded - before.loaded


def _compile_for_gpu(
    loss_dtypes: Iterable[DTypeLike],
    label_dtypes: Iterable[DTypeLike],
    logit_dtypes: Iterable[DTypeLike],
    num_anchors: int,
) -> tuple[int, int]:
    """Return how many kernels were compiled for the current GPU, and how many loaded."""
    num_anchors = check_int("num_anchors", num_anchors, lowest=1)
    call_of("cuda", 1)  # raises if something is missing
    from ssd_mining.kernels.cuda import cubins
    from ssd_mining.kernels.cuda.runtime import numba_library

    library = numba_library()

    def zeros(*shape: int, dtype: DTypeLike) -> Any:
        with library.current():
            return library.upload(np.zeros(shape, dtype)).owner

    before = cubins.counts()
    labels = [zeros(1, num_anchors, dtype=dtype) for dtype in label_dtypes]
    for loss, each in itertools.product([zeros(1, num_anchors, dtype=dtype) for dtype in loss_dtypes], labels):
        background = None if each.dtype == np.bool_ else 0
        confidence_loss(loss, each, background=background)
        mine_hard_negatives(loss, each, background=background)
    for dtype in logit_dtypes:
        logits, boxes = zeros(1, num_anchors, 2, dtype=dtype), zeros(1, num_anchors, 4, dtype=dtype)
        for each in labels:
            multibox_loss(logits, each, boxes, boxes, background=0, with_gradients=True)
            multibox_loss(logits, each, boxes, boxes, background=0, classification=Focal(), with_gradients=True)
    after = cubins.counts()
    return after[0] - before[0], after[1] - before[1]
