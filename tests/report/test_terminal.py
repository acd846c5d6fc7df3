"""What a terminal sees while a report is written."""

import os
import re
from pathlib import Path

import pytest

import ssd_mining as sm
from ssd_mining.checks import install_command
from tests.support.commands import shell
from tests.support.reports import words

pytestmark = pytest.mark.process


def on_a_terminal(folder, out, env=()):
    """Run a report whose stderr is a terminal; return what it shows there."""
    pty = pytest.importorskip("pty", reason="needs a POSIX system")
    ours, theirs = pty.openpty()
    command = [*words(folder), "--no-page", "--out", folder / out]
    with shell(*command, stderr=theirs, env={"TERM": "xterm", **dict(env)}) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        said = process.stdout.read()
    os.close(ours)
    assert (process.returncode, said.splitlines()[0].split()) == (0, ["samples", "60"])
    return shown.decode()


@pytest.mark.extra("rich")
def test_a_terminal_sees_how_far_it_is_and_a_pipe_sees_nothing(data):
    folder, _ = data
    shown = on_a_terminal(folder, "out")
    assert re.search(r"60/60", shown)
    assert re.search(r"samples +[\d,]+ samples/s", shown) or re.search(r"[\d,]+ samples/s", shown)
    process = shell(*words(folder), "--no-page", "--out", folder / "piped")
    assert process.communicate()[1] == ""


def test_a_terminal_without_rich_gets_a_hint(data, tmp_path):
    (tmp_path / "blocked" / "rich").mkdir(parents=True)
    (tmp_path / "blocked" / "rich" / "__init__.py").write_text("raise ImportError('blocked')")
    path = os.pathsep.join([str(tmp_path / "blocked"), str(Path(sm.__file__).parents[1])])
    shown = on_a_terminal(data[0], "out", {"PYTHONPATH": path})
    assert shown.strip() == f"no progress bar without rich; {install_command('rich')}"
