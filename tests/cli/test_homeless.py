"""A user without a home directory and without an entry among the users, as in a container."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.batches import ROOT

HOMELESS = """
import pwd, sys
def unknown(_): raise KeyError("no such user")
pwd.getpwuid = unknown
from ssd_mining import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def homeless(code, *words):
    pytest.importorskip("pwd", reason="needs the users of a POSIX system")
    hidden = ("HOME", "XDG_CACHE_HOME", "SSD_MINING_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment | {"PYTHONPATH": str(ROOT)}
    )


def test_the_doctor_says_that_there_is_no_place_for_a_cache():
    done = homeless(HOMELESS, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "cache         none, Could not determine home directory." in done.stdout
    cache = json.loads(homeless(HOMELESS, "doctor", "--json").stdout)["cache"]
    assert cache == {"directory": None, "writable": False, "problem": "Could not determine home directory."}


@pytest.mark.slow
def test_a_warning_about_the_cache_names_the_line_of_the_caller(tmp_path):
    script = tmp_path / "caller.py"
    script.write_text(
        HOMELESS.partition("from ssd_mining")[0]
        + "import numpy as np, ssd_mining as sm\n\n"
        + "sm.confidence_loss(np.ones((1, 4)), [[1, 0, 0, 0]], background=0)  # here\n"
    )
    done = homeless(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    line = (
        Path(script)
        .read_text()
        .splitlines()
        .index("sm.confidence_loss(np.ones((1, 4)), [[1, 0, 0, 0]], background=0)  # here")
    )
    assert done.returncode == 0
    assert done.stderr.startswith(f"{script}:{line + 1}: RuntimeWarning: ssd_mining compiles without its cache: ")
    assert done.stderr.count("RuntimeWarning") == 1
