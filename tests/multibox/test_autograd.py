"""The gradients of the whole loss are those that PyTorch finds."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.losses import NORMALIZE
from tests.support.multibox import (
    CLASSIFICATIONS,
    NUM_CLASSES,
    draw,
    selection_cases,
)

pytestmark = pytest.mark.framework("torch")


def torch_loss(torch, call, tensors, mined):
    """Return the loss of a call in PyTorch, with our selection as constant masks."""
    logits, loc_pred = tensors
    functional, keywords = torch.nn.functional, call.keywords
    spec = keywords.get("classification") or sm.Softmax()
    labels, target = torch.from_numpy(call.labels), torch.from_numpy(call.loc_target).to(loc_pred.dtype)
    one_hot = functional.one_hot(labels, NUM_CLASSES).to(logits.dtype)
    if isinstance(spec, sm.Softmax):
        weight = None if spec.class_weights is None else logits.new_tensor(spec.class_weights)
        settings = {"weight": weight, "label_smoothing": spec.label_smoothing, "reduction": "none"}
        losses = functional.cross_entropy(logits.movedim(-1, 1), labels, **settings)
    else:
        binary = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
        if isinstance(spec, sm.Focal):
            p = logits.sigmoid()
            p_t = p * one_hot + (1 - p) * (1 - one_hot)
            binary = binary * (1 - p_t) ** spec.gamma * (spec.alpha * one_hot + (1 - spec.alpha) * (1 - one_hot))
        elif spec.class_weights is not None:
            binary = binary * logits.new_tensor(spec.class_weights)
        losses = binary.sum(dim=2)
    weights = torch.as_tensor(keywords.get("anchor_weights", 1.0), dtype=logits.dtype)
    pos_mask = torch.from_numpy(mined.pos_mask)
    selected = pos_mask | torch.from_numpy(mined.hard_negative_mask)
    conf_sums = torch.where(selected, losses * weights, 0.0).sum(dim=1)
    off = functional.smooth_l1_loss(loc_pred, target, beta=keywords.get("beta", 1.0), reduction="none").sum(dim=2)
    loc_sums = torch.where(pos_mask, off, 0.0).sum(dim=1)
    normalize = keywords.get("normalize", "positives")
    parts = [(conf_sums, normalize), (loc_sums, keywords.get("loc_normalize") or normalize)]
    conf, loc = (torch_divided(torch, sums, name, mined) for sums, name in parts)
    return conf + keywords.get("loc_weight", 1.0) * loc


def torch_divided(torch, sums, normalize, mined):
    num_pos, num_kept = torch.from_numpy(mined.num_pos), torch.from_numpy(mined.num_kept)
    own = {"sample_positives": num_pos, "sample_selected": num_pos + num_kept}.get(normalize)
    if own is not None:
        return (sums / own.clamp(min=1)).mean()
    divisor = {
        "none": 1,
        "batch": sums.numel(),
        "anchors": mined.pos_mask.size,
        "positives": num_pos.sum(),
        "clamped_sample_positives": num_pos.clamp(min=1).sum(),
        "selected": (num_pos + num_kept).sum(),
    }[normalize]
    return sums.sum() / divisor


AUTOGRAD = {
    **{name: {"normalize": name, "loc_normalize": NORMALIZE[::-1][i]} for i, name in enumerate(NORMALIZE)},
    **{
        name: {"classification": spec}
        for name, spec in CLASSIFICATIONS.items()
        if "floor" not in name and "unw" not in name
    },
    **{
        name: selection_cases()[name]
        for name in ("the batch", "not the hardest", "valid", "weights", "by background")
    },
    **{f"beta {beta}": {"beta": beta, "loc_weight": 0.5} for beta in (0, 0.1, 2.0)},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", AUTOGRAD)
def test_autograd_finds_the_same_gradients(name, dtype):
    import torch

    tolerance = 1e-5 if dtype == "float32" else 1e-10
    for seed in range(5):
        call = draw(seed, **AUTOGRAD[name])
        call.logits, call.loc_pred, call.loc_target = (
            array.astype(dtype) for array in (call.logits, call.loc_pred, call.loc_target)
        )
        got = call.loss(with_gradients=True)
        tensors = [torch.tensor(array, requires_grad=True) for array in (call.logits, call.loc_pred)]
        expected = torch_loss(torch, call, tensors, call.mined())
        expected.backward()
        np.testing.assert_allclose(got.loss, expected.item(), rtol=tolerance)
        for ours, tensor in zip((got.logits_gradient, got.loc_gradient), tensors, strict=True):
            largest = tensor.grad.abs().max().item()
            np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=tolerance, atol=tolerance * largest)
