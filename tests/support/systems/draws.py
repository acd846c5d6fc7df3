"""Random batches of logits, of nine kinds that decide which branch of a mining rule is taken."""

from dataclasses import dataclass

import numpy as np

from tests.support.systems.parts import Array, Labels

KINDS = {
    "random": "every sample has some positives",
    "some_empty": "about half of the samples have none",
    "no_positives": "no sample has any",
    "exhausted": "the quota exceeds the negatives",
    "one_full": "one sample has positives only, the others few",
    "all_positive": "there is no negative",
    "ties": "anchors share four rows of logits",
    "saturated": "one positive and one negative lose more than 40 nats, beyond the floors of some systems",
    "zero_loss": "most anchors lose less than a float64 of 1 can hold",
}
TIED = ("ties", "zero_loss")  # another system's sort may keep other anchors of the same loss


@dataclass(frozen=True)
class Batch:
    """Logits (B, A, C) of one kind, and what else a multibox loss takes; background is the first or last class."""

    kind: str
    logits: Array
    labels: Labels
    loc_pred: Array
    loc_target: Array
    background: int

    @property
    def arrays(self) -> tuple[Array, Labels, Array, Array]:
        return self.logits, self.labels, self.loc_pred, self.loc_target


def draw(
    kind: str,
    rng: np.random.Generator,
    *,
    last: bool = False,
    num_classes: int | None = None,
    num_anchors: int | None = None,
) -> Batch:
    """Draw a batch of 1 to 4 samples, 5 to 60 anchors and 2 to 6 classes."""
    shape = (int(rng.integers(1, 5)), num_anchors or int(rng.integers(5, 61)))
    classes = num_classes or int(rng.integers(2, 7))
    background = classes - 1 if last else 0
    logits = rng.normal(0, rng.choice([0.5, 1.5, 4.0]), (*shape, classes))
    if kind == "ties":
        rows = rng.normal(0, 1.5, (4, classes))
        logits = rows[rng.integers(0, 4, shape)]
    share = {"no_positives": 0.0, "exhausted": 0.5, "all_positive": 1.0}.get(kind, rng.choice([0.03, 0.1, 0.2]))
    positive = rng.random(shape) < share
    if kind in ("random", "ties", "zero_loss", "exhausted", "saturated"):
        positive[:, rng.integers(0, shape[1])] = True
    if kind == "some_empty":
        positive[rng.random(shape[0]) < 0.5] = False
    if kind == "one_full":
        positive[rng.integers(0, shape[0])] = True
    if kind == "zero_loss":
        logits[~positive & (rng.random(shape) < 0.8), background] += 80.0
    if kind == "saturated":
        logits[0, np.argmax(positive[0]), background] += 60.0
        logits[0, np.argmin(positive[0]), (background + 1) % classes] += 60.0
    foreground = rng.integers(0, classes - 1, shape) + (0 if last else 1)
    labels = np.where(positive, foreground, background)
    loc_target = rng.normal(0, 1, (*shape, 4))
    return Batch(kind, logits, labels, loc_target + rng.normal(0, 1.2, loc_target.shape), loc_target, background)
