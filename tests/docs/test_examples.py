"""Every documented example runs and prints what it says: docstrings, the README and the docs."""

import doctest
import importlib
import pkgutil
import re
import sys

import pytest

import ssd_mining
from tests.support.batches import ROOT, printed

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = [m.name for m in pkgutil.walk_packages(ssd_mining.__path__, "ssd_mining.") if "__main__" not in m.name]
OPTIONAL = {
    "ssd_mining.dask": "dask.array",
    "ssd_mining.pyinstaller_hooks.hook-ssd_mining": "PyInstaller",
}
SLOW = {"ssd_mining.compile_ahead"}  # compiles for several threads
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MODULES])
def test_the_examples_of_the_docstrings_run(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    if name in SLOW:  # here it would compile for all that other tests have called, too
        code = f"import doctest, {name}; print(doctest.testmod({name}, optionflags={FLAGS}).failed)"
        assert printed(code) == ["0"]
        return
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
        runner.run(test)
        assert runner.failures == 0, test.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_examples_of_the_pages_run(page):
    test = doctest.DocTestParser().get_doctest(page.read_text(), {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    runner.run(test)
    assert runner.failures == 0
    # A fenced block of Python without prompts is a script: it must run as it stands.
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        if ">>>" not in block:
            exec(compile(block, str(page), "exec"), {"__name__": "example"})  # noqa: S102 - our own page


@pytest.mark.parametrize(
    "name", [n for n in ssd_mining.__all__ if n not in ("reference", "recipes", "matching_rules", "Warmup")]
)
def test_every_public_name_shows_an_example(name):
    public = getattr(ssd_mining, name)
    text = (public.__doc__ or "") + "".join(getattr(m, "__doc__", "") or "" for m in vars(public).values())
    assert ">>> " in text, name
    assert sys.modules[public.__module__].__doc__


@pytest.mark.parametrize("name", ["confidence_loss", "mine_hard_negatives", "negative_quota", "Mining"])
def test_docstrings_keep_the_order_of_their_sections(name):
    order = ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"]
    found = re.findall(r"^ *([A-Z]\w+)\n *-{4,}$", getattr(ssd_mining, name).__doc__, re.MULTILINE)
    assert found == [section for section in order if section in found]
    assert {"Parameters", "Raises", "Examples"} <= set(found)
