"""Why a sample is among the worst: the causes, each a number that finds its own kind of fault.

docs/analysis.md defines them; docs/decisions/0011-causes.md says how they were chosen. Whatever is said of a sample
comes from that sample alone, so that no split of a data set changes it.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.analysis.exact_sums import numbered
from ssd_mining.analysis.one_pass import MOST_AT_ONCE, Analysed, Found
from ssd_mining.analysis.top_k import TopK
from ssd_mining.checks import refuse
from ssd_mining.classification import Softmax
from ssd_mining.inputs.arrays import as_array, as_real_array
from ssd_mining.inputs.batch import Batch
from ssd_mining.inputs.boxes import bad_boxes
from ssd_mining.kernels.loss_rules import selected_smooth_l1
from ssd_mining.kernels.records import (
    FREE_NUMBERS,
    LARGEST_FREE,
    LEAST_FREE,
    NUM_NAN,
    NUM_POS,
    POSITIVE_SUM,
    WORST_CUT,
    Mined,
)
from ssd_mining.multibox import check_locations

ALARM = 0.5  # the foreground probability from which on a free negative is a false alarm
SAME_REGION = 0.5  # the overlap above which two false alarms are one
SHARPNESS = 4.0  # per nat: from how much on an object is lost beside a worse one

# Anchors of a list whose logits are looked at together: as float64, at 91 classes, they take 12 MB.
MOST_SCORED = 1 << 14

Anchors = NDArray[np.int64]


class Beside(NamedTuple):
    """What a block tells beside its losses and labels; None: it does not."""

    matched: NDArray[Any] | None  # (B, A) or (N,) the object of every positive, counted in its sample
    locations: tuple[NDArray[Any], NDArray[Any]] | None  # (B, A, 4) or (N, 4): predicted, and target
    anchors: NDArray[np.float64] | None  # (A, 4) corners
    names: str  # of what is given


def check_beside(
    batch: Batch,
    *,
    matched: ArrayLike | None,
    loc_pred: ArrayLike | None,
    loc_target: ArrayLike | None,
    anchors: ArrayLike | None,
) -> Beside:
    """Check what a block tells beside its losses and labels."""
    numbers = boxes = None
    if matched is not None:
        numbers = as_array("matched", matched)
        if numbers.dtype.kind not in "iu":
            refuse("matched", "whole numbers", f"dtype {numbers.dtype}", TypeError)
        if numbers.shape != batch.mask_shape:
            refuse("matched", f"one number for each of the anchors {batch.mask_shape}", f"shape {numbers.shape}")
        numbers = numbers.reshape(batch.shape)
    locations = check_locations(batch.mask_shape, loc_pred, loc_target)
    if locations is not None:
        pred, target = (array.reshape(*batch.shape, array.shape[-1]) for array in locations)
        locations = pred, target
    if anchors is not None:
        if not batch.is_dense:
            refuse("anchors", "None beside sample_offsets, for they are those of every sample", "both", TypeError)
        boxes = as_real_array("anchors", anchors).astype(np.float64)
        if boxes.shape != (batch.shape[1], 4):
            refuse("anchors", f"the corners of {batch.shape[1]} anchors, (A, 4)", f"shape {boxes.shape}")
        wrong = bad_boxes(boxes)
        if wrong.size:
            expected = "corners x1, y1, x2, y2 with x1 <= x2 and y1 <= y2"
            refuse("anchors", expected, f"{boxes[wrong[0]].tolist()} at anchor {wrong[0]}")
    given = {"matched": numbers, "locations": locations, "anchors": boxes, "overlaps": batch.overlaps}
    names = [name for name in given if given[name] is not None]
    return Beside(numbers, locations, boxes, " and ".join(names) or "none")


class Listed(NamedTuple):
    """Anchors of one list, by sample, then by anchor, and what is said of them."""

    sample: Anchors  # (m,) counted in the batch
    anchor: Anchors  # (m,)
    loss: NDArray[Any]  # (m,)
    label: Anchors  # (m,) the true class of a positive, the class that a negative is taken for; -1: not known


class Positives(NamedTuple):
    """The positives of some samples, and their objects."""

    listed: Listed
    taken_for: Anchors  # (m,) the class with the largest score, which may be background; -1: not known
    distance: NDArray[np.float64] | None  # (m,) localization loss
    are_worst: NDArray[np.bool_]  # (m,) no positive of the sample has a larger loss
    objects: "Objects"


class Objects(NamedTuple):
    """The objects of some samples: the positives with one number in one sample; without numbers, every positive."""

    row: Anchors  # (m,) the object of every positive
    sample: Anchors  # (n,) of every object
    number: Anchors  # (n,) of the object in its sample; -1: not known
    num_anchors: Anchors  # (n,)

    def mean(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the mean over the positives of every object; `values`: of all positives."""
        with np.errstate(invalid="ignore"):  # inf - inf is NaN
            return np.asarray(np.bincount(self.row, values, self.sample.size) / self.num_anchors)

    def hardest(self, chosen: Anchors, losses: NDArray[Any]) -> Anchors:
        """Return for each of the chosen objects the place of its hardest positive; `losses`: of all positives."""
        places = np.flatnonzero(np.isin(self.row, chosen))
        loss = _comparable(losses[places])
        order = places[np.lexsort((places, -loss, self.row[places]))]
        is_first = np.diff(self.row[order], prepend=-1) != 0
        return np.asarray(order[is_first])


