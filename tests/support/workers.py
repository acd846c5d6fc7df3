"""Several workers: in turn in every run, at once in the slow one."""

import pytest

from ssd_mining.kernels.cpu import analysis, logits, matching


@pytest.fixture(params=["in turn", pytest.param("at once", marks=pytest.mark.slow)])
def several_workers(request, monkeypatch):
    """Let several workers do their samples in turn, by the serial drivers; the parallel ones compile twice as long.

    Mining itself is not touched: its workers run at once in every run.
    """
    if request.param == "at once":
        return
    for module, name in ((analysis, "_ANALYSE"), (matching, "_MATCH"), (matching, "_PREPARE")):
        monkeypatch.setattr(module, name, getattr(module, name)[:1] * 2)
    for table in (logits._LOSSES, logits._GRADIENTS):
        for rule, (serial, _) in table.items():
            monkeypatch.setitem(table, rule, (serial, serial))
