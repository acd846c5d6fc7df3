"""Several recipes on one batch: what each mines, how far the losses are apart, and what to beware of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssd_mining._arrays import as_array, refuse
from ssd_mining._backends import Backend
from ssd_mining._classification import Softmax
from ssd_mining._recipes import recipes as all_recipes
from ssd_mining._spec import check_int
from ssd_mining.cross_entropy import softmax_cross_entropy
from ssd_mining.mining import MiningResult, mine_logits
from ssd_mining.multibox import multibox_loss

# Below this loss, 1 - p is less than half a unit of float32 at 1: the usual formula, -log(softmax), gives 0.
SATURATED = 2.0**-24

_OF_THE_LOSS = ("normalize", "loc_normalize", "zero_positives", "beta", "loc_weight")


@dataclass(frozen=True, eq=False)
class RecipeComparison:
    """What R recipes make of one batch of B samples.

    Attributes
    ----------
    names : tuple of str
        The recipes.
    loss : ndarray of float64, (R,)
        Their losses, in nats.
    loss_difference : ndarray of float64, (R, R)
        ``loss[j] - loss[i]``.
    num_kept : ndarray of int64, (R, B)
        How many negatives each keeps of every sample.
    overlap : ndarray of float64, (R, R)
        Of the negatives that either of two recipes keeps, the share that both keep; 1 where neither keeps any.
    hazards : mapping of str to tuple of str
        What to beware of, by recipe.
    """

    names: tuple[str, ...]
    loss: NDArray[np.float64]
    loss_difference: NDArray[np.float64]
    num_kept: NDArray[np.int64]
    overlap: NDArray[np.float64]
    hazards: Mapping[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return one row per recipe as columns: name, loss, negatives kept, hazards.

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

    def __str__(self) -> str:
        """Return a table: one line per recipe, its loss, what it keeps, and its overlap with the first."""
        width = max(len("recipe"), *(len(name) for name in self.names))
        lines = [f"{'recipe':{width}}  {'loss':>12}  {'kept':>8}  {'overlap':>7}  hazards"]
        for i, name in enumerate(self.names):
            kept, hazards = int(self.num_kept[i].sum()), "; ".join(self.hazards[name])
            lines.append(
                f"{name:{width}}  {self.loss[i]:12.6g}  {kept:8}  {self.overlap[0, i]:7.3f}  {hazards}".rstrip()
            )
        return "\n".join(lines)


def compare_recipes(
    logits: ArrayLike,
    labels: ArrayLike,
    loc_pred: ArrayLike | None = None,
    loc_target: ArrayLike | None = None,
    *,
    background: int,
    recipes: Iterable[str] | Mapping[str, Mapping[str, Any]] | None = None,
    backend: Backend | None = None,
    num_threads: int | None = None,
    **keywords: Any,
) -> RecipeComparison:
    """Mine one batch under several recipes; compare what they keep and what they lose.

    Parameters
    ----------
    logits : array_like, (B, A, C), float16, float32 or float64
        Scores of every anchor before softmax.
    labels : array_like of integers, (B, A)
        Classes. Those out of range are a hazard, not an error: their anchors are ignored.
    loc_pred, loc_target : array_like, (B, A, 4), optional
        Predicted and target offsets of every anchor; both or none.
    background : int
        The background class of these labels, for every recipe; -1 is the last one.
    recipes : iterable of str, or mapping of names to keywords, optional
        Names in `recipes`, or recipes of your own; all of `recipes` unless given.
    backend, num_threads, **keywords
        As in `multibox_loss`, for every recipe: ``ignore_index``, ``valid``, ``overlaps``, ``anchor_weights``,
        ``rng``, which is 0 unless given.

    Returns
    -------
    RecipeComparison
        Losses, overlaps of the mined sets, hazards.

    Raises
    ------
    TypeError
        If an argument has the wrong kind; see `multibox_loss`.
    ValueError
        If a recipe is unknown; if a shape or a value is wrong, see `multibox_loss`.

    Notes
    -----
    The hazards: samples without positives; samples all of whose negatives are kept; ties at the cut, where another
    system's sort may keep other anchors; kept negatives that lose less than 6e-8 nats, which the usual float32
    formula takes for 0; labels out of range; a loss that is not finite.

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
    check_int("background", background)
    chosen = _chosen(recipes)
    x, y = as_array("logits", logits), as_array("labels", labels)
    if y.ndim != 2 or y.dtype.kind not in "iu":
        refuse("labels", "integer classes of shape (B, A)", f"dtype {y.dtype} of shape {y.shape}", TypeError)
    if x.ndim != 3 or x.shape[:2] != y.shape:
        refuse("logits", f"a (B, A, C) array for labels {y.shape}", f"shape {x.shape}")
    where: dict[str, Any] = {"rng": 0, **keywords, "background": background, "backend": backend}
    where["num_threads"] = num_threads
    y, where["valid"], num_bad = _in_range(y, x.shape[2], keywords)
    losses, masks, hazards, num_kept = [], [], {}, []
    for name, recipe in chosen.items():
        asked = {**recipe, **where}
        result = multibox_loss(x, y, loc_pred, loc_target, **asked)
        selection = {key: value for key, value in asked.items() if key not in _OF_THE_LOSS}
        mined = mine_logits(x, y, **selection)
        losses.append(result.loss)
        masks.append(mined.hard_negative_mask)
        num_kept.append(mined.num_kept)
        hazards[name] = _hazards(x, y, selection, mined, num_bad, result.loss)
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
        names = [recipes] if isinstance(recipes, str) else list(recipes)
        for name in names:
            if name not in all_recipes:
                refuse("recipes", f"names among {', '.join(all_recipes)}", f"{name!r}")
        chosen = {name: all_recipes[name] for name in names}
    if not chosen:
        refuse("recipes", "at least one recipe", "none")
    return chosen