class Alarms(NamedTuple):
    """The false alarms of some samples, and the surest free negative of each, one anchor of every region."""

    listed: Listed
    probability: NDArray[np.float64]  # (m,) of the class that it is taken for; by losses alone, of any class
    worst: Anchors  # (n,) the anchors of the hardest free negatives, `WORST_FREE` different losses of a sample
    largest: NDArray[np.float64]  # (b,) the largest probability of every sample; 0 without free negatives
    number: Anchors  # (b,) how many are false alarms


class Explained(NamedTuple):
    """What the causes of a batch are made of, in parts of whole samples."""

    beside: Beside
    background: int  # the class; -1: not known
    with_classes: frozenset[str]  # the lists whose labels are known
    positives: list[Positives]
    kept: Iterator[Listed]  # made when they are asked for: all negatives may be kept
    alarms: list[Alarms]
    columns: dict[str, NDArray[Any]]  # (B,) the causes
    signs: dict[str, int]  # of input that is surely a mistake: how often they were seen


def explain(
    batch: Batch, beside: Beside, found: list[Analysed], mined: Mined, beta: float, listed_only: Mapping[str, TopK]
) -> Explained:
    """Say why the samples of a batch are bad, from what its analysis has found. Nothing is written elsewhere.

    `listed_only`: the lists so far of what is only listed. What is not among their worst is left out.
    """
    background = batch.mining.background if batch.logits is None else batch.logits.background
    background = -1 if background is None else background
    num_samples, most = batch.offsets.size - 1, MOST_AT_ONCE if batch.logits is None else MOST_SCORED
    kept = _kept(batch, found, most, listed_only.get("kept"))
    told = Explained(
        beside, background, _with_classes(batch), positives=[], kept=kept, alarms=[], columns={}, signs={}
    )
    num_pos = np.maximum(1, mined.counts[NUM_POS])
    unrecognised, false_alarm, distances = np.zeros((3, num_samples))
    free = np.concatenate([np.empty((0, FREE_NUMBERS)), *(block.free_numbers for block in found)])
    num_alarms, num_scored, num_odd = np.zeros(num_samples, np.int64), 0, 0
    for block in found:
        for part, sample in block.positives.parts(most, block.samples.start):
            positives = _positives(batch, beside, part, sample, beta)
            told.positives.append(positives)
            if beside.matched is not None:
                _write_softened(unrecognised, positives.objects.sample, positives.objects.mean(part.losses))
            if positives.distance is not None:
                distances += np.bincount(sample, positives.distance, num_samples)
        for part, sample in block.free.parts(most, block.samples.start):
            scored = _scored(batch, sample, part.anchors)
            first = block.samples.start + part.first
            own = slice(first, first + part.counts.size)
            alarms = _alarms(beside, part, first, scored, free[own], listed_only["alarms"].least)
            told.alarms.append(alarms)
            false_alarm[own], num_alarms[own] = alarms.largest, alarms.number
            num_scored += scored.values.shape[0] * (scored.values.shape[1] > 1)
            num_odd += int(((scored.values >= 0) & (scored.values <= 1)).all(axis=1).sum())
    with np.errstate(invalid="ignore"):  # inf - inf is NaN
        mean = mined.sums[POSITIVE_SUM] / num_pos
        hardest = free[:, LARGEST_FREE]
        are_flat = (hardest == free[:, LEAST_FREE]) & (np.abs(mean - hardest) <= 1e-6 * np.abs(hardest)) & (mean != 0)
    omitted = int(mined.counts[NUM_NAN].sum())
    told.signs.update({"flat": int(are_flat.sum()), "omitted": omitted})
    told.signs.update({"scored": num_scored, "like probabilities": num_odd if num_scored else 0})
    told.columns["unrecognised"] = mean if beside.matched is None else unrecognised
    told.columns.update(false_alarm=false_alarm, num_false_alarms=num_alarms)
    if beside.locations is not None:
        told.columns["misplaced"] = distances / num_pos
    return told


