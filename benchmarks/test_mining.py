"""Single cases under pytest-benchmark: ``pytest benchmarks --benchmark-only``; ours beside every peer at hand."""

import numpy as np
import pytest

import ssd_mining as sm
from benchmarks import peers
from benchmarks.measure import assert_equal
from benchmarks.suite import case

PEERS = peers.NUMPY | peers.installed()


@pytest.mark.parametrize("positives", [0.003, 0.1])
@pytest.mark.parametrize("num_anchors", [8732, 24564])
@pytest.mark.parametrize("who", ["ours", *PEERS])
def test_sums(benchmark, who, num_anchors, positives):
    conf_loss, drawn, labels, keywords = case(num_anchors, positives, num_samples=32)
    expected = peers.numpy_sort(conf_loss, drawn)
    if who == "ours":
        got = benchmark(lambda: sm.confidence_loss(conf_loss, labels, num_threads=1, **keywords).confidence_loss)
    else:
        got = benchmark(lambda: PEERS[who](conf_loss, drawn))
    assert_equal(got, expected)


@pytest.mark.parametrize("output", ["mask", "indices"])
def test_outputs(benchmark, output):
    conf_loss, _, labels, keywords = case(8732, 0.003, num_samples=32)
    expected = sm.mine_hard_negatives(conf_loss, labels, backend="reference", **keywords)
    if output == "mask":
        got = benchmark(lambda: sm.hard_negative_mask(conf_loss, labels, num_threads=1, **keywords))
        np.testing.assert_array_equal(got, expected.hard_negative_mask)
    else:
        got = benchmark(lambda: sm.mine_hard_negatives(conf_loss, labels, num_threads=1, **keywords).indices())
        np.testing.assert_array_equal(got[1], expected.indices()[1])
