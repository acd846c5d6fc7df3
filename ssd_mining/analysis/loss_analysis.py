"""Analyse a whole data set block by block: `LossAnalysis`. Analyses of shards can be merged."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.causes import check_beside, explain
from ssd_mining.analysis.one_pass import Analyser
from ssd_mining.analysis.result import AnalysisResult
from ssd_mining.analysis.spec import AnalysisSpec, analysis_call, check_ids, check_sequence, id_array
from ssd_mining.analysis.state import State, form_of
from ssd_mining.analysis.summary import summarised
from ssd_mining.checks import check_int, refuse, warn
from ssd_mining.classification import Classification
from ssd_mining.engine.run import Backend, Columns, sample_columns, sample_losses, sample_table
from ssd_mining.mining_rule import NO_EXTRAS, BatchKeywords, Mining, Selection, named_keywords, resolve

STATE_SCHEMA = 2
RATIOS = (1, 2, 3, 5, 10)


class LossAnalysis:
    """Analyse the losses of a data set of any size: counts, sums, distributions, tables, the worst samples and anchors.

    `update` adds a block of samples, `merge` adds another analysis. The result is the same, bit for bit, for blocks of
    any size in any order. The memory does not grow with the number of samples.

    Parameters
    ----------
    ratios : sequence of float
        Negatives per positive to compare; empty: no comparison.
    levels : sequence of int, optional
        Number of anchors of each feature map, for a table by level. They add up to A.
    top : int
        How many of the worst to list: samples by each cause, objects, kept negatives, false alarms.
    classification : Softmax, Sigmoid or Focal, optional
        The blocks are logits, and this computes their losses. None: the blocks are losses.
    class_axis : int
        The axis of C in logits; see `mine_logits`.
    beta : float
        Where the parabola of `smooth_l1` ends, for the localization loss.
    mining : Mining, optional
        The selection rule as one value, instead of keywords.
    backend, num_threads
        As in `mine_hard_negatives`.
    **selection
        The fields of `Mining`.

    Raises
    ------
    TypeError
        If an argument has a wrong type.
    ValueError
        If an argument has a wrong value. Also for a `scope` other than ``"sample"`` or a `pool_size` above 1: their
        results would depend on how the data set is split into blocks.

    Notes
    -----
    The sum of a sample is float64 in a fixed order; sums over samples are exact and rounded once. Quantiles come from
    a histogram and are within 0.4 % of the true loss.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> first, second = (sm.LossAnalysis(background=0) for _ in range(2))
    >>> _ = first.update([[9.0, 0.1, 0.3, 0.2, 0.4]], [[1, 0, 0, 0, 0]], first_sample=0)
    >>> _ = second.update([[1.0, 0.5, 0.25, 0.0, 0.0]], [[1, 0, 0, 0, 0]], first_sample=1)
    >>> res = second.merge(first).result()
    >>> res.num_samples, res.loss, res.top_samples.sample
    (2, 5.825, array([0, 1]))
    """

    @named_keywords(Mining)
    def __init__(
        self,
        *,
        ratios: Sequence[float] = RATIOS,
        levels: Sequence[int] | None = None,
        top: int = 50,
        classification: Classification | None = None,
        class_axis: int = -1,
        beta: float = 1.0,
        mining: Mining | None = None,
        backend: Backend | None = None,
        num_threads: int | None = None,
        **selection: Unpack[Selection],
    ) -> None:
        spec, extras = resolve(mining, selection)
        for name in extras.given:
            refuse(name, "it beside each block, in update", "it here", TypeError)
        self.spec = AnalysisSpec(
            mining=spec,
            ratios=check_sequence("ratios", ratios),
            levels=None if levels is None else check_sequence("levels", levels),
            top=top,
            classification=classification,
            class_axis=class_axis,
            beta=beta,
            backend=backend,
        )
        self.num_threads = num_threads
        self._begin(State(self.spec))

    def _begin(self, state: State) -> None:
        self.state = state
        self._warned: set[str] = set()  # hazards that were told
        self._call = analysis_call(self.spec.backend, self.num_threads)

    @functools.cached_property
    def _analyser(self) -> Analyser:  # what only merges and reports needs none
        return Analyser(self.spec.ratios, self.spec.levels, self._call)

    @named_keywords(Mining)
    def update(
        self,
        values: ArrayLike,
        labels: ArrayLike,
        *,
        first_sample: int | None = None,
        ids: Sequence[Any] | NDArray[Any] | None = None,
        matched: ArrayLike | None = None,
        loc_pred: ArrayLike | None = None,
        loc_target: ArrayLike | None = None,
        anchors: ArrayLike | None = None,
        **extras: Unpack[BatchKeywords],
    ) -> Columns:
        """Add a block of samples. Return the columns of these samples.

        If anything is wrong with the block, nothing of it is added.

        Parameters
        ----------
        values : array_like, (B, A) losses or (B, A, C) logits
            Losses as `mine_hard_negatives` takes them, or, with a `classification`, logits as `mine_logits` does.
        labels : array_like
            Labels in any form that these functions take.
        first_sample : int, optional
            Index of the first sample in the data set. Default: one more than the last sample seen.
        ids : sequence of str or int, (B,), optional
            Names of the samples.
        matched : array_like of int, (B, A), optional
            The number of the object of every positive, counted in its sample, as `match_anchors` returns it. Then
            what is said of objects is of all anchors of one together.
        loc_pred, loc_target : array_like, (B, A, 4), optional
            Predicted and target offsets, for the localization loss of the positives.
        anchors : array_like, (A, 4), optional
            Corners of the anchors, as in `match_anchors`: false alarms that overlap count once.
        **extras
            ``valid``, ``overlaps``, ``anchor_weights``, ``rank_by``, ``num_negatives``, ``sample_offsets``, as in
            `mine_hard_negatives`.

        Returns
        -------
        dict of str to ndarray, (B,)
            Columns: ``sample``; ``id`` if `ids` are given; ``num_pos``, ``num_neg``, ``num_kept``,
            ``positive_sum``, ``negative_sum``, ``confidence_loss``, ``threshold``; and the causes: ``unrecognised``,
            ``false_alarm``, ``num_false_alarms``, and, if locations are given, ``misplaced`` (docs/analysis.md).

        Raises
        ------
        TypeError
            If an argument has a wrong type; see `mine_hard_negatives` and `mine_logits`.
        ValueError
            If a shape or a value is wrong; see these functions. Also if a sample was seen before, two ids are equal,
            the labels have another form than before, or other arrays beside them, `levels` do not add up to A, or
            `ratios` meet ``num_negatives``.
        """
        given = resolve(self.spec.mining, extras)[1] if extras else NO_EXTRAS
        batch = self.spec.checked(values, labels, given)
        beside = check_beside(batch, matched=matched, loc_pred=loc_pred, loc_target=loc_target, anchors=anchors)
        for name, before, now in (
            ("labels", self.state.labels, form_of(batch)),
            ("matched, locations, anchors, overlaps", self.state.beside, beside.names),
        ):
            if before not in (None, now):
                refuse(name, f"{before}, as in the blocks before", now)
        num_samples, seen = batch.offsets.size - 1, self.state.seen
        start = seen.stop if first_sample is None else first_sample
        if first_sample is not None:
            start = check_int("first_sample", first_sample, lowest=0)
        names = None if ids is None else check_ids(ids, num_samples)
        again = seen.first_of(start, start + num_samples)
        if again is not None:
            refuse("first_sample", "samples that were not seen before", f"sample {again} again")
        mined, found = self._analyser.analyse(batch)
        try:
            told = explain(batch, beside, found, mined, self.spec.beta, self.state.listed_only)
            columns = sample_columns(mined)
            loss = sample_losses(columns["positive_sum"], columns["negative_sum"])
            self.state.add(
                batch, self._analyser, found, told, columns | told.columns | {"confidence_loss": loss},
                start=start, ids=None if names is None else np.array(names, object),
            )  # fmt: skip
        finally:
            self._analyser.clear()
        return sample_table(columns, loss, start, None if names is None else id_array(names)) | told.columns

    def merge(self, other: LossAnalysis) -> LossAnalysis:
        """Add the samples of another analysis to this one, and return this one. The other does not change.

        Raises
        ------
        TypeError
            If `other` is not a LossAnalysis.
        ValueError
            If the settings differ, a sample is in both, or the labels have another form.

        Notes
        -----
        A sample is identified by its index: the same image under two indices counts twice.
        """
        if not isinstance(other, LossAnalysis):
            refuse("other", "a LossAnalysis", type(other).__name__, TypeError)
        if other.spec != self.spec:
            mine, theirs = self.spec.to_dict(), other.spec.to_dict()
            name = next(name for name in mine if mine[name] != theirs[name])
            refuse("other", f"an analysis with the same settings, {name}={mine[name]!r}", f"{theirs[name]!r}")
        for start, stop in other.state.seen:
            again = self.state.seen.first_of(start, stop)
            if again is not None:
                refuse("other", "samples that are not in this one", f"sample {again} in both")
        for words, own, its in (
            ("of {}", self.state.labels, other.state.labels),
            ("with {} beside the labels", self.state.beside, other.state.beside),
        ):
            if None not in (own, its) and own != its:
                refuse("other", f"an analysis {words.format(own)}", f"one {words.format(its)}")
        self.state.merge(other.state)
        return self

    def result(self) -> AnalysisResult:
        """Return the result so far. More samples can be added afterwards.

        Returns
        -------
        AnalysisResult
            Counts, sums, distributions, tables, the worst samples by cause, the worst objects and anchors, and the
            hazards, each of which is also a `HazardWarning` the first time.
        """
        result = summarised(self.state)
        for hazard in result.hazards:
            if hazard not in self._warned:
                self._warned.add(hazard)
                warn(hazard)
        return result

    def to_state(self) -> dict[str, Any]:
        """Return the whole state of this analysis, ready for JSON. `from_state` turns it back into an analysis.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> state = sm.LossAnalysis(background=0).to_state()
        >>> sm.LossAnalysis.from_state(state).result().num_samples
        0
        """
        return {
            "schema": STATE_SCHEMA,
            "spec": self.spec.to_dict(),
            "summary": self.state.to_dict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, num_threads: int | None = None) -> LossAnalysis:
        """Return the analysis from the state that `to_state` returned.

        Raises
        ------
        ValueError
            If `state` is damaged, or from another version.
        """
        if not isinstance(state, Mapping) or state.get("schema") != STATE_SCHEMA:
            got = f"schema {state.get('schema')!r}" if isinstance(state, Mapping) else type(state).__name__
            refuse("state", f"what to_state returns, of schema {STATE_SCHEMA}", got)
        analysis = cls.__new__(cls)
        try:
            analysis.__setstate__({"state": state, "num_threads": num_threads})
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            msg = f"state: expected what to_state returns, got a damaged one: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        return analysis

    def empty(self) -> LossAnalysis:
        """Return an analysis with the same settings that has seen no samples."""
        analysis = LossAnalysis.__new__(LossAnalysis)
        analysis.spec, analysis.num_threads = self.spec, self.num_threads
        analysis._begin(State(self.spec))  # noqa: SLF001 - the same class
        return analysis

    def __repr__(self) -> str:
        """Show how many samples and anchors were seen, and the mean loss."""
        totals = self.state.totals
        seen = ", ".join(f"{totals[name].count_of():,} {name}" for name in ("samples", "positives", "negatives"))
        mean = totals["samples"].sum_of() / max(1, totals["samples"].count_of())
        return f"<LossAnalysis: {seen}, {totals['kept'].count_of():,} kept; mean loss {mean:.6g} nats>"

    def __getstate__(self) -> dict[str, Any]:  # the histograms are mostly zeros: to_state is small
        return {"state": self.to_state(), "num_threads": self.num_threads}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        state = pickled["state"]
        self.spec, self.num_threads = AnalysisSpec.from_dict(state["spec"]), pickled["num_threads"]
        self._begin(State.from_dict(self.spec, state["summary"]))
