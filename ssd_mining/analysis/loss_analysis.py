"""A whole data set, block by block: `LossAnalysis`, which any number of shards can share."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis import parts
from ssd_mining.analysis.histogram import LossHistogram
from ssd_mining.analysis.parts import POS_MASK, AnalysisSpec
from ssd_mining.analysis.result import AnalysisResult, ClassTable, LevelTable, RatioTable, TopAnchors, TopSamples
from ssd_mining.analysis.state import Columns, Summary
from ssd_mining.checks import check_int, refuse
from ssd_mining.classification import Classification
from ssd_mining.engine import run as _backends
from ssd_mining.engine.lazy_losses import LogitLosses
from ssd_mining.engine.run import Backend
from ssd_mining.inputs import losses as _inputs
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.logits import logit_batch
from ssd_mining.mining_rule import Extras, Mining, Selection, resolve

SCHEMA = 1
RATIOS = (1, 2, 3, 5, 10)


class LossAnalysis:
    """Sum up the losses of a data set of any size: counts, sums, distributions, the worst, and what they hang on.

    Blocks of samples are added with `update`, other analyses of other samples with `merge`. Whatever the order and
    the sizes of the blocks, and however shards are merged, the result is the same, bit for bit. The memory that it
    takes does not grow with the number of samples.

    Parameters
    ----------
    ratios : sequence of float
        Negatives per positive to compare; none for no sweep.
    levels : sequence of int, optional
        Anchors of each feature map, which add up to A, for a table by level.
    top : int
        How many of the worst samples, and of the worst anchors, are kept.
    classification : Softmax, Sigmoid or Focal, optional
        The blocks are logits, of which this makes losses. None: they are losses.
    class_axis : int
        Where C stands in logits; see `mine_logits`.
    mining : Mining, optional
        The selection rule as one value, instead of its fields as keywords.
    backend, num_threads
        As in `mine_hard_negatives`.
    **selection
        The fields of `Mining`.

    Raises
    ------
    TypeError
        If an argument has the wrong kind.
    ValueError
        If an argument has a value that it cannot have. Also a `scope` other than ``"sample"`` and a `pool_size` above
        1, of which results depend on how the data set is split into blocks.

    Notes
    -----
    Sums of samples are float64, taken in a fixed order within the sample and added up without any rounding. Quantiles
    come from counts by the upper half of a float32, and are within 0.4 % of the loss that they stand for.

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
        if extras:
            name = next(iter(extras))
            refuse(name, "it beside each block, in update", "it here", TypeError)
        _backends.load_analysis(backend)
        _backends.check_threads(num_threads)
        self.spec = AnalysisSpec(
            mining=spec,
            ratios=parts.check_sequence("ratios", ratios),
            levels=None if levels is None else parts.check_sequence("levels", levels),
            top=top,
            classification=classification,
            class_axis=class_axis,
            backend=backend,
        )
        self.num_threads = num_threads
        self.summary = Summary(self.spec)

    def update(
        self,
        values: ArrayLike,
        labels: ArrayLike,
        *,
        first_sample: int | None = None,
        ids: Sequence[Any] | NDArray[Any] | None = None,
        **extras: Unpack[Extras],
    ) -> Columns:
        """Add a block of samples; return what is said of each of them.

        If anything is wrong with the block, none of it is added.

        Parameters
        ----------
        values : array_like, (B, A) losses or (B, A, C) logits
            Losses as `mine_hard_negatives` takes them, or, with a `classification`, logits as `mine_logits` does.
        labels : array_like
            As there.
        first_sample : int, optional
            Index of the first sample in the data set; unless given, the one after the last that was seen.
        ids : sequence of str or int, (B,), optional
            What the caller calls the samples.
        **extras
            ``valid``, ``overlaps``, ``anchor_weights``, ``rank_by``, ``num_negatives``, ``sample_offsets``, as in
            `mine_hard_negatives`.

        Returns
        -------
        dict of str to ndarray, (B,)
            Columns: ``sample``; ``id`` where `ids` are given; ``num_pos``, ``num_neg``, ``num_kept``,
            ``positive_sum``, ``negative_sum``, ``confidence_loss``, ``threshold``.

        Raises
        ------
        TypeError
            If an argument has the wrong kind; see `mine_hard_negatives` and `mine_logits`.
        ValueError
            If a shape or a value is wrong; see there. Also if a sample was seen before, two ids of the block are
            equal, labels are of another form than before, `levels` do not add up to A, or there are `ratios` beside
            ``num_negatives``.
        """
        batch, logits = self._checked(values, labels, extras)
        start = self.summary.seen.stop if first_sample is None else first_sample
        check_int("first_sample", start, lowest=0)
        names = parts.check_ids(ids, batch.num_samples)
        again = self.summary.seen.first_of(start, start + batch.num_samples)
        if again is not None:
            refuse("first_sample", "samples that were not seen before", f"sample {again} again")
        block = Summary(self.spec, before=self.summary)
        columns = block.add(batch, logits, int(start), names, self.num_threads)
        self.summary.merge(block)
        return columns

    def _checked(self, values: ArrayLike, labels: ArrayLike, extras: Any) -> tuple[Batch, LogitLosses | None]:
        spec = self.spec
        mining, given = resolve(spec.mining, extras)
        if spec.ratios and given.get("num_negatives") is not None:
            refuse("num_negatives", "none beside ratios, which it replaces", "both; pass ratios=()")
        whole = None
        if spec.classification is None:
            batch = _inputs.check(values, labels, mining, given)
        else:
            where = {"class_axis": spec.class_axis, "backend": spec.backend, "num_threads": self.num_threads}
            batch, whole = logit_batch(values, labels, mining, given, spec.classification, where)
        if spec.levels is not None:
            parts.check_levels(spec.levels, batch)
        form = parts.form_of(batch)
        if self.summary.labels not in (None, form):
            refuse("labels", f"{self.summary.labels}, as in the blocks before", form)
        return batch, whole

    def merge(self, other: "LossAnalysis") -> "LossAnalysis":
        """Add the samples of another analysis to this one, and return this one; the other stays as it is.

        Raises
        ------
        TypeError
            If `other` is no LossAnalysis.
        ValueError
            If the settings differ, a sample is in both, or the labels have another form.

        Notes
        -----
        Samples are known by their indices: the same picture under two indices is counted twice.
        """
        if not isinstance(other, LossAnalysis):
            refuse("other", "a LossAnalysis", type(other).__name__, TypeError)
        if other.spec != self.spec:
            mine, theirs = self.spec.to_dict(), other.spec.to_dict()
            name = next(name for name in mine if mine[name] != theirs[name])
            refuse("other", f"an analysis with the same settings, {name}={mine[name]!r}", f"{theirs[name]!r}")
        for start, stop in other.summary.seen:
            again = self.summary.seen.first_of(start, stop)
            if again is not None:
                refuse("other", "samples that are not in this one", f"sample {again} in both")
        if None not in (self.summary.labels, other.summary.labels) and self.summary.labels != other.summary.labels:
            refuse("other", f"an analysis of {self.summary.labels}", f"one of {other.summary.labels}")
        self.summary.merge(other.summary)
        return self

    def result(self) -> AnalysisResult:
        """Return what is known so far; more can be added afterwards.

        Returns
        -------
        AnalysisResult
            Counts, sums, distributions, tables, the worst samples and anchors.
        """
        totals, num_samples = self.summary.totals, self.summary.totals["samples"].count_of()
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
            distributions={name: LossHistogram.of(counts) for name, counts in self.summary.histograms.items()},
            ratio_sweep=self._ratio_table(num_samples),
            classes=self._class_table(),
            levels=self._level_table(),
            top_samples=self._top_samples(),
            top_anchors=self._top_anchors(),
        )

    def _ratio_table(self, num_samples: int) -> RatioTable | None:
        ratios, samples, kept = (
            self.spec.ratios,
            self.summary.totals["ratio samples"],
            self.summary.totals["ratio kept"],
        )
        if not ratios:
            return None
        rows = range(len(ratios))
        loss = samples.sums_of(rows) / max(1, num_samples)
        return RatioTable(np.array(ratios, np.float64), kept.counts_of(rows), kept.sums_of(rows), loss)

    def _class_table(self) -> ClassTable | None:
        positives, kept = self.summary.totals["class positives"], self.summary.totals["class kept"]
        if self.summary.labels in (None, POS_MASK) and self.spec.classification is None:
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
            self.summary.totals[f"level {role}"] for role in ("positives", "negatives", "kept")
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
        names = ("loss", "sample", "anchor", "id", "positive_sum", "negative_sum", "num_pos", "num_kept")
        columns = parts.columns_of(self.summary.worst["samples"].records, names)
        del columns["anchor"]
        return TopSamples(**columns)

    def _top_anchors(self) -> TopAnchors:
        names = ("loss", "sample", "anchor", "id", "is_positive", "label")
        return TopAnchors(**parts.columns_of(self.summary.worst["anchors"].records, names))

    def to_state(self) -> dict[str, Any]:
        """Return everything that this analysis knows, as JSON can hold it; `from_state` makes an analysis of it.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> state = sm.LossAnalysis(background=0).to_state()
        >>> sm.LossAnalysis.from_state(state).result().num_samples
        0
        """
        return {
            "schema": SCHEMA,
            "spec": self.spec.to_dict(),
            "summary": self.summary.to_state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, num_threads: int | None = None) -> "LossAnalysis":
        """Return the analysis that `to_state` told.

        Raises
        ------
        ValueError
            If `state` is none of this version, or damaged.
        """
        if not isinstance(state, Mapping) or state.get("schema") != SCHEMA:
            got = f"schema {state.get('schema')!r}" if isinstance(state, Mapping) else type(state).__name__
            refuse("state", f"what to_state returns, of schema {SCHEMA}", got)
        analysis = cls.__new__(cls)
        try:
            analysis.__setstate__({"state": state, "num_threads": num_threads})
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            msg = f"state: expected what to_state returns, got a damaged one: {type(error).__name__}: {error}"
            raise ValueError(msg) from error
        return analysis

    def empty(self) -> "LossAnalysis":
        """Return an analysis with the same settings that has seen no samples."""
        state = {"schema": SCHEMA, "spec": self.spec.to_dict(), "summary": Summary(self.spec).to_state()}
        return LossAnalysis.from_state(state, num_threads=self.num_threads)

    def __getstate__(self) -> dict[str, Any]:  # small: most of the histograms is zeros
        return {"state": self.to_state(), "num_threads": self.num_threads}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        state = pickled["state"]
        self.spec, self.num_threads = AnalysisSpec.from_dict(state["spec"]), pickled["num_threads"]
        self.summary = Summary.from_state(self.spec, state["summary"])
