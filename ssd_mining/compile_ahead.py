"""Compile ahead: `warmup`."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ssd_mining.analysis.one_pass import Analyser
from ssd_mining.classification import Sigmoid, Softmax
from ssd_mining.engine.lazy_losses import gradients, losses
from ssd_mining.engine.run import call_of, mine_batch
from ssd_mining.engine.threads import threads_can_start
from ssd_mining.inputs.batch import check_losses
from ssd_mining.inputs.logits import check_logits
from ssd_mining.matching.match import match_anchors
from ssd_mining.mining_rule import Mining


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

    Returns
    -------
    Warmup
        How many functions were compiled and loaded, and how long it took.

    Raises
    ------
    TypeError
        If a dtype is unknown, or losses, labels or logits cannot have it.

    Notes
    -----
    Call it in the parent before it forks workers. A child that is forked while another thread of its parent compiles
    hangs as soon as it has to compile itself. This function runs no kernel on several threads, so it starts no OpenMP
    pool, which forked children could not use.

    If Numba has one thread only, or its threads cannot be started, the functions for several threads are left out.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> first = sm.warmup(loss_dtypes=["float32"], label_dtypes=["int64"])
    >>> again = sm.warmup(loss_dtypes=["float32"], label_dtypes=["int64"])
    >>> again.compiled, again.loaded
    (0, 0)
    """
    start = time.perf_counter()
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
    if _has_threads():
        jit.compile_parallel()
    after = jit.counts()
    return Warmup(
        compiled=after.compiled - before.compiled,
        loaded=after.loaded - before.loaded,
        seconds=time.perf_counter() - start,
    )


def _has_threads() -> bool:
    """Say whether Numba can have several threads in this process, now or later."""
    numba: Any = importlib.import_module("numba")
    most = numba.config.NUMBA_NUM_THREADS
    if most == 1 or not threads_can_start(most):
        return False
    try:
        numba.get_num_threads()  # chooses the threading layer
    except ValueError:  # the layer that the user wants is not installed
        return False
    return True
