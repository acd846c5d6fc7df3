"""``python -m benchmarks.cuda``: mining and losses on a GPU, beside torch on the same tensors and the rate of copies.

Needs a GPU, torch with CUDA, and an extra of ours; with ``--check`` it only says whether they are there. Results are
checked before anything is timed, and saved in ``benchmarks/cuda.json``, from which ``docs/performance.md`` is rendered.
``benchmarks/gpu.sh`` runs this and all tests that need a GPU.
"""

import argparse
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ssd_mining as sm
from benchmarks import data
from benchmarks.measure import interleaved
from ssd_mining.device import mining as device
from ssd_mining.mining_rule import NO_EXTRAS

RESULTS = Path(__file__).parent / "cuda.json"
BATCHES, ANCHORS, LABELS = (1, 32, 256, 4096), (8732, 24564), ("int64", "uint8")
RATIO, ROUNDS, POSITIVES = 3, 50, 0.003
SHAPES = ((32, 8732, 21), (128, 8732, 21), (32, 8732, 91), (8, 24564, 81))  # of logits

Row = dict[str, Any]


def missing() -> str:
    """Say what is missing for this benchmark, if anything is."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    try:
        sm.confidence_loss(np.ones((1, 2), np.float32), [[1, 0]], background=0, backend="cuda")
    except RuntimeError as error:
        return str(error)
    return ""


def events(torch: Any, function: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median of the microseconds that the device is busy with one call, by events around it."""
    spans = []
    for _ in range(rounds):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        stop.record()
        stop.synchronize()
        spans.append(start.elapsed_time(stop) * 1e3)
    return float(np.median(spans))


def graphed(torch: Any, function: Callable[[], Any], copies: int = 20) -> float:
    """Return the microseconds of one call inside a graph of several: kernels alone, without the host."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            function()
    return events(torch, graph.replay) / copies


def eager(torch: Any, function: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median of the microseconds from a call until its results are there."""
    spans = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        spans.append((time.perf_counter() - start) * 1e6)
    return float(np.median(spans))


