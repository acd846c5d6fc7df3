"""Mine and analyse Dask arrays chunk by chunk, on the scheduler or cluster that the user has chosen.

A chunk holds whole samples. The functions compute nothing and start no cluster: each returns a graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from ssd_mining.analysis.loss_analysis import RATIOS, LossAnalysis
from ssd_mining.analysis.spec import check_by_sample
from ssd_mining.checks import install_command, refuse
from ssd_mining.classification import Classification
from ssd_mining.engine.run import Backend
from ssd_mining.mining import MiningResult, mine_logits
from ssd_mining.mining import mine_hard_negatives as mine_losses
from ssd_mining.mining_rule import Extras, Mining, Selection, named_keywords, resolve

MERGED_AT_ONCE = 8


class DaskMining(NamedTuple):
    """The result of `mine_hard_negatives` as Dask arrays; see `MiningResult`."""

    hard_negative_mask: Any  # (B, A) bool
    pos_mask: Any  # (B, A) bool
    num_pos: Any  # (B,) int64
    num_neg: Any  # (B,) int64
    num_kept: Any  # (B,) int64
    positive_sum: Any  # (B,) float64
    negative_sum: Any  # (B,) float64
    threshold: Any  # (B,) float64


_DTYPES = (np.bool_, np.bool_, np.int64, np.int64, np.int64, np.float64, np.float64, np.float64)


@named_keywords(Mining)
def mine_hard_negatives(
    values: Any,
    labels: Any,
    *,
    classification: Classification | None = None,
    mining: Mining | None = None,
    backend: Backend | None = None,
    **selection: Unpack[Selection],
) -> DaskMining:
    """Keep the hardest negatives of every sample, chunk by chunk, through ``dask.array.apply_gufunc``.

    Parameters
    ----------
    values : dask array, (B, A) losses or (B, A, C) logits
        As `ssd_mining.mine_hard_negatives` takes them, or, with a `classification`, as `ssd_mining.mine_logits` does.
    labels : dask array, (B, A) or (B, A, C)
        Labels in any form that these functions take. Their chunks of samples may differ from those of `values`.
    classification : Softmax, Sigmoid or Focal, optional
        The loss of the logits. None: the values are losses.
    mining : Mining, optional
        The selection rule as one value, instead of keywords.
    backend
        As in `ssd_mining.mine_hard_negatives`.
    **selection
        The fields of `Mining`, except a `scope` or a `pool_size` that looks beyond one sample.

    Returns
    -------
    DaskMining
        A tuple of Dask arrays.

    Raises
    ------
    TypeError
        If an argument is not a Dask array, or has a wrong type.
    ValueError
        If the anchors of a sample, or their classes, are spread over chunks, or shapes or settings are wrong. Wrong
        values are raised when they are computed; the message counts samples within their chunk.

    Notes
    -----
    The core dimensions of the arrays come last, so ``xarray.apply_ufunc`` can call it, with ``dask="allowed"``.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> losses = da.from_array(np.array([[9.0, 0.1, 0.3], [1.0, 0.2, 0.5]]), chunks=(1, 3))
    >>> labels = da.from_array(np.array([[1, 0, 0], [0, 0, 0]]))
    >>> mined = mine_hard_negatives(losses, labels, background=0, neg_pos_ratio=1)
    >>> mined.hard_negative_mask.compute()
    array([[False, False,  True],
           [False, False, False]])
    """
    spec, extras = resolve(mining, selection)
    labels = _checked(values, labels, classification, spec, extras)
    core = "(a),(a)" if values.ndim == 2 else "(a,c),(a)"
    if labels.ndim == 3:
        core = core[:-1] + (",d)" if values.ndim == 2 else ",c)")
    outputs = ",".join(["(a)"] * 2 + ["()"] * 6)
    settings = {"classification": classification, "mining": spec, "backend": backend}
    arrays = _dask_array().apply_gufunc(
        _mine_chunk, f"{core}->{outputs}", values, labels, output_dtypes=_DTYPES, **settings
    )
    return DaskMining(*arrays)


def _mine_chunk(
    values: Any, labels: Any, *, classification: Classification | None, mining: Mining, backend: Backend | None
) -> tuple[Any, ...]:
    mined: MiningResult
    if classification is None:
        mined = mine_losses(values, labels, mining=mining, backend=backend)
    else:
        mined = mine_logits(values, labels, classification=classification, mining=mining, backend=backend)
    return tuple(getattr(mined, name) for name in DaskMining._fields)


@named_keywords(Mining)
def analyse(
    values: Any,
    labels: Any,
    *,
    ratios: Sequence[float] = RATIOS,
    levels: Sequence[int] | None = None,
    top: int = 50,
    classification: Classification | None = None,
    mining: Mining | None = None,
    backend: Backend | None = None,
    **selection: Unpack[Selection],
) -> Any:
    """Analyse every chunk of samples, and merge the analyses in a tree.

    Parameters
    ----------
    values, labels : dask array
        As in `mine_hard_negatives`.
    ratios, levels, top, classification, mining, backend, **selection
        As in `ssd_mining.LossAnalysis`.

    Returns
    -------
    dask.delayed.Delayed
        A `ssd_mining.LossAnalysis` of all samples: the same, bit for bit, as of arrays in memory.

    Raises
    ------
    TypeError
        If an argument is not a Dask array, or has a wrong type.
    ValueError
        As in `mine_hard_negatives`.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> losses = da.from_array(np.array([[9.0, 0.1, 0.3], [1.0, 0.2, 0.5]]), chunks=(1, 3))
    >>> labels = da.from_array(np.array([[1, 0, 0], [0, 0, 0]]))
    >>> analyse(losses, labels, background=0).compute().result().loss
    4.7
    """
    from dask import delayed

    spec, extras = resolve(mining, selection)
    labels = _checked(values, labels, classification, spec, extras)
    chosen = {"classification": classification, "mining": spec, "backend": backend}
    empty = LossAnalysis(ratios=ratios, levels=levels, top=top, **chosen)  # type: ignore[arg-type]
    firsts = np.cumsum((0, *values.chunks[0]))[:-1].tolist()
    chunks = (array.to_delayed().reshape(-1) for array in (values, labels))
    level = [
        delayed(_analyse_chunk, pure=True)(empty, *pair, first) for first, *pair in zip(firsts, *chunks, strict=True)
    ]
    while len(level) != 1:
        groups = [level[i : i + MERGED_AT_ONCE] for i in range(0, len(level), MERGED_AT_ONCE)]
        level = [delayed(_merged, pure=True)(empty, group) for group in groups or [[]]]
    return level[0]


def _analyse_chunk(empty: LossAnalysis, values: Any, labels: Any, first: int) -> LossAnalysis:
    analysis = empty.empty()
    analysis.update(values, labels, first_sample=first)
    return analysis


def _merged(empty: LossAnalysis, analyses: Sequence[LossAnalysis]) -> LossAnalysis:
    """Merge analyses into a new one: a task must not change its inputs, because it may run again."""
    whole = empty.empty()
    for analysis in analyses:
        whole.merge(analysis)
    return whole


def _checked(values: Any, labels: Any, classification: Classification | None, mining: Mining, extras: Extras) -> Any:
    """Check Dask arrays without computing them. Return the labels in the chunks of the values."""
    for name in extras.given:
        refuse(name, "none for Dask arrays", "one", TypeError)
    check_by_sample(mining)
    for name, array in (("values", values), ("labels", labels)):
        if not isinstance(array, _dask_array().Array):
            refuse(name, "a Dask array", type(array).__name__, TypeError)
        if any(len(chunks) > 1 for chunks in array.chunks[1:]):
            got = f"{array.numblocks[1:]} chunks along the other axes"
            advice = f"pass {name}.rechunk({{{', '.join(f'{axis}: -1' for axis in range(1, array.ndim))}}})"
            refuse(name, "chunks of whole samples", f"{got}; {advice}")
    if values.ndim != (2 if classification is None else 3):
        expected = "(B, A) losses" if classification is None else "(B, A, C) logits"
        refuse("values", f"an array of {expected}", f"shape {values.shape}")
    if any(math.isnan(size) for size in (*values.shape, *labels.shape)):
        got = "chunks of unknown sizes, as a selection by a mask makes them"
        refuse("values", "chunks of known sizes", got, hint="call compute_chunk_sizes() on values and labels")
    if labels.ndim not in (2, 3) or labels.shape[:2] != values.shape[:2]:
        refuse("labels", f"labels of {values.shape[:2]} anchors", f"shape {labels.shape}")
    return labels.rechunk({0: values.chunks[0]})


def _dask_array() -> Any:
    try:
        import dask.array
    except ImportError as error:
        msg = f"dask: expected to be installed, got none; {install_command('dask')}"
        raise ImportError(msg) from error
    return dask.array
