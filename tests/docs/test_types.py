"""The examples of the docs pass the type checkers of their readers."""

import doctest
import importlib.util
import inspect
import json
import re
import subprocess
import sys

import pytest

import ssd_mining as sm
from tests.support.batches import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHECKERS = {
    # A session uses a name again for something else. Frameworks need not be installed.
    "mypy": [
        "mypy",
        "--allow-redefinition",
        "--ignore-missing-imports",
        "--no-error-summary",
        "--cache-dir",
        "cache",
    ],
    "pyright": ["pyright", "--pythonpath", sys.executable, "--level", "error"],
}


def sessions(text):
    """Return the statements of the sessions in a text."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(text))


def programs():
    """Yield the examples of each page, sessions and scripts in their order, and of each public name."""
    for page in PAGES:
        blocks = re.findall(r"```python[^\n]*\n(.*?)```", page.read_text(), re.DOTALL)
        program = "".join(sessions(block) if ">>>" in block else block for block in blocks)
        if program:
            yield page.stem.replace("-", "_").lower(), program
    for name in sm.__all__:
        public = getattr(sm, name)
        members = vars(public).values() if inspect.isclass(public) else ()
        for number, each in enumerate((public, *members)):
            program = sessions(getattr(each, "__doc__", None) or "")
            if program:
                yield f"of_{name}_{number}", program


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_examples_pass_the_type_checkers(tmp_path, checker):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    for name, program in programs():
        (tmp_path / f"{name}.py").write_text(program)
    for package, module in (("dask", "array"), ("dask", "distributed")):  # without types: pyright guesses wrong ones
        (tmp_path / "typings" / package).mkdir(parents=True, exist_ok=True)
        for stub in ("__init__", module):
            (tmp_path / "typings" / package / f"{stub}.pyi").write_text("def __getattr__(name: str): ...\n")
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(ROOT)], "reportMissingImports": "none"})
    )
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path = {ROOT}\nfollow_imports = silent\nexclude = typings\n")
    command = [sys.executable, "-m", *CHECKERS[checker], "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