def enqueued(torch: Any, function: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median of the microseconds until a call returns that waits for nothing: the host's part of it."""
    spans = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        spans.append((time.perf_counter() - start) * 1e6)
    return float(np.median(spans))


FIRST_CALL = """
import time, torch
import ssd_mining as sm
logits, labels = torch.zeros((2, 8732, 21), device="cuda"), torch.zeros((2, 8732), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()  # the context is there
start = time.perf_counter()
sm.multibox_loss(logits, labels, background=0, with_gradients=True)
print(time.perf_counter() - start)
"""


def first_calls() -> tuple[float, float]:
    """Return the seconds of the first whole loss of a process, with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"SSD_MINING_CACHE_DIR": cache}
        command = [sys.executable, "-c", FIRST_CALL]
        runs = [subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True) for _ in "12"]
    return float(runs[0].stdout), float(runs[1].stdout)


def double_sort(torch: Any, loss: Any, labels: Any) -> Any:
    """Mine as torchvision does: the rank of every negative by sorting twice."""
    foreground = labels > 0
    negatives = torch.where(foreground, -torch.inf, loss)
    rank = negatives.sort(1, descending=True)[1].sort(1)[1]
    return foreground, rank < RATIO * foreground.sum(1, keepdim=True)


def top_k(torch: Any, loss: Any, labels: Any) -> Any:
    """Mine by the largest quota of the batch, which the host must know, and a mask."""
    foreground = labels > 0
    kept = torch.minimum(RATIO * foreground.sum(1), (~foreground).sum(1))
    most = int(kept.max())
    values, places = torch.where(foreground, -torch.inf, loss).topk(most, 1)
    inside = torch.arange(most, device=loss.device) < kept[:, None]
    return foreground, values, places, inside


def row(torch: Any, bandwidth: float, shape: tuple[int, int], kind: str) -> Row:
    """Measure one shape and one type of labels."""
    drawn = data.classes(shape, POSITIVES, np.random.default_rng(0))
    host_loss, host_labels = data.losses("gamma", shape, np.random.default_rng(1)), drawn.astype(kind)
    loss, labels = torch.from_numpy(host_loss).cuda(), torch.from_numpy(host_labels).cuda()
    keywords: Any = {"background": 0, "nan_policy": "propagate"}
    unsigned = labels.to(torch.uint8) if kind == "int64" else labels
    calls: dict[str, Callable[[], Any]] = {
        "mask": lambda: sm.hard_negative_mask(loss, unsigned, **keywords),
        "ours": lambda: sm.mine_hard_negatives(loss, labels, **keywords),
        "from_host": lambda: sm.mine_hard_negatives(host_loss, host_labels, backend="cuda", **keywords),
        "sort": lambda: double_sort(torch, loss, labels),
        "topk": lambda: top_k(torch, loss, labels),
    }
    expected = sm.hard_negative_mask(host_loss, host_labels, backend="cpu", **keywords)
    for name in ("mask", "ours", "from_host"):
        got = calls[name]()
        mask = got if name == "mask" else got.hard_negative_mask
        np.testing.assert_array_equal(mask if name == "from_host" else mask.cpu().numpy(), expected)
    foreground, kept = calls["sort"]()
    np.testing.assert_array_equal((kept & ~foreground).sum(1).cpu().numpy(), expected.sum(1))
    foreground, values, _, inside = calls["topk"]()
    np.testing.assert_allclose(
        torch.where(inside, values, 0).sum(1).cpu().numpy(), np.where(expected, host_loss, 0).sum(1), rtol=1e-4
    )
    num_bytes = loss.numel() * (loss.element_size() + labels.element_size())
    kernel_us = _kernel(torch, loss, labels)
    return {
        "samples": shape[0],
        "anchors": shape[1],
        "labels": kind,
        "kernel_us": kernel_us,
        "of_bandwidth": num_bytes / (kernel_us * 1e-6) / bandwidth,
        "enqueue_us": enqueued(torch, calls["mask"]),
        "call_us": eager(torch, calls["ours"]),
        "from_host_us": eager(torch, calls["from_host"], rounds=10),
        "sort_over_ours": eager(torch, calls["sort"], rounds=10) / eager(torch, calls["ours"]),
        "topk_over_ours": eager(torch, calls["topk"], rounds=10) / eager(torch, calls["ours"]),
    }


def _kernel(torch: Any, loss: Any, labels: Any) -> float:
    """Time the kernel that sums: within a graph, where nothing is read back, so labels are taken as unsigned."""
    mining = sm.Mining(background=0, nan_policy="propagate")
    bits = labels.view(torch.uint64) if labels.dtype == torch.int64 else labels
    return graphed(torch, lambda: device.mine(loss, bits, mining, NO_EXTRAS, masks=False))


def torch_losses(torch: Any, logits: Any, labels: Any) -> Any:
    """Compute the cross-entropy of every anchor."""
    flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    return torch.nn.functional.cross_entropy(*flat, reduction="none").reshape(labels.shape)


def torch_loss(torch: Any, logits: Any, labels: Any, loc_pred: Any, loc_target: Any) -> Any:
    """Compute the whole loss as torchvision does, of a batch that has positives, without a word to the host."""
    conf = torch_losses(torch, logits, labels)
    foreground, kept = double_sort(torch, conf.detach(), labels)
    loc = torch.nn.functional.smooth_l1_loss(loc_pred, loc_target, reduction="none").sum(-1)
    of_anchor = torch.where(foreground | kept, conf, 0) + torch.where(foreground, loc, 0)
    return of_anchor.sum() / foreground.sum()


def with_gradients(torch: Any, forward: Callable[..., Any], logits: Any, labels: Any, *boxes: Any) -> Any:
    """Return a loss of torch's and its gradients by the logits and the predicted locations."""
    loss = forward(torch, logits, labels, *boxes)
    return loss, *torch.autograd.grad(loss, (logits, boxes[0]))


def detection(shape: tuple[int, int, int]) -> tuple[Any, Any, Any, Any]:
    """Draw logits, labels, predicted and true locations."""
    rng, anchors = np.random.default_rng(0), shape[:2]
    labels = data.classes(anchors, POSITIVES, rng) % shape[2]
    drawn = rng.normal(0, 2, shape), labels, *(rng.normal(0, 1, (*anchors, 4)) for _ in range(2))
    kinds = "float32", "int64", "float32", "float32"
    return tuple(each.astype(kind) for each, kind in zip(drawn, kinds, strict=True))  # type: ignore[return-value]


def ways_to_losses(torch: Any, given: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """Return the ways to the losses of every anchor; each returns them in a tuple."""
    logits, labels = given[:2]
    unsigned, compiled = labels.to(torch.uint8), torch.compile(torch_losses)
    return {
        "ours": lambda: (sm.softmax_cross_entropy(logits, unsigned),),
        "torch": lambda: (torch_losses(torch, logits, labels),),
        "compiled": lambda: (compiled(torch, logits, labels),),
    }


def ways_to_the_loss(torch: Any, given: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """Return the ways to the whole loss; each returns it with both gradients."""
    logits, labels, pred, target = given
    unsigned, compiled = labels.to(torch.uint8), torch.compile(torch_loss)
    leaves = [each.clone().requires_grad_() for each in (logits, pred)]
    rules: Any = sm.recipes["torchvision"]

    def ours() -> Any:
        keywords: Any = {"nan_policy": "propagate", "with_gradients": True}
        out = sm.multibox_loss(logits, unsigned, pred, target, **rules, **keywords)
        return out.loss, out.logits_gradient, out.loc_gradient

    return {
        "ours": ours,
        "torch": lambda: with_gradients(torch, torch_loss, leaves[0], labels, leaves[1], target),
        "compiled": lambda: with_gradients(torch, compiled, leaves[0], labels, leaves[1], target),
    }


WAYS = {"losses": ways_to_losses, "whole loss": ways_to_the_loss}


def assert_alike(got: Any, expected: Any) -> None:
    """Check what two ways return: where losses are nearly equal, one in 10,000 elements may be another anchor's."""
    for pair in zip(got, expected, strict=True):
        ours, theirs = (np.asarray(each.detach().cpu() if hasattr(each, "detach") else each) for each in pair)
        assert ours.shape == theirs.shape
        is_off = ~np.isclose(ours, theirs, rtol=1e-4, atol=1e-6)
        assert is_off.mean() <= 1e-4, f"{is_off.sum()} of {is_off.size} differ"


def loss_row(torch: Any, kind: str, shape: tuple[int, int, int], device: str = "cuda") -> Row:
    """Measure one kind of loss of one shape: by itself, waited for, and in a graph; ours and torch's two ways."""
    ways = WAYS[kind](torch, tuple(torch.from_numpy(each).to(device) for each in detection(shape)))
    results = {name: way() for name, way in ways.items()}
    for name in ("torch", "compiled"):
        assert_alike(results["ours"], results[name])
    measured: Row = {"of": kind, "samples": shape[0], "anchors": shape[1], "classes": shape[2]}
    for name, way in ways.items():
        measured |= {
            f"{name}_enqueue_us": enqueued(torch, way),
            f"{name}_call_us": eager(torch, way),
            f"{name}_graph_us": graphed_if_possible(torch, way),
        }
    return measured


def graphed_if_possible(torch: Any, function: Callable[[], Any]) -> float:
    """Return what `graphed` does; NaN, and say why, where torch cannot capture the call."""
    try:
        return graphed(torch, function)
    except RuntimeError as error:
        print(f"  not captured: {error}", flush=True)
        return math.nan


def host_row(shape: tuple[int, int, int], backend: Any = "cuda", rounds: int = 5) -> Row:
    """Measure the whole loss with gradients of NumPy arrays: on a device, and on the CPU with all threads."""
    logits, labels, pred, target = detection(shape)
    rules: Any = sm.recipes["torchvision"]

    def call(where: Any) -> Any:
        return sm.multibox_loss(logits, labels, pred, target, **rules, with_gradients=True, backend=where)

    got, expected = call(backend), call("cpu")
    for name in ("loss", "logits_gradient", "loc_gradient"):
        assert_alike([getattr(got, name)], [getattr(expected, name)])
    seconds = interleaved({"device": lambda: call(backend), "cpu": lambda: call("cpu")}, rounds=rounds)
    of = {"samples": shape[0], "anchors": shape[1], "classes": shape[2]}
    return of | {
        "device_ms": seconds["device"] * 1e3,
        "cpu_ms": seconds["cpu"] * 1e3,
        "cpu_over_device": seconds["cpu"] / seconds["device"],
    }


def copy_bandwidth(torch: Any, size: int = 2**28) -> float:
    """Return the bytes per second that a copy of floats reads and writes."""
    source = torch.empty(size, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / (events(torch, lambda: target.copy_(source)) * 1e-6)


def main(words: list[str] | None = None) -> int:
    """Measure all shapes; save what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether everything is there")
    only_check, reason = parser.parse_args(words).check, missing()
    if reason:
        print(f"no GPU to measure on: {reason}", file=sys.stderr)
        return 1
    if only_check:
        return 0
    torch: Any = importlib.import_module("torch")
    bandwidth, (cold, warm) = copy_bandwidth(torch), first_calls()
    machine = f"{torch.cuda.get_device_name()}, copies {bandwidth / 1e12:.2f} TB/s, torch {torch.__version__}"
    results: dict[str, Any] = {
        "device": f"{machine}; first whole loss of a process {cold:.1f} s, from the cache {warm:.2f} s",
        "rows": [],
        "losses": [],
        "from_host": [],
    }

    def keep(table: str, measured: Row) -> None:
        results[table].append(measured)
        print(json.dumps(measured), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")

    for kind, logits_shape in itertools.product(WAYS, SHAPES):
        keep("losses", loss_row(torch, kind, logits_shape))
    for logits_shape in SHAPES:
        keep("from_host", host_row(logits_shape))
    for num_samples, num_anchors, labels in itertools.product(BATCHES, ANCHORS, LABELS):
        keep("rows", row(torch, bandwidth, (num_samples, num_anchors), labels))
    print(f"wrote {RESULTS.name}; python -m benchmarks --render puts it into docs/performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
