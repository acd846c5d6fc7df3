"""Generated logits, targets and specs of losses, and the reference's answer to them."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ssd_mining.classification import Focal, Sigmoid, Softmax
from ssd_mining.reference import losses as reference_losses

FORMS = ("softmax", "sigmoid", "focal")
KINDS = ("normal", "confident", "ties", "huge", "masked", "special")
TARGETS = ("classes", "one-hot", "soft")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 88.0, -88.0, 1e4, -1e4, np.inf, -np.inf, np.nan, 3e4, 1e-7]
RELATIVE = {np.float16: 3e-7, np.float32: 3e-7, np.float64: 1e-13}  # of a softmax


def logits(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw logits (B, A, C) of a kind; all are exact in float16."""
    values = {
        "normal": lambda: rng.normal(0, 3, shape),
        "confident": lambda: rng.normal(0, 3, shape) + 25 * (np.arange(shape[2]) == 0),
        "ties": lambda: rng.integers(-1, 2, shape),
        "huge": lambda: rng.choice([-1e4, 0.0, 1e4, 9992.0], shape),
        "masked": lambda: np.where(rng.random(shape) < 0.4, -np.inf, rng.normal(0, 3, shape)),
        "special": lambda: rng.choice(SPECIAL, shape),
    }[kind]()
    return values.astype(np.float16).astype(np.float64)


def targets(kind: str, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw labels (B, A), or scores (B, A, C) of which some rows are zero."""
    classes = rng.integers(0, shape[2], shape[:2])
    if kind == "classes":
        return classes
    if kind == "one-hot":
        scores = np.eye(shape[2])[classes]
    else:
        scores = np.where(rng.random(shape) < 0.3, 0.0, rng.random(shape))
        scores /= np.maximum(scores.sum(axis=2, keepdims=True), 1e-300)
    scores[rng.random(shape[:2]) < 0.1] = 0.0
    return scores


@st.composite
def specs(draw: st.DrawFn, num_classes: int) -> Any:
    """Draw a loss and its settings."""
    weight = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    weights = draw(st.none() | st.tuples(*[weight] * num_classes))
    form = draw(st.sampled_from(FORMS))
    if form == "softmax":
        smoothing, floor = draw(st.sampled_from([0.0, 0.1, 1.0])), draw(st.sampled_from([0.0, 1e-15, 0.1]))
        return Softmax(class_weights=weights, label_smoothing=smoothing, prob_floor=floor)
    if form == "sigmoid":
        return Sigmoid(class_weights=weights)
    return Focal(alpha=draw(st.sampled_from([None, 0.25, 0.0, 1.0])), gamma=draw(st.sampled_from([0.0, 0.5, 2.0, 5])))


def function(spec: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of the public function of a spec, and its keywords."""
    names = {Softmax: "softmax_cross_entropy", Sigmoid: "sigmoid_cross_entropy", Focal: "focal_loss"}
    return names[type(spec)], {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def expected(x: np.ndarray, labels: np.ndarray, spec: Any, *, gradient: bool = False) -> np.ndarray:
    """Compute the losses (B, A), or their gradients (B, A, C), of valid labels by the reference."""
    num_classes = x.shape[2]
    scores = labels if labels.ndim == 3 else np.eye(num_classes)[labels]
    weights = getattr(spec, "class_weights", None) or (1.0,) * num_classes
    rule = spec.rule._asdict()
    rule.pop("excluded")
    if isinstance(spec, Softmax):
        rule["label_smoothing"] = rule.pop("smoothing")
    name = ("softmax" if isinstance(spec, Softmax) else "sigmoid") + ("_gradient" if gradient else "_loss")
    judge = getattr(reference_losses, name)
    flat = zip(x.reshape(-1, num_classes).tolist(), scores.reshape(-1, num_classes).tolist(), strict=True)
    values = [judge(row, target, weights, **rule) for row, target in flat]
    return np.array(values, np.float64).reshape(x.shape if gradient else x.shape[:2])


@st.composite
def calls(draw, most=200):
    """Draw logits of so many anchors at most, labels, their exact dtype and a loss."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_classes = draw(st.sampled_from([1, 2, 3, 4, 8, 9, 21, 91]))
    most = most if num_classes < 21 else most // 3
    shape = (draw(st.integers(0, 2)), draw(st.integers(0, most)), num_classes)
    x = logits(draw(st.sampled_from(KINDS)), shape, rng)
    y = targets(draw(st.sampled_from(TARGETS)), shape, rng)
    return x, y, draw(st.sampled_from([np.float16, np.float32, np.float64])), draw(specs(num_classes))


def relative(spec, dtype):
    # Sums over 91 classes of what is rounded one by one; powf of the focal loss.
    return RELATIVE[dtype] * (1 if isinstance(spec, Softmax) and not spec.label_smoothing else 5)
