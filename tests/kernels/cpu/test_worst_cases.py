"""No input is much slower than a random one: the selection has no quadratic case and no cliff."""

import json
import time

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import printed
from tests.support.parity import sampled_anchors


def median_of_3_killer(n):
    half = n // 2
    values = np.zeros(n)
    odd = np.arange(1, half + 1, 2)
    values[odd - 1], values[odd] = odd, half + odd
    values[half : 2 * half] = 2 * np.arange(1, half + 1)
    return values


def against_our_sample(n):
    values = np.arange(n, dtype=np.float64) % 1009
    values[sampled_anchors(n)] += 2000  # the pivot is too high: everything is pulled
    return values


WORST = {
    "random": lambda n: np.random.default_rng(1).gamma(0.3, 1.0, n),
    "median-of-3 killer": median_of_3_killer,
    "ascending": lambda n: np.arange(n),
    "descending": lambda n: -np.arange(n),
    "equal": lambda n: np.ones(n),
    "organ pipe": lambda n: np.minimum(np.arange(n), n - np.arange(n)),
    "all inf": lambda n: np.full(n, np.inf),
    "mostly zeros": lambda n: np.where(np.arange(n) % 5, 0, np.arange(n)),
    "subnormal": lambda n: np.arange(n) * 1e-45,
    "against our sample": against_our_sample,
}
READERS = ("equal", "above", "reaching", "compact", "least", "total")

# In a process whose JIT is off: which blocks of 64 a call reads, by the readers of `lanes`.
COUNT = """
import json, sys
import numpy as np
import ssd_mining as sm
from ssd_mining.kernels.cpu import lanes, mining
from tests.kernels.cpu.test_worst_cases import READERS, WORST

reads = 0

def counted(reader):
    def reading(*given):
        global reads
        reads += 1
        return reader(*given)
    return reading

for name in READERS:
    setattr(lanes, name, counted(getattr(lanes, name)))
num_anchors, positives = int(sys.argv[1]), float(sys.argv[2])
pos_mask, found = np.random.default_rng(0).random((1, num_anchors)) < positives, {}
for name, draw in WORST.items():
    reads = 0
    sm.confidence_loss(draw(num_anchors).astype(np.float32)[None], pos_mask)
    found[name] = reads / (num_anchors / lanes.LANES)
print(json.dumps(found))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("num_anchors", "positives"),
    [
        (8_000, 0.003),
        pytest.param(8_000, 0.1, marks=pytest.mark.slow),
        pytest.param(100_000, 0.003, marks=pytest.mark.slow),
    ],
)
def test_no_input_is_read_much_more_often_than_a_random_one(num_anchors, positives):
    arguments = str(num_anchors), str(positives)
    found = json.loads(printed(COUNT, *arguments, NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="ignore")[0])
    # An input made against the sampled anchors has the price of all negatives pulled, and of every bit bisected.
    assert 10 < found.pop("against our sample") < 70
    assert max(found.values()) < 1.5 * found["random"], found


@pytest.mark.full_size
@pytest.mark.parametrize("num_anchors", [8_000, 1_000_000])
@pytest.mark.parametrize("positives", [0.003, 0.1])
def test_no_input_takes_much_longer_to_read_than_a_random_one(num_anchors, positives):
    pos_mask = np.random.default_rng(0).random((max(1, 200_000 // num_anchors), num_anchors)) < positives
    draws = {name: draw for name, draw in WORST.items() if name != "against our sample"}
    rows = {name: np.tile(draw(num_anchors).astype(np.float32), (len(pos_mask), 1)) for name, draw in draws.items()}
    times = dict.fromkeys(rows, np.inf)
    for turn in range(100):  # in turns, so that the noise of the machine is that of all; the best time of each counts
        for name, conf_loss in rows.items():
            start = time.perf_counter()
            sm.hard_negative_mask(conf_loss, pos_mask, num_threads=1)
            times[name] = min(times[name], time.perf_counter() - start)
        if turn >= 5 and max(times.values()) < 5 * times["random"]:
            return
    raise AssertionError(times)
