"""Compare recipes on one batch: what each mines, how much the losses differ, and the hazards."""

from __future__ import annotations

import copy
import numbers
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining.checks import HazardWarning, check_class_axis, check_int, refuse, warn
from ssd_mining.choices import nearest_of
from ssd_mining.classification import Softmax
from ssd_mining.cross_entropy import softmax_cross_entropy
from ssd_mining.engine.hazards import hazards_of
from ssd_mining.engine.result import Result
from ssd_mining.engine.run import Backend
from ssd_mining.inputs.arrays import as_array, check_valid
from ssd_mining.mining import MiningResult, mine_logits
from ssd_mining.multibox import multibox_loss
from ssd_mining.recipe import recipes as all_recipes

# Below this loss, 1 - p rounds to 0 in float32, and the usual formula, -log(softmax), gives 0.
SATURATED = 2.0**-24

_OF_THE_LOSS = ("normalize", "loc_normalize", "zero_positives", "beta", "loc_weight")
_OF_THE_ANCHORS = ("background", "ignore_index", "valid", "backend", "num_threads")


@dataclass(frozen=True, eq=False, repr=False)
class RecipeComparison(Result):
    """The results of R recipes for one batch of B samples.

    Attributes
    ----------
    names : tuple of str
        Names of the recipes.
    loss : ndarray of float64, (R,)
        Their losses, in nats.
    loss_difference : ndarray of float64, (R, R)
        ``loss[j] - loss[i]``.
    num_kept : ndarray of int64, (R, B)
        How many negatives each recipe keeps of every sample.
    overlap : ndarray of float64, (R, R)
        The share of the negatives kept by either of two recipes that both keep; 1 if neither keeps any.
    hazards : mapping of str to tuple of str
        Warnings about the batch, by recipe.
    """

    names: tuple[str, ...]
    loss: NDArray[np.float64]
    loss_difference: NDArray[np.float64]
    num_kept: NDArray[np.int64]
    overlap: NDArray[np.float64]
    hazards: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return columns with one row per recipe: name, loss, kept negatives, hazards.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> logits = [[[0.0, 3.0], [1.0, 0.0], [0.0, 2.0]]]
        >>> sm.compare_recipes(logits, [[1, 0, 0]], background=0, recipes=["torchvision"]).to_dict()["num_kept"]
        array([2])
        """
        return {
            "recipe": np.array(self.names),
            "loss": self.loss,
            "num_kept": self.num_kept.sum(axis=1),
            "hazards": np.array(["; ".join(self.hazards[name]) for name in self.names]),
        }

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The names of recipes that are equal on this batch: the same loss, kept negatives and hazards."""
        groups: dict[int, list[str]] = {}
        for i, name in enumerate(self.names):
            equal = (first for first in groups if self._are_equal(first, i))
            groups.setdefault(next(equal, i), []).append(name)
        return tuple(map(tuple, groups.values()))

    def _are_equal(self, i: int, j: int) -> bool:
        # Divisors that are equal here may have been rounded otherwise on the way.
        same_loss = np.isclose(self.loss[i], self.loss[j], rtol=1e-9, atol=0, equal_nan=True)
        same_hazards = self.hazards[self.names[i]] == self.hazards[self.names[j]]
        return bool(same_loss and self.overlap[i, j] == 1 and same_hazards)

    def would_print(self, loss: float | str, *, rtol: float = 1e-5) -> tuple[str, ...]:
        """Return the recipes whose systems would print a loss, as far as its digits go, the nearest first.

        Parameters
        ----------
        loss : float or str
            What a trainer printed for this batch. Each digit counts: ``"2.50"`` says more than ``2.5``.
        rtol : float
            How far the loss of a system may be off by its own rounding, relative to the loss; most sum in float32.

        Raises
        ------
        TypeError
            If `loss` is neither a number nor a string.
        ValueError
            If it is no number.

        Examples
        --------
        >>> import ssd_mining as sm
        >>> logits = [[[0.0, 3.0], [1.0, 0.0], [0.0, 2.0]], [[2.0, 1.0], [0.0, 0.5], [1.0, 0.0]]]
        >>> found = sm.compare_recipes(logits, [[1, 0, 0], [1, 0, 0]], background=0, recipes=["torchvision", "seed"])
        >>> found.loss.round(4), found.would_print("2.54"), found.would_print(7.5)
        (array([2.5447, 2.5447]), ('torchvision', 'seed'), ())
        """
        if isinstance(loss, bool) or not isinstance(loss, str | numbers.Real):
            refuse("loss", "a number", f"{loss!r}", TypeError)
        try:
            printed = Decimal(str(loss).strip())
        except InvalidOperation:
            refuse("loss", "a number", f"{loss!r}")
        value, exponent = float(printed), printed.as_tuple().exponent
        # NaN and infinity have no digits.
        half_digit = float(f"5e{exponent - 1}") if isinstance(exponent, int) else 0.0
        with np.errstate(invalid="ignore"):
            distance = np.abs(self.loss - value)
            near = np.isfinite(distance) & (distance <= half_digit * (1 + 1e-9) + rtol * np.abs(self.loss))
        near |= (self.loss == value) | (np.isnan(self.loss) & np.isnan(value))
        order = np.argsort(distance, kind="stable")
        return tuple(self.names[i] for i in order.tolist() if near[i])

    def __str__(self) -> str:
        """Return a table of the groups: loss, kept negatives, overlap with the first recipe, names, own hazards."""
        common = set.intersection(*map(set, self.hazards.values()))
        title = f"overlap with {self.names[0]}"
        lines = [f"{'loss':>12}  {'kept':>8}  {title}  recipes"]
        for group in self.groups:
            i = self.names.index(group[0])
            kept, overlap = int(self.num_kept[i].sum()), f"{self.overlap[0, i]:.3f}".rjust(len(title))
            lines.append(f"{self.loss[i]:12.6g}  {kept:8}  {overlap}  {', '.join(group)}")
            own = [hazard for hazard in self.hazards[group[0]] if hazard not in common]
            lines += [f"{'':{len(title) + 26}}{hazard}" for hazard in own]
        return "\n".join([*lines, *(f"in all of them: {hazard}" for hazard in sorted(common))])


