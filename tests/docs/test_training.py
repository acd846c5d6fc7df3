"""The node of torch's graph that the docs show: torch's own formula of the same loss has its value and its gradients.

An optional room: it needs torch, and says so where it is skipped.
"""

import importlib.util
import re

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import ROOT

if importlib.util.find_spec("torch"):
    import torch

pytestmark = pytest.mark.framework("torch")

BLOCKS = re.findall(r"```python torch\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """Run the page from its first line to its last; return its names."""
    names = {"__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, "docs/training.md", "exec"), names)  # noqa: S102 - our own page
    return names


def draw(dtype, device="cpu"):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 40, 5, generator=generator, dtype=dtype).to(device).requires_grad_()
    labels = torch.where(torch.rand(3, 40, generator=generator) < 0.1, 1, 0).to(device)
    loc_pred = torch.randn(3, 40, 4, generator=generator, dtype=dtype).to(device).requires_grad_()
    return logits, loc_pred, labels, torch.randn(3, 40, 4, generator=generator, dtype=dtype).to(device)


def torch_loss(logits, loc_pred, labels, loc_target):
    """Compute the loss with torch's operations alone, three negatives per positive."""
    functional, positive = torch.nn.functional, labels > 0
    losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    ranks = losses.detach().masked_fill(positive, -torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
    mined = ranks < 3 * positive.sum(dim=1, keepdim=True)
    offsets = functional.smooth_l1_loss(loc_pred[positive], loc_target[positive], reduction="sum")
    return (losses[positive | mined].sum() + offsets) / positive.sum()


def test_the_page_shows_a_node_and_a_step_of_training(page):
    assert len(BLOCKS) == 2
    assert page["loss"].ndim == 0
    for name in ("logits", "loc_pred"):
        assert page[name].grad.shape == page[name].shape
        assert page[name].grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_node_has_the_value_and_the_gradients_of_torch(page, dtype):
    dtype = getattr(torch, dtype)
    arrays, others = draw(dtype), draw(dtype)
    loss = page["MultiboxLoss"].apply(*arrays, {"background": 0})
    expected = torch_loss(*others)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected)
    (loss * 128).backward()  # as a GradScaler does
    (expected * 128).backward()
    for ours, theirs in zip(arrays[:2], others[:2], strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    assert all(tensor.grad is None for tensor in arrays[2:])


def test_torch_s_own_check_of_gradients_passes(page):
    logits, loc_pred, labels, loc_target = draw(torch.float64)

    def loss(*arrays):
        return page["MultiboxLoss"].apply(*arrays, labels, loc_target, {"background": 0, "beta": 0.5})

    assert torch.autograd.gradcheck(loss, (logits, loc_pred))


def test_half_precision_goes_through_a_cast(page):
    logits, loc_pred, labels, loc_target = draw(torch.float32)
    half = logits.detach().to(torch.bfloat16).requires_grad_()
    page["MultiboxLoss"].apply(half.float(), loc_pred, labels, loc_target, {"background": 0}).backward()
    assert half.grad.dtype == torch.bfloat16
    exact = sm.multibox_loss(
        half.detach().float(), labels, loc_pred.detach(), loc_target, background=0, with_gradients=True
    )
    np.testing.assert_allclose(half.grad.float().numpy(), exact.logits_gradient, rtol=1e-2)