def _in_range(
    labels: NDArray[Any], num_classes: int, keywords: Mapping[str, Any]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, int]:
    """Return labels of which those out of range are background and not valid, `valid`, and how many they are."""
    bad = (labels < 0) | (labels >= num_classes)
    if keywords.get("ignore_index") is not None:
        bad &= labels != keywords["ignore_index"]
    valid = keywords.get("valid")
    valid = None if valid is None else as_array("valid", valid)
    if valid is not None and valid.shape == bad.shape:
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
        found.append(f"{num_bad} labels out of range")
    if not np.isfinite(loss):
        found.append(f"the loss is {loss}")
    empty = int((mined.num_pos == 0).sum())
    if empty:
        found.append(f"{empty} samples without positives")
    exhausted = int(((mined.num_kept == mined.num_neg) & (mined.num_pos > 0) & (mined.num_neg > 0)).sum())
    if exhausted:
        found.append(f"every negative of {exhausted} samples is kept")
    alone = selection | {"pool_size": 1}
    by_index, with_all = (
        mine_logits(logits, labels, **alone | {"tie_policy": policy}) for policy in ("index", "all")
    )
    tied = int((with_all.num_kept - by_index.num_kept).sum())
    if tied:
        found.append(f"{tied} negatives tie with the cut and are not kept")
    if isinstance(selection.get("classification", Softmax()), Softmax):
        plain: Any = {
            key: selection.get(key) for key in ("background", "ignore_index", "valid", "backend", "num_threads")
        }
        losses = softmax_cross_entropy(logits, labels, **plain)
        saturated = int((losses[mined.hard_negative_mask] < SATURATED).sum())
        if saturated:
            found.append(f"{saturated} kept negatives lose 0 by the usual float32 formula")
    return tuple(found)


def _overlap(masks: list[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """Return the overlap of every two masks: both, of either."""
    sets = np.array([mask.reshape(-1) for mask in masks], np.float64)
    both = sets @ sets.T
    sizes = np.diag(both)
    either = sizes[:, None] + sizes[None, :] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0)
