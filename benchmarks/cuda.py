"""``python -m benchmarks.cuda``: mining on a GPU, beside torch on the same tensors and the bandwidth of copies.

Needs a GPU, torch with CUDA, and an extra of ours. Results are checked before anything is timed, and saved in
``benchmarks/cuda.json``, from which ``docs/performance.md`` is rendered.
"""

import importlib
import itertools
import json
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
from ssd_mining.device import mining as device
from ssd_mining.mining_rule import NO_EXTRAS

RESULTS = Path(__file__).parent / "cuda.json"
BATCHES, ANCHORS, LABELS = (1, 32, 256, 4096), (8732, 24564), ("int64", "uint8")
RATIO, ROUNDS, POSITIVES = 3, 50, 0.003

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


def copy_bandwidth(torch: Any, size: int = 2**28) -> float:
    """Return the bytes per second that a copy of floats reads and writes."""
    source = torch.empty(size, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() * source.element_size() / (events(torch, lambda: target.copy_(source)) * 1e-6)


def main() -> int:
    """Measure all shapes; save what was measured."""
    reason = missing()
    if reason:
        print(f"no GPU to measure on: {reason}", file=sys.stderr)
        return 1
    torch: Any = importlib.import_module("torch")
    bandwidth, (cold, warm) = copy_bandwidth(torch), first_calls()
    machine = f"{torch.cuda.get_device_name()}, copies {bandwidth / 1e12:.2f} TB/s, torch {torch.__version__}"
    results = {
        "device": f"{machine}; first whole loss of a process {cold:.1f} s, from the cache {warm:.2f} s",
        "rows": [],
    }
    for num_samples, num_anchors, kind in itertools.product(BATCHES, ANCHORS, LABELS):
        print(f"{num_samples} x {num_anchors}, {kind} ...", flush=True)
        results["rows"].append(row(torch, bandwidth, (num_samples, num_anchors), kind))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {RESULTS.name}; python -m benchmarks --render puts it into docs/performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
