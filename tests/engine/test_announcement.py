"""A terminal is told, once, that kernels are compiled; nobody else is told anything."""

import io
import os
import sys
from types import SimpleNamespace

import pytest
from numba.core import event

from ssd_mining.engine import announcement
from tests.support.batches import ROOT
from tests.support.commands import shell

OURS = SimpleNamespace(__module__="ssd_mining.kernels.cpu.jit", __code__=SimpleNamespace(co_filename="/a/softmax.py"))
OTHER = SimpleNamespace(__module__="somebody.else", __code__=OURS.__code__)
LINE = "ssd_mining: compiling kernels (softmax first) for this processor; this takes seconds, {}\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def compiled(monkeypatch):
    """Return what is said on a stream while Numba compiles some functions, as if for the first time."""
    of_this_process = announcement._listener
    if of_this_process is not None:
        event.unregister("numba:compile", of_this_process)

    def said(stream, *functions):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(announcement, "_listener", None)
        announcement.announce_compilation()
        first = announcement._listener
        announcement.announce_compilation()
        assert announcement._listener is first
        try:
            for function in functions:
                with event.trigger_event("numba:compile", data={"dispatcher": function}):
                    pass
        finally:
            event.unregister("numba:compile", first)
        return stream and stream.getvalue()

    yield said
    if of_this_process is not None:
        event.register("numba:compile", of_this_process)


def test_a_terminal_is_told_once_what_is_compiled_and_whether_it_is_kept(compiled, monkeypatch, tmp_path):
    monkeypatch.setenv("SSD_MINING_CACHE_DIR", str(tmp_path))
    assert compiled(Terminal(), OTHER, OURS, OURS) == LINE.format("once, for they are kept")
    monkeypatch.setenv("SSD_MINING_CACHE", "0")
    why = "in every process: switched off by SSD_MINING_CACHE=0"
    assert compiled(Terminal(), OURS) == LINE.format(why)


def test_nothing_is_said_without_a_terminal_nor_of_functions_of_others(compiled):
    assert compiled(io.StringIO(), OURS) == ""
    assert compiled(Terminal(), OTHER) == ""
    assert compiled(None, OURS) is None  # a program without a console


def test_a_numba_without_events_is_no_error(monkeypatch):
    monkeypatch.setattr(announcement, "_listener", None)
    monkeypatch.setitem(sys.modules, "numba.core.event", None)
    announcement.announce_compilation()
    assert announcement._listener is None


@pytest.mark.slow
@pytest.mark.process
def test_a_call_in_a_terminal_is_announced_where_it_compiles_and_not_where_it_loads(tmp_path):
    pty = pytest.importorskip("pty", reason="needs a POSIX system")
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ssd_mining as sm; sm.ohem([[1.0, 2.0]])"
    for expected in (["(mining first)"], []):
        ours, theirs = pty.openpty()
        environment = {"SSD_MINING_CACHE_DIR": str(tmp_path), "SSD_MINING_CACHE": "1"}
        with shell(script=script, stderr=theirs, env=environment) as process:
            os.close(theirs)
            process.wait()
        try:
            said = os.read(ours, 4096).decode()
        except OSError:  # the other end is closed, and nothing was said
            said = ""
        os.close(ours)
        assert process.returncode == 0
        assert [word for word in ("(mining first)",) if word in said] == expected
