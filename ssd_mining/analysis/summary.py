"""What an analysis has to say so far: its `State` as an `AnalysisResult`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.analysis.hazards import hazards_of_state
from ssd_mining.analysis.result import (
    AnalysisResult,
    ClassTable,
    ConfusionTable,
    LevelTable,
    PositionTable,
    RatioTable,
    TopAlarms,
    TopAnchors,
    TopObjects,
    TopSamples,
)
from ssd_mining.analysis.spec import id_array
from ssd_mining.analysis.state import (
    AS_POSITIVE,
    BY,
    POS_MASK,
    WORST_NEGATIVE,
    WORST_POSITIVE,
    State,
    pair,
)
from ssd_mining.analysis.top_k import TopK

# An anchor is stuck if it is among the worst of this share of the samples, and of so many of them at least, and so
# many times as often as the average anchor (docs/decisions/0011-causes.md).
STUCK_SHARE, STUCK_SAMPLES, STUCK_TIMES = 0.15, 5, 10

Rows = dict[str, NDArray[Any]]


def summarised(state: State) -> AnalysisResult:
    """Return what is known of the samples that were added to a state."""
    totals, num_samples = state.totals, state.totals["samples"].count_of()
    beside = state.beside or "none"
    num_pos, is_located = totals["positives"].count_of(), "locations" in beside
    positions = _position_table(state, num_samples)
    stuck = positions.anchor[positions.is_stuck]
    causes = {name: _top_samples(state, name) for name in BY if name != "misplaced" or is_located}
    return AnalysisResult(
        spec=state.spec.to_dict(),
        beside=beside,
        num_samples=num_samples,
        num_anchors=totals["anchors"].count_of(),
        num_pos=num_pos,
        num_neg=totals["negatives"].count_of(),
        num_kept=totals["kept"].count_of(),
        num_without_pos=totals["without positives"].count_of(),
        num_false_alarms=totals["false alarms"].count_of(),
        loss=totals["samples"].sum_of() / max(1, num_samples),
        loss_sum=totals["samples"].sum_of(),
        positive_sum=totals["positives"].sum_of(),
        negative_sum=totals["kept"].sum_of(),
        localization_sum=totals["located"].sum_of() if is_located else None,
        distributions={name: state.distribution(name) for name in state.histograms},
        ratio_sweep=_ratio_table(state, num_samples),
        classes=_class_table(state),
        levels=_level_table(state),
        confusions=_confusion_table(state),
        positions=positions,
        top_samples=causes.pop(BY[0]),
        causes=causes,
        top_anchors=_top_anchors(state),
        top_objects=TopObjects(**_folded(_objects(state), stuck, state.spec.top)),
        top_boxes=TopObjects(**_folded(_renamed(state.worst["boxes"], "loss"), stuck, state.spec.top)),
        top_negatives=TopAnchors(**_folded(_negatives(state), stuck, state.spec.top)),
        top_false_alarms=TopAlarms(**_folded(_renamed(state.worst["alarms"], "probability"), stuck, state.spec.top)),
        hazards=hazards_of_state(state),
    )


def _renamed(worst: TopK, score: str) -> Rows:
    """Return a list of the worst, whose score is called by its name."""
    columns = dict(worst.columns)
    columns[score] = columns.pop("score")
    columns["id"] = id_array(columns["id"].tolist())
    return columns


def _top_samples(state: State, name: str) -> TopSamples:
    columns = _renamed(state.worst[name], "score")
    del columns["anchor"], columns["score"]
    return TopSamples(**columns)


def _objects(state: State) -> Rows:
    """Return the worst objects; where no object is known, every positive is one."""
    if "matched" in (state.beside or ""):
        return _renamed(state.worst["objects"], "loss")
    columns = _renamed(state.worst["positives"], "loss")
    ones = np.ones_like(columns["anchor"])
    return columns | {"object": -ones, "num_anchors": ones}


def _negatives(state: State) -> Rows:
    columns = _renamed(state.worst["kept"], "loss")
    return columns | {"is_positive": np.zeros(columns["loss"].size, np.bool_)}


def _top_anchors(state: State) -> TopAnchors:
    """Return the worst positives and kept negatives as one list: no other can be among the worst of both."""
    kept = state.worst["kept"].columns
    both = TopK(state.spec.top, {name: column.dtype for name, column in kept.items()} | {"is_positive": np.bool_})
    for name in ("positives", "kept"):
        columns = state.worst[name].columns
        both.add({**columns, "is_positive": np.full(columns["score"].size, name == "positives")})
    return TopAnchors(**_renamed(both, "loss"), num_folded=np.zeros(both.columns["score"].size, np.int64))


def _folded(columns: Rows, stuck: NDArray[np.int64], top: int) -> Rows:
    """Keep the worst entry alone of every stuck anchor, and say how many entries it stands for in addition."""
    anchor = columns["anchor"]
    is_stuck = np.isin(anchor, stuck)
    _, first, count = np.unique(anchor, return_index=True, return_counts=True)
    is_first = np.isin(np.arange(anchor.size), first)
    kept = np.flatnonzero(is_first | ~is_stuck)[:top]
    others = dict(zip(anchor[first].tolist(), (count - 1).tolist(), strict=True))
    num_folded = [others[number] if folds else 0 for number, folds in zip(anchor[kept], is_stuck[kept], strict=True)]
    return {name: column[kept] for name, column in columns.items()} | {"num_folded": np.array(num_folded, np.int64)}


def _position_table(state: State, num_samples: int) -> PositionTable:
    """Describe the positions whose anchors are among the worst of several samples, the most frequent first."""
    counts = state.positions
    worst = counts[WORST_POSITIVE] + counts[WORST_NEGATIVE]
    order = np.argsort(-worst, kind="stable")[: state.spec.top]
    order = order[worst[order] > 1]
    share = worst[order] / max(1, num_samples)
    usual = worst.mean() / max(1, num_samples) if worst.size else 0.0
    is_stuck = (share >= max(STUCK_SHARE, STUCK_TIMES * usual)) & (worst[order] >= STUCK_SAMPLES)
    return PositionTable(
        anchor=order,
        num_samples=worst[order],
        share=share,
        num_pos=counts[AS_POSITIVE][order],
        num_worst_pos=counts[WORST_POSITIVE][order],
        num_worst_neg=counts[WORST_NEGATIVE][order],
        is_stuck=is_stuck,
    )


def _confusion_table(state: State) -> ConfusionTable | None:
    if state.spec.classification is None:
        return None
    totals = state.totals["confusions"]
    wrong = [number for number in totals.groups if pair(number)[0] != pair(number)[1]]
    order = sorted(wrong, key=lambda number: (-totals.count_of(number), number))
    pairs = np.array([pair(number) for number in order], np.int64).reshape(-1, 2)
    return ConfusionTable(pairs[:, 0], pairs[:, 1], totals.counts_of(order), totals.sums_of(order))


def _ratio_table(state: State, num_samples: int) -> RatioTable | None:
    ratios, samples, kept = state.spec.ratios, state.totals["ratio samples"], state.totals["ratio kept"]
    if not ratios:
        return None
    rows = range(len(ratios))
    loss = samples.sums_of(rows) / max(1, num_samples)
    return RatioTable(np.array(ratios, np.float64), kept.counts_of(rows), kept.sums_of(rows), loss)


def _class_table(state: State) -> ClassTable | None:
    positives, kept, located = (state.totals[f"class {role}"] for role in ("positives", "kept", "located"))
    if state.labels in (None, POS_MASK) and state.spec.classification is None:
        return None
    label = sorted(positives.groups | kept.groups)
    return ClassTable(
        label=np.array(label, np.int64),
        num_pos=positives.counts_of(label),
        positive_sum=positives.sums_of(label),
        num_kept=kept.counts_of(label),
        negative_sum=kept.sums_of(label),
        localization_sum=located.sums_of(label),
    )


def _level_table(state: State) -> LevelTable | None:
    if state.spec.levels is None:
        return None
    sizes, rows = np.array(state.spec.levels, np.int64), range(len(state.spec.levels))
    roles = ("positives", "negatives", "kept", "located")
    positives, negatives, kept, located = (state.totals[f"level {role}"] for role in roles)
    return LevelTable(
        first_anchor=np.cumsum(sizes) - sizes,
        num_anchors=sizes,
        num_pos=positives.counts_of(rows),
        num_neg=negatives.counts_of(rows),
        num_kept=kept.counts_of(rows),
        positive_sum=positives.sums_of(rows),
        negative_sum=kept.sums_of(rows),
        localization_sum=located.sums_of(rows),
    )