def _kept(batch: Batch, found: list[Analysed], most: int, worst: TopK | None) -> Iterator[Listed]:
    for block in found:
        kept = block.kept if worst is None else block.kept.candidates(worst)
        for part, sample in kept.parts(most, block.samples.start):
            label, _ = _scored(batch, sample, part.anchors).foreground()
            yield Listed(sample, part.anchors, part.losses, label)


def _with_classes(batch: Batch) -> frozenset[str]:
    if batch.logits is not None:
        return frozenset({"positives", "located", "kept"})
    return frozenset(() if batch.is_pos_mask else ("positives", "located"))


def _positives(batch: Batch, beside: Beside, part: Found, sample: Anchors, beta: float) -> Positives:
    at = batch.at(sample, part.anchors)
    listed = Listed(sample, part.anchors, part.losses, true_classes(batch, at))
    distance = None if beside.locations is None else selected_smooth_l1(*beside.locations, at, beta)[0]
    shared: Any = {
        "listed": listed,
        "taken_for": _scored(batch, sample, part.anchors).predicted(),
        "distance": distance,
        "are_worst": part.are_hardest(),
    }
    if beside.matched is None:
        ones = np.ones_like(sample)
        return Positives(**shared, objects=Objects(np.arange(sample.size), sample, -ones, ones))
    number = beside.matched[at].astype(np.int64)
    if number.min(initial=0) < 0:
        i = int(number.argmin())
        place: Any = {"sample": int(sample[i]), "anchor": int(part.anchors[i])}
        refuse("matched", "the number of an object for every positive", f"{number[i]}", **place)
    span = int(number.max(initial=0)) + 1
    names, row = numbered(sample * span + number)
    present, row, counts = np.unique(row, return_inverse=True, return_counts=True)
    owner, number = np.divmod(names[present], span)
    return Positives(**shared, objects=Objects(row, owner, number, counts))


def _alarms(
    beside: Beside, part: Found, first: int, scored: "Scored", free: NDArray[np.float64], least: float
) -> Alarms:
    """Return the alarms of a part, whose first sample is number `first`, as far as a sample has one of `least` or more.

    `free`, (b, FREE_NUMBERS): what is said of the losses of the samples.
    """
    row = np.repeat(np.arange(part.counts.size), part.counts)
    label, strength, sure = None, part.losses, math.log(1 / (1 - ALARM))
    strongest, largest = free[:, LARGEST_FREE], np.zeros(part.counts.size)
    with np.errstate(invalid="ignore"):  # some NaN are signalling
        if scored.values.shape[1]:
            (label, strength), sure = scored.foreground(), ALARM
            _write_largest(largest, row, strength)
            strongest = largest
        else:  # the loss of background is minus the logarithm of its probability
            largest = np.where(part.counts > 0, -np.expm1(-np.maximum(strongest, 0)), 0)
        weakest = np.repeat(np.minimum(strongest, sure), part.counts)  # NaN, the strongest, is below nothing
        chosen = np.flatnonzero(~(strength < weakest))
        worst = part.anchors[~(part.losses < np.repeat(free[:, WORST_CUT], part.counts))]
        if beside.anchors is not None:
            chosen = chosen[_heads(beside.anchors[part.anchors[chosen]], strength[chosen], row[chosen])]
        number = np.bincount(row[chosen[strength[chosen] >= sure]], minlength=part.counts.size)
        chosen = chosen[~(largest < least)[row[chosen]]]
        probability = strength[chosen].astype(np.float64)
        if label is None:
            probability = -np.expm1(-np.maximum(probability, 0))
    label = np.full(chosen.size, -1) if label is None else label[chosen]
    listed = Listed(first + row[chosen], part.anchors[chosen], part.losses[chosen], label)
    return Alarms(listed, probability, worst, largest, number)


