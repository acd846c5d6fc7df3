"""A tiny case of every benchmark, so that none can rot; and the page is what the results say."""

import json

import pytest

from benchmarks import peers, report, suite
from benchmarks.__main__ import PAGE, RESULTS, TABLES
from benchmarks.measure import assert_equal
from benchmarks.render import SECTIONS, render
from tests.batches import ROOT

TINY = {
    "densities": lambda: suite.densities((200,), rounds=1),
    "distributions": lambda: suite.distributions((200,), rounds=1),
    "label_types": lambda: suite.label_types(200, 4, rounds=1),
    "outputs": lambda: suite.outputs(200, (1, 3), rounds=1),
    "logits": lambda: suite.logits(200, 2, rounds=1),
}


@pytest.mark.parametrize("table", TINY)
def test_a_tiny_case_of_the_table_runs(table):
    rows = TINY[table]()
    columns = next(columns for _, _, key, columns in SECTIONS if key == table)
    assert rows
    for row in rows:
        assert set(columns) <= set(row)


def test_a_tiny_report_is_measured(tmp_path):
    got = report.measured(tmp_path, 200_000, rounds=1)
    assert got["share_of_numpy_sum"] == got["seconds"]["numpy.sum"] / got["seconds"]["report"] > 0
    assert json.loads((tmp_path / "large_report0" / "summary.json").read_text())["num_samples"] == 5


@pytest.mark.parametrize("peer", peers.NUMPY)
@pytest.mark.parametrize("kind", ["gamma", "all equal", "mostly zeros"])
def test_the_peers_compute_the_same_sums(peer, kind):
    for positives in (0.0, 0.01, 0.3, 1.0):
        conf_loss, drawn, _, _ = suite.case(300, positives, kind=kind, num_samples=4)
        assert_equal(peers.NUMPY[peer](conf_loss, drawn), peers.numpy_sort(conf_loss, drawn))


def test_a_wrong_sum_is_not_timed():
    with pytest.raises(AssertionError):
        assert_equal([1.0, 2.0], [1.0, 2.00001])


def test_the_page_is_what_the_results_say():
    results = json.loads(RESULTS.read_text())
    assert PAGE == ROOT / "docs" / "performance.md"
    assert PAGE.read_text() == render(results)
    assert {key for _, _, key, _ in SECTIONS} == set(TABLES)
