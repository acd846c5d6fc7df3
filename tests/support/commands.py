"""How the tests run a command: in this process, or in one of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from ssd_mining import cli
from tests.support.batches import ROOT


def run(*words):
    """Run a command in this process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # argparse's
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def shell(*words, script=None, **options):
    """Start a command in a process of its own; `script` is Python to run in the place of ours."""
    start = ["-m", "ssd_mining"] if script is None else ["-c", script]
    command = [sys.executable, *start, *map(str, words)]
    ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}  # a buffer that cannot be flushed is a case of its own
    environment = os.environ | ours | options.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def content(folder):
    """Return the bytes of every file of a directory, by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


USED = (
    "expected a new name or an empty directory, got one that is in use; name another with --out, or add --overwrite"
)


def summary_of(*words):
    code, out, err = run("mine", *words, "--json")
    assert (code, err) == (0, "")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(out, parse_constant=refuse)


def run_script(text, folder, **environment):
    """Run a script of the docs from a file, as its readers do, in a process of its own; it must end well."""
    script = folder / "script.py"
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
