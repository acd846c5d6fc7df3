"""The first command of the README, and what docs/install.md says of the extras."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.support.batches import ROOT
from tests.support.commands import run

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = SETTINGS["optional-dependencies"]


def first_commands():
    """Return the commands of the first block of the README, as words."""
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    return [shlex.split(command) for command in block.replace("\n", " ").split("&&")]


@pytest.mark.extra("jinja2", "matplotlib")
def test_the_first_command_of_the_readme_ends_with_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, _, *ours = first_commands()
    for program, *words in ours:
        assert program == ".venv/bin/ssd-mining"
        code, out, err = run(*words)
        assert (code, err) == (0, "")
    page = Path(out.split()[-1])
    assert page.suffix == ".html"
    assert page.read_text().lower().startswith("<!doctype html>")


def test_the_first_command_of_the_readme_installs_what_the_page_and_the_bar_need():
    install = first_commands()[1]
    extras = re.fullmatch(r"\.\[(.*)\]", install[-1])[1].split(",")
    needed = {re.match(r"\w+", each)[0] for extra in extras for each in EXTRAS[extra]}
    assert {"rich", "jinja2", "matplotlib"} <= needed


def test_the_page_lists_every_extra_and_the_versions_that_are_needed():
    page = (ROOT / "docs" / "install.md").read_text()
    table = page.partition("## Extras")[2].partition("## Versions")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall("`(.*?)`", " ".join(cells))) == EXTRAS.keys()
    lowest = dict(each.split(">=") for each in SETTINGS["dependencies"]) | {"python": SETTINGS["requires-python"][2:]}
    for package, version in lowest.items():
        assert re.search(rf"^\| {package} \| {re.escape(version)} or later", page, re.MULTILINE | re.IGNORECASE)


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_nothing_is_installed_from_an_index_on_which_it_is_not(path):
    told = re.findall(r"pip install [^`\n]*ssd_mining\b(?![-\w]*\.whl|-)", path.read_text())
    assert told == (["pip install ssd_mining"] if path.name == "install.md" else [])  # it says that this fails
