"""The house of the tests: its tree is that of the package, no test imports a test, and files keep their size."""

import ast
import re
import tomllib

import pytest

from tests.support.batches import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))
# Folders that no module of the package gives its name: of the docs, the benchmarks, the house; of other systems.
OTHERS = {"benchmarks", "docs", "house", "support", "systems"}
MOST_LINES = 400
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))


def imported(path):
    """Yield what a file imports, wherever the import stands; also in the code that it hands to a child."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_package(folder):
    """Say whether a folder of tests has the name of a folder or a module of the package."""
    place = ROOT / "ssd_mining" / folder
    return place.is_dir() or place.with_suffix(".py").is_file()


def test_the_tree_mirrors_the_package():
    folders = {path.parent.relative_to(TESTS) for path in FILES} - {TESTS.relative_to(TESTS)}
    assert not [str(folder) for folder in folders if folder.parts[0] not in OTHERS and not of_package(folder)]
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]


@every_file
def test_no_test_imports_a_test_or_a_benchmark(path):
    names = set(imported(path))
    assert not {name for name in names if re.search(r"(^|\.)test_|conftest", name)}
    assert not {name for name in names if name.startswith("tests.")} - {n for n in names if "tests.support" in n}
    if path != TESTS / "support" / "benchmarks.py":
        assert not {name for name in names if name.split(".")[0] == "benchmarks"}


@every_file
def test_files_of_tests_keep_their_size(path):
    assert path.read_text().count("\n") <= MOST_LINES


@every_file
def test_tests_lie_beside_their_package_and_helpers_in_support(path):
    has_tests = bool(re.search(r"^def test_", path.read_text(), re.MULTILINE))
    assert has_tests == path.name.startswith("test_")
    assert not (has_tests and "support" in path.relative_to(TESTS).parts)


def test_the_readme_and_the_contributors_name_the_steps_of_the_gate():
    gate = (ROOT / ".ci" / "run").read_text()
    described = re.findall(r"^#   (\w+) ", gate, re.MULTILINE)
    assert described
    for step in described:
        assert re.search(rf"^{step}\(\) {{", gate, re.MULTILINE), step
    called = re.findall(r"\.ci/run ([a-z ]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert {word for words in called for word in words.split()} == set(described)
    assert (ROOT / "README.md").read_text().count("python -m pytest\n") == 1


def test_every_marker_is_chosen_by_a_step_of_the_gate():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    gate = (ROOT / ".ci" / "run").read_text()
    chosen = " ".join(re.findall(r"-m \"?([a-z_ ()]+)", gate))
    by_hand = {"tensorflow", "ray", "torchvision"}  # docs/pipelines.md and docs/how-to/torchvision.md say when
    by_rule = {"process", "framework"}  # not quick; a marker of each framework
    for marker in settings["markers"]:
        name = re.match(r"\w+", marker)[0]
        assert name in by_hand | by_rule or re.search(rf"\b{name}\b", chosen), name
