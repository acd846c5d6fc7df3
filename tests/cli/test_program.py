"""Commands are printed as the program was called, so that they can be pasted."""

import os
import shlex
import subprocess
import sys

import pytest

from ssd_mining.cli.program import command
from tests.support.batches import ROOT

SCRIPT = f"""#!{sys.executable}
import sys
from ssd_mining.cli import main
sys.exit(main())
"""


@pytest.fixture
def installed(tmp_path):
    """Write the script that pip would write; return its directory."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "ssd-mining"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    return tmp_path


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="starts a script by its first line")
@pytest.mark.parametrize("called", ["bin/ssd-mining", "ssd-mining", f"{sys.executable} -m ssd_mining"])
def test_the_demo_advises_what_can_be_pasted(installed, called):
    path = f"{installed}/bin{os.pathsep}" if called == "ssd-mining" else ""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path + os.environ["PATH"], "NUMBA_DISABLE_JIT": "1"}

    def typed(line):
        how = {"cwd": installed, "env": environment, "capture_output": True, "text": True, "check": True}
        return subprocess.run(shlex.split(line), **how).stdout

    advised = [line for line in typed(f"{called} demo --samples 1 --out a").splitlines() if line.startswith("  ")]
    commands = [line.strip() for line in advised if "--background" in line]
    assert [each.startswith(f"{called} ") for each in commands] == [True, True]
    for each in commands:
        assert "written to a/" in typed(f"{each} --no-page" if " report " in each else each)


def test_another_program_that_calls_us_prints_our_name(monkeypatch):
    for called in ("-c", "", "/somewhere/else.py", "/somewhere/pytest/__main__.py"):
        monkeypatch.setattr(sys, "argv", [called])
        assert command("merge", "a b") == "ssd-mining merge 'a b'"
