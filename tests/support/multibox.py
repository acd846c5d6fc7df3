"""Calls of `multibox_loss`, and what they mean in plain NumPy: the judge of the whole loss."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import ssd_mining as sm

NUM_CLASSES = 4


@dataclass
class Call:
    """One call: its arrays, and its keywords."""

    logits: np.ndarray
    labels: np.ndarray
    loc_pred: np.ndarray
    loc_target: np.ndarray
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.logits, self.labels, self.loc_pred, self.loc_target

    def loss(self, **keywords: Any) -> sm.MultiboxLoss:
        return sm.multibox_loss(*self.arrays, **self.keywords | keywords)

    def mined(self, **keywords: Any) -> sm.MiningResult:
        """Mine as the loss does."""
        ours = {k: v for k, v in (self.keywords | keywords).items() if k not in OF_THE_LOSS}
        return sm.mine_logits(self.logits, self.labels, **ours)


OF_THE_LOSS = ("normalize", "loc_normalize", "zero_positives", "beta", "loc_weight", "with_gradients")


def draw(seed: int = 0, *, positives: tuple[int, ...] = (3, 1, 2), num_anchors: int = 14, **keywords: Any) -> Call:
    """Draw a call with so many positives in each sample; its losses have no near ties, its offsets no corners."""
    rng = np.random.default_rng(seed)
    shape = (len(positives), num_anchors)
    labels = np.zeros(shape, np.int64)
    for row, number in zip(labels, positives, strict=True):
        row[rng.permutation(num_anchors)[:number]] = rng.integers(1, NUM_CLASSES, number)
    logits = rng.normal(0, 2, (*shape, NUM_CLASSES))
    loc_target, off = rng.normal(0, 1, (2, *shape, 4))
    return Call(logits, labels, loc_target + off, loc_target, {"background": 0} | keywords)


def softmax(x: np.ndarray) -> np.ndarray:
    exps = np.exp(x - x.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def selection_cases() -> dict[str, dict[str, Any]]:
    """Return keywords that decide what is selected, or what it weighs; arrays are (3, 14)."""
    rng = np.random.default_rng(99)
    shape = (3, 14)
    weights = rng.choice([0.0, 0.5, 1.0, 2.5], shape)
    return {
        "plain": {},
        "a ratio, rounded up": {"neg_pos_ratio": 1.5, "rounding": "ceil"},
        "at least, at most": {"neg_pos_ratio": 1, "min_negatives": 2, "max_negatives": 2},
        "a share": {"min_negatives": 0.4},
        "more": {"extra_negatives": 2},
        "quotas": {"num_negatives": [0, 5, 99]},
        "the batch": {"scope": "batch"},
        "the quotas of samples": {"scope": "batch_of_sample_quotas"},
        "the smallest quota": {"scope": "smallest_sample_quota"},
        "not the hardest": {"skip_hardest": 2},
        "not the hardest of the batch": {"skip_hardest": 3, "scope": "batch"},
        "a pool": {"pool_size": 2.0, "rng": 5, "neg_pos_ratio": 1},
        "strict": {"tie_policy": "strict"},
        "all": {"tie_policy": "all"},
        "by background": {"rank_by": "background"},
        "by the largest foreground": {"rank_by": "foreground_max"},
        "by the sum of foreground": {"rank_by": "foreground_sum"},
        "by an array": {"rank_by": rng.normal(size=shape)},
        "valid": {"valid": rng.random(shape) < 0.7},
        "overlaps": {"overlaps": rng.random(shape), "neg_overlap": 0.7},
        "weights": {"anchor_weights": weights},
        "weights of the batch": {"anchor_weights": weights, "scope": "batch", "rank_by": "background"},
    }


CLASSIFICATIONS = {
    "softmax": sm.Softmax(),
    "weighted softmax": sm.Softmax(class_weights=[0.5, 1.0, 2.0, 0.0]),
    "smoothed softmax": sm.Softmax(label_smoothing=0.1),
    "weighted smoothed softmax": sm.Softmax(class_weights=[0.5, 1.0, 2.0, 0.0], label_smoothing=0.3),
    "floored softmax": sm.Softmax(prob_floor=0.1),
    "sigmoid": sm.Sigmoid(),
    "weighted sigmoid": sm.Sigmoid(class_weights=[0.5, 1.0, 2.0, 0.0]),
    "focal": sm.Focal(),
    "unweighted focal": sm.Focal(alpha=None, gamma=0.5),
}


def anchor_losses(call: Call, classification: Any) -> np.ndarray:
    """Compute the confidence losses (B, A) of a call by the public function of that classification."""
    names = {sm.Softmax: "softmax_cross_entropy", sm.Sigmoid: "sigmoid_cross_entropy", sm.Focal: "focal_loss"}
    fields = {name: getattr(classification, name) for name in classification.__dataclass_fields__}
    known = {k: v for k, v in call.keywords.items() if k in ("background", "ignore_index", "valid", "class_axis")}
    return getattr(sm, names[type(classification)])(call.logits, call.labels, **fields, **known)


def ranks(call: Call, mode: str) -> np.ndarray:
    """Compute what a mode of `rank_by` says of a softmax, (B, A), in NumPy."""
    p, background = softmax(call.logits), call.keywords["background"]
    if mode == "background":
        return -np.log(p[..., background])
    foreground = np.delete(p, background, axis=-1)
    return foreground.max(axis=-1) if mode == "foreground_max" else foreground.sum(axis=-1)


def divided(
    sums: np.ndarray, normalize: str, counts: sm.MultiboxLoss, num_anchors: int, zero_positives: str
) -> float:
    """Divide the sums of samples, (B,), as `normalize` and `zero_positives` say."""
    num_pos, num_selected = counts.num_pos, counts.num_pos + counts.num_kept
    own = {"sample_positives": num_pos, "sample_selected": num_selected}.get(normalize)
    if own is not None:
        return float(np.mean([quotient(s, n, zero_positives) for s, n in zip(sums, own, strict=True)]))
    divisor = {
        "none": 1,
        "batch": sums.size,
        "anchors": num_anchors,
        "positives": num_pos.sum(),
        "clamped_sample_positives": np.maximum(num_pos, 1).sum(),
        "selected": num_selected.sum(),
    }[normalize]
    return quotient(sums.sum(), divisor, zero_positives)


def quotient(total: float, divisor: int, zero_positives: str) -> float:
    if divisor > 0:
        return total / divisor
    return {"clamp": total, "zero": 0.0, "nan": np.nan}[zero_positives]


def smooth_l1(call: Call, beta: float) -> np.ndarray:
    """Compute the localization losses (B, A) of every anchor."""
    off = np.abs(call.loc_pred - call.loc_target)
    line = off - beta / 2
    return (np.where(off < beta, off**2 / (2 * beta), line) if beta else off).sum(axis=-1)
