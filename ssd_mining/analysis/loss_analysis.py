"""Analyse a whole data set block by block: `LossAnalysis`. Analyses of shards can be merged."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.one_pass import Analyser
from ssd_mining.analysis.result import AnalysisResult, ClassTable, LevelTable, RatioTable, TopAnchors, TopSamples
from ssd_mining.analysis.spec import AnalysisSpec, analysis_call, check_ids, check_sequence, id_array
from ssd_mining.analysis.state import POS_MASK, State, form_of
from ssd_mining.checks import check_int, refuse, warn
from ssd_mining.classification import Classification
from ssd_mining.engine.hazards import hazards_of
from ssd_mining.engine.run import Backend, Columns, sample_columns, sample_table
from ssd_mining.mining_rule import NO_EXTRAS, BatchKeywords, Mining, Selection, named_keywords, resolve

STATE_SCHEMA = 1
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
        How many of the worst samples, and of the worst anchors, to keep.
    classification : Softmax, Sigmoid or Focal, optional
        The blocks are logits, and this computes their losses. None: the blocks are losses.
    class_axis : int
        The axis of C in logits; see `mine_logits`.
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
        **extras
            ``valid``, ``overlaps``, ``anchor_weights``, ``rank_by``, ``num_negatives``, ``sample_offsets``, as in
            `mine_hard_negatives`.

        Returns
        -------
        dict of str to ndarray, (B,)
            Columns: ``sample``; ``id`` if `ids` are given; ``num_pos``, ``num_neg``, ``num_kept``,
            ``positive_sum``, ``negative_sum``, ``confidence_loss``, ``threshold``.

        Raises
        ------
        TypeError
            If an argument has a wrong type; see `mine_hard_negatives` and `mine_logits`.
        ValueError
            If a shape or a value is wrong; see these functions. Also if a sample was seen before, two ids are equal,
            the labels have another form than before, `levels` do not add up to A, or `ratios` meet
            ``num_negatives``.
        """
        given = resolve(self.spec.mining, extras)[1] if extras else NO_EXTRAS
        batch = self.spec.checked(values, labels, given)
        form = form_of(batch)
        if self.state.labels not in (None, form):
            refuse("labels", f"{self.state.labels}, as in the blocks before", form)
        num_samples, seen = batch.offsets.size - 1, self.state.seen
        start = seen.stop if first_sample is None else first_sample
        if first_sample is not None:
            start = check_int("first_sample", first_sample, lowest=0)
        names = None if ids is None else check_ids(ids, num_samples)
        again = seen.first_of(start, start + num_samples)
        if again is not None:
            refuse("first_sample", "samples that were not seen before", f"sample {again} again")
        mined, found = self._analyser.analyse(batch)
        columns = sample_columns(mined)
        loss = self.state.add(batch, columns, found, self._analyser, int(start), names)
        self._analyser.clear()
        return sample_table(columns, loss, start, None if names is None else id_array(names))

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
        if None not in (self.state.labels, other.state.labels) and self.state.labels != other.state.labels:
            refuse("other", f"an analysis of {self.state.labels}", f"one of {other.state.labels}")
        self.state.merge(other.state)
        return self

    def result(self) -> AnalysisResult:
        """Return the result so far. More samples can be added afterwards.

        Returns
        -------
        AnalysisResult
            Counts, sums, distributions, tables, the worst samples and anchors, and the hazards, each of which is
            also a `HazardWarning` the first time.
        """
        totals, num_samples = self.state.totals, self.state.totals["samples"].count_of()
        hazards = self._hazards()
        for hazard in hazards:
            if hazard not in self._warned:
                self._warned.add(hazard)
                warn(hazard)
        return AnalysisResult(
            spec=self.spec.to_dict(),
            num_samples=num_samples,
            num_anchors=totals["anchors"].count_of(),
            num_pos=totals["positives"].count_of(),
            num_neg=totals["negatives"].count_of(),
            num_kept=totals["kept"].count_of(),
            num_without_pos=totals["without positives"].count_of(),
            loss=totals["samples"].sum_of() / max(1, num_samples),
            loss_sum=totals["samples"].sum_of(),
            positive_sum=totals["positives"].sum_of(),
            negative_sum=totals["kept"].sum_of(),
            distributions={name: LossHistogram.of(counts) for name, counts in self.state.histograms.items()},
            ratio_sweep=self._ratio_table(num_samples),
            classes=self._class_table(),
            levels=self._level_table(),
            top_samples=self._top_samples(),
            top_anchors=self._top_anchors(),
            hazards=hazards,
        )

    def _hazards(self) -> tuple[str, ...]:
        if self.state.labels in (None, POS_MASK):
            return ()
        if self.state.totals["negatives"].count_of() and not self.state.totals["empty rows"].count_of():
            return ()  # as always
        count = {name: totals.count_of() for name, totals in self.state.totals.items()}
        return hazards_of(
            self.spec.mining.background,
            num_samples=count["samples"],
            num_anchors=count["anchors"],
            num_pos=count["positives"],
            num_neg=count["negatives"],
            num_empty=count["empty rows"],
            is_whole=True,
        )

    def _ratio_table(self, num_samples: int) -> RatioTable | None:
        ratios, samples, kept = (
            self.spec.ratios,
            self.state.totals["ratio samples"],
            self.state.totals["ratio kept"],
        )
        if not ratios:
            return None
        rows = range(len(ratios))
        loss = samples.sums_of(rows) / max(1, num_samples)
        return RatioTable(np.array(ratios, np.float64), kept.counts_of(rows), kept.sums_of(rows), loss)

    def _class_table(self) -> ClassTable | None:
        positives, kept = self.state.totals["class positives"], self.state.totals["class kept"]
        if self.state.labels in (None, POS_MASK) and self.spec.classification is None:
            return None
        label = sorted(positives.groups | kept.groups)
        return ClassTable(
            label=np.array(label, np.int64),
            num_pos=positives.counts_of(label),
            positive_sum=positives.sums_of(label),
            num_kept=kept.counts_of(label),
            negative_sum=kept.sums_of(label),
        )

    def _level_table(self) -> LevelTable | None:
        if self.spec.levels is None:
            return None
        sizes, rows = np.array(self.spec.levels, np.int64), range(len(self.spec.levels))
        positives, negatives, kept = (
            self.state.totals[f"level {role}"] for role in ("positives", "negatives", "kept")
        )
        return LevelTable(
            first_anchor=np.cumsum(sizes) - sizes,
            num_anchors=sizes,
            num_pos=positives.counts_of(rows),
            num_neg=negatives.counts_of(rows),
            num_kept=kept.counts_of(rows),
            positive_sum=positives.sums_of(rows),
            negative_sum=kept.sums_of(rows),
        )

    def _top_samples(self) -> TopSamples:
        columns = dict(self.state.worst["samples"].columns)
        del columns["anchor"]
        columns["id"] = id_array(columns["id"].tolist())
        return TopSamples(**columns)

    def _top_anchors(self) -> TopAnchors:
        columns = dict(self.state.worst["anchors"].columns)
        columns["id"] = id_array(columns["id"].tolist())
        return TopAnchors(**columns)

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