def _heads(boxes: NDArray[np.float64], strength: NDArray[np.float64], sample: Anchors) -> NDArray[np.bool_]:
    """Return which boxes, (m, 4), overlap no stronger head of their sample too much: the heads of the regions.

    All samples take a step together: the strongest box that waits becomes a head, and what overlaps it waits no more.
    """
    is_head = np.zeros(sample.size, np.bool_)
    order = np.lexsort((np.arange(sample.size), -_comparable(strength), sample))
    _, row, counts = np.unique(sample[order], return_inverse=True, return_counts=True)
    place = np.arange(order.size) - np.repeat(np.cumsum(counts) - counts, counts)
    corners = np.zeros((counts.size, int(counts.max(initial=0)), 4))
    corners[row, place] = boxes[order]
    waits, heads = np.zeros((2, *corners.shape[:2]), np.bool_)
    waits[row, place] = True
    while waits.any():
        rows = np.flatnonzero(waits.any(axis=1))
        first = waits[rows].argmax(axis=1)
        heads[rows, first] = True
        waits[rows] &= _overlap(corners[rows, first][:, None], corners[rows]) <= SAME_REGION
        waits[rows, first] = False
    is_head[order] = heads[row, place]
    return is_head


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes, (..., 4); 0 without area."""
    sides = np.minimum(box[..., 2:], others[..., 2:]) - np.maximum(box[..., :2], others[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    both = sum(np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (box, others)) - common
    return np.asarray(np.divide(common, both, out=np.zeros_like(common), where=both > 0))


def _comparable(values: NDArray[Any]) -> NDArray[Any]:
    """Return values with inf in place of NaN, which is the largest loss."""
    return np.where(np.isnan(values), np.inf, values)


def _write_largest(column: NDArray[np.float64], sample: Anchors, values: NDArray[np.float64]) -> None:
    """Write the largest value of every sample, whose values follow each other, to its row; NaN is the largest."""
    if sample.size:
        starts = np.flatnonzero(np.diff(sample, prepend=-1))
        with np.errstate(invalid="ignore"):  # some NaN are signalling
            column[sample[starts]] = np.maximum.reduceat(values, starts)


def _write_softened(column: NDArray[np.float64], sample: Anchors, values: NDArray[np.float64]) -> None:
    """Write the softened largest value of every sample to its row: the largest of many is large by their number."""
    _write_largest(column, sample, values)
    _, starts, counts = np.unique(sample, return_index=True, return_counts=True)
    largest = column[sample[starts]]
    with np.errstate(invalid="ignore"):  # inf - inf is NaN
        shares = np.add.reduceat(np.exp(SHARPNESS * (values - np.repeat(largest, counts))), starts) / counts
    column[sample[starts]] = np.where(np.isfinite(largest), largest + np.log(shares) / SHARPNESS, largest)


def true_classes(batch: Batch, at: tuple[Anchors, ...]) -> Anchors:
    """Return the classes of some positives; -1 where the labels do not say."""
    labels = batch.labels[at]
    if labels.dtype == np.bool_:
        return np.full(labels.shape[0], -1)
    if labels.ndim == 1:
        return labels.astype(np.int64)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1)


class Scored(NamedTuple):
    """The logits of some anchors."""

    values: NDArray[Any]  # (m, C); C is 0 where there are none
    background: int  # its class; C: it has no logit
    is_softmax: bool

    def foreground(self) -> tuple[Anchors, NDArray[np.float64]]:
        """Return the foreground classes with the largest logits, and their probabilities; -1 and 0 without any."""
        count, num_classes = self.values.shape
        others = np.flatnonzero(np.arange(num_classes) != self.background)
        if not (others.size and count):
            return np.full(count, -1), np.zeros(count)
        label = others[self.values[:, others].argmax(axis=1)]
        logit = self.values[np.arange(count), label].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # exp of much is inf, inf - inf is NaN
            if self.is_softmax:
                return label, 1 / np.exp(self.values.astype(np.float64) - logit[:, None]).sum(axis=1)
            return label, 1 / (1 + np.exp(-logit))

    def predicted(self) -> Anchors:
        """Return the class of the largest probability, background among them; -1 without any."""
        if self.is_softmax and self.values.shape[1]:
            return np.asarray(self.values.argmax(axis=1))
        label, probability = self.foreground()
        return np.where((probability < ALARM) & (label >= 0), self.background, label)


def _scored(batch: Batch, sample: Anchors, anchor: Anchors) -> Scored:
    logits = batch.logits
    if logits is None:
        return Scored(np.empty((anchor.size, 0)), 0, is_softmax=False)
    place = (sample, anchor) if batch.is_dense else (np.zeros_like(anchor), batch.offsets[sample] + anchor)
    background = -1 if logits.background is None else logits.background
    values: NDArray[Any] = logits.values[place]
    return Scored(
        values, values.shape[1] - 1 if background < 0 else background, isinstance(logits.classification, Softmax)
    )
