"""The only door from the tests to the benchmarks."""

from benchmarks import causes, cuda, distributed, first_calls, matching, peers, report, suite
from benchmarks.__main__ import PAGE, RESULTS, TABLES, on_gpu
from benchmarks.measure import assert_equal
from benchmarks.render import SECTIONS, render
from benchmarks.suite import AVX2_ONLY

__all__ = [
    "AVX2_ONLY",
    "PAGE",
    "RESULTS",
    "SECTIONS",
    "TABLES",
    "assert_equal",
    "causes",
    "cuda",
    "distributed",
    "first_calls",
    "matching",
    "on_gpu",
    "peers",
    "render",
    "report",
    "suite",
]
