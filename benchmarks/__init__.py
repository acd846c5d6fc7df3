"""Benchmarks: ours beside its peers, checked for equality before anything is timed.

``python -m benchmarks`` runs everything, writes ``benchmarks/results.json`` and renders ``docs/performance.md``.
``pytest benchmarks`` times single cases with pytest-benchmark; the tests run a tiny case of each.
"""
