"""Our commands as they can be typed: a program in an environment that is not active is not found by its name."""

import shlex
import shutil
import sys
from pathlib import Path

from ssd_mining.files.text import shown


def command(*words: str) -> str:
    """Return a command of ours, called as this one was: by name, by path, or as a module of a Python."""
    return shown(shlex.join([*_called(Path(sys.argv[0])), *words]))


def _called(program: Path) -> list[str]:
    if program.name == "__main__.py" and program.parent.name == "ssd_mining":
        return [sys.orig_argv[0], "-m", "ssd_mining"]
    if program.stem != "ssd-mining" or str(program.resolve()) == str(
        Path(shutil.which("ssd-mining") or "").resolve()
    ):
        return ["ssd-mining"]  # it is on the path; or a program of somebody else calls us, where this name must do
    return [sys.argv[0]]