def compare_recipes(
    logits: ArrayLike,
    labels: ArrayLike,
    loc_pred: ArrayLike | None = None,
    loc_target: ArrayLike | None = None,
    *,
    background: int,
    recipes: Iterable[str] | Mapping[str, Mapping[str, Any]] | None = None,
    class_axis: int = -1,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Any,
) -> RecipeComparison:
    """Mine one batch under several recipes, and compare their losses and the negatives that they keep.

    Parameters
    ----------
    logits : array_like, (B, A, C), float16, float32 or float64
        Scores of every anchor before softmax.
    labels : array_like of integers, (B, A)
        Classes. A label out of range is a hazard, not an error: its anchor is ignored.
    loc_pred, loc_target : array_like, (B, A, 4), optional
        Predicted and target offsets of every anchor: both or neither.
    background : int
        The background class of these labels, for every recipe; -1 is the last one.
    recipes : iterable of str, or mapping of names to keywords, optional
        Names from `recipes`, or your own recipes; all of `recipes` unless given.
    class_axis : int
        The axis of C in `logits`: -1, or 1 for (B, C, A).
    backend, num_threads, **keywords
        As in `multibox_loss`, for every recipe: ``ignore_index``, ``valid``, ``overlaps``, ``anchor_weights``. Every
        recipe draws the same numbers from ``rng``, which is 0 unless given. A Generator is not advanced.

    Returns
    -------
    RecipeComparison
        Losses, overlaps of the kept negatives, hazards.

    Raises
    ------
    TypeError
        If an argument has a wrong type; see `multibox_loss`. Also if labels are not integers, or `recipes` not names
        or mappings.
    ValueError
        If a recipe is unknown or `recipes` is empty. If a shape or a value is wrong; see `multibox_loss`.
    RuntimeError
        If ``backend="cuda"`` and the package, the driver or the GPU is missing.

    Notes
    -----
    The hazards are: a background that labels no anchor (also a `HazardWarning`); labels out of range; a loss that is
    not finite; samples without positives; samples with positives that keep all their negatives; ties at the threshold
    that the anchor index decides, where the sort of another system may keep other anchors (not for recipes that draw,
    or that treat ties alike); kept negatives with a softmax loss below 6e-8 nats, for which the usual float32 formula
    gives 0.

    Examples
    --------
    >>> import ssd_mining as sm
    >>> logits = [[[0.0, 3.0], [1.0, 0.0], [0.0, 2.0], [5.0, 0.0], [0.0, 0.0], [9.0, 0.0]]]
    >>> labels = [[1, 0, 0, 0, 0, 0]]
    >>> found = sm.compare_recipes(logits, labels, background=0, recipes=["torchvision", "seed", "balancap"])
    >>> found.num_kept.tolist(), found.overlap[0].tolist()
    ([[3], [3], [3]], [1.0, 1.0, 1.0])
    >>> (found.loss_difference[0] == 0).tolist()
    [True, True, True]
    """
    background, class_axis = check_int("background", background), check_class_axis(class_axis)
    chosen = _chosen(recipes)
    x, y = as_array("logits", logits), as_array("labels", labels)
    if y.ndim != 2 or y.dtype.kind not in "iu":
        refuse("labels", "integer classes of shape (B, A)", f"dtype {y.dtype} of shape {y.shape}", TypeError)
    classes_last = np.moveaxis(x, class_axis, -1) if x.ndim == 3 else x
    if classes_last.shape[:-1] != y.shape:
        axes = "(B, C, A)" if class_axis == 1 else "(B, A, C)"
        refuse("logits", f"a {axes} array for labels {y.shape}", f"shape {x.shape}")
    where = {**keywords, "background": background, "backend": backend, "num_threads": num_threads}
    if where.get("rng", 0) is None:
        where["rng"] = np.random.default_rng()
    losses, masks, hazards, num_kept = [], [], {}, []
    mistakes: tuple[str, ...] = ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HazardWarning)  # of each call: they are told once
        for name, recipe in chosen.items():
            asked = {"rng": 0, **recipe, **where}
            usable, asked["valid"], num_bad = _in_range(y, classes_last.shape[2], asked)
            given = classes_last, usable
            result = multibox_loss(*given, loc_pred, loc_target, **asked | _same_draw(asked))
            selection = {key: value for key, value in asked.items() if key not in _OF_THE_LOSS}
            mined = mine_logits(*given, **selection | _same_draw(asked))
            losses.append(result.loss)
            masks.append(mined.hard_negative_mask)
            num_kept.append(mined.num_kept)
            num_pos, num_neg = int(mined.num_pos.sum()), int(mined.num_neg.sum())
            counts = {"num_samples": y.shape[0], "num_anchors": y.size, "num_pos": num_pos, "num_neg": num_neg}
            mistakes = hazards_of(background, **counts, num_empty=0)
            hazards[name] = (*mistakes, *_hazards(*given, selection, mined, num_bad, result.loss))
    for mistake in mistakes:
        warn(mistake)
    loss = np.array(losses)
    with np.errstate(invalid="ignore"):
        difference = loss[None, :] - loss[:, None]
    return RecipeComparison(tuple(chosen), loss, difference, np.array(num_kept), _overlap(masks), hazards)


