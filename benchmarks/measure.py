"""Interleaved timing: every function once per round, in random order, so that a noisy moment hits them all alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Timings = dict[str, float]


def interleaved(functions: Mapping[str, Callable[[], Any]], *, rounds: int) -> Timings:
    """Return the median seconds of each function; all have run once before, outside the timing."""
    order = np.random.default_rng(0)
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        functions[name]()
    for _ in range(rounds):
        for i in order.permutation(len(names)):
            start = time.perf_counter()
            functions[names[i]]()
            seconds[names[i]].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def assert_equal(got: Any, expected: Any) -> None:
    """Check sums before they are timed."""
    np.testing.assert_allclose(got, expected, rtol=1e-6)