def _chosen(recipes: Iterable[str] | Mapping[str, Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    if recipes is None:
        return dict(all_recipes)
    if isinstance(recipes, Mapping):
        chosen = dict(recipes)
    else:
        if not isinstance(recipes, Iterable):
            refuse("recipes", "names, or a mapping of names to keywords", f"{recipes!r}", TypeError)
        names = [recipes] if isinstance(recipes, str) else list(recipes)
        for name in names:
            if not isinstance(name, str) or name not in all_recipes:
                near = nearest_of(name, all_recipes) if isinstance(name, str) else ""
                refuse("recipes", "names of ssd_mining.recipes", f"{name!r}{near}")
        chosen = {name: all_recipes[name] for name in names}
    for name, recipe in chosen.items():
        if not isinstance(recipe, Mapping):
            refuse("recipes", f"a mapping of keywords for {name!r}", f"{recipe!r}", TypeError)
    if not chosen:
        refuse("recipes", "at least one recipe", "none")
    return chosen


def _same_draw(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the source of randomness, as it was before anything was drawn."""
    return {"rng": copy.deepcopy(asked["rng"])}


def _in_range(
    labels: NDArray[Any], num_classes: int, keywords: Mapping[str, Any]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, int]:
    """Return labels in which those out of range are 0, the mask of the valid ones, and how many were out of range."""
    bad = (labels < 0) | (labels >= num_classes)
    bad &= labels != keywords["background"]  # a sigmoid head may have no column for background
    if keywords.get("ignore_index") is not None:
        check_int("ignore_index", keywords["ignore_index"])
        bad &= labels != keywords["ignore_index"]
    valid = check_valid(keywords.get("valid"), labels.shape, "labels")
    if valid is not None:
        bad &= valid
    num_bad = int(bad.sum())
    if num_bad:
        valid = ~bad if valid is None else valid & ~bad
    return np.where(bad, 0, labels), valid, num_bad


def _hazards(
    logits: NDArray[Any],
    labels: NDArray[Any],
    selection: dict[str, Any],
    mined: MiningResult,
    num_bad: int,
    loss: float,
) -> tuple[str, ...]:
    found = []
    if num_bad:
        found.append(f"{_counted(num_bad, 'label')} out of range")
    if not np.isfinite(loss):
        found.append(f"the loss is {loss}")
    empty = int((mined.num_pos == 0).sum())
    if empty:
        found.append(f"{_counted(empty, 'sample')} without positives")
    exhausted = int(((mined.num_kept == mined.num_neg) & (mined.num_pos > 0) & (mined.num_neg > 0)).sum())
    if exhausted:
        found.append(f"every negative of {_counted(exhausted, 'sample')} is kept")
    if selection.get("tie_policy", "index") == "index" and selection.get("pool_size", 1) == 1:
        with_all = mine_logits(logits, labels, **selection | {"tie_policy": "all"})
        tied = int((with_all.num_kept - mined.num_kept).sum())
        if tied:
            found.append(f"{_counted(tied, 'negative')} not kept at a tie that the index decides")
    if isinstance(selection.get("classification") or Softmax(), Softmax):
        plain: Any = {key: selection.get(key) for key in _OF_THE_ANCHORS}
        losses = softmax_cross_entropy(logits, labels, **plain)
        saturated = int((losses[mined.hard_negative_mask] < SATURATED).sum())
        if saturated:
            found.append(f"{_counted(saturated, 'kept negative')} of no loss by the usual float32 formula")
    return tuple(found)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _overlap(masks: list[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Return the overlap of every two masks: the size of the intersection over that of the union."""
    sets = np.array([mask.reshape(-1) for mask in masks], np.float64)
    both = sets @ sets.T
    sizes = np.diag(both)
    either = sizes[:, None] + sizes[None, :] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0)
