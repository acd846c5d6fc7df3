"""The pages list the options that every command has, with their values and their defaults."""

import argparse
import re

import pytest

import ssd_mining as sm
from ssd_mining.cli import entry, options
from tests.support.batches import ROOT

# Where the options of a command are listed: the page and the section.
SECTIONS = {
    "demo": ("cli.md", "demo"),
    "match": ("cli.md", "match"),
    "mine": ("cli.md", "Options of `mine`"),
    "report": ("report.md", "Options"),
    "merge": ("report.md", "Shards"),
    "compare": ("report.md", "compare"),
    "recipes": ("recipes.md", "Which system printed this loss?"),
    "doctor": ("cli.md", "doctor"),
    "warmup": ("cli.md", "warmup"),
}
TABLES = ("match", "mine", "report", "compare", "recipes")  # the sections that are tables
FLAG = r"`(--[a-z-]+)[^`]*`"


def actions(command):
    """Return the options that a command has, by their flags."""
    parser = argparse.ArgumentParser(add_help=False)
    entry.COMMANDS[command].add_options(parser)
    return {flag: action for action in parser._actions for flag in action.option_strings}


def section(command):
    page, title = SECTIONS[command]
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {title}"
    return found[1]


def rows(command):
    """Return the rows of the table of options: name, meaning, default, by each flag."""
    lines = [line for line in section(command).splitlines() if line.startswith("| `--")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {flag: row for row in cells for flag in re.findall(FLAG, row[0])}


def fields():
    """Return the fields of `Mining` that are options, by their flags."""
    return {f"--{name.replace('_', '-')}": name for name in options._RULE_OPTIONS}


def matching():
    """Return the options that say how boxes are matched, of those that the section of `match` lists."""
    parser = argparse.ArgumentParser(add_help=False)
    options._add_matching(parser)
    return {flag for action in parser._actions for flag in action.option_strings} & rows("match").keys()


def documented(command):
    listed = set(rows(command))
    if "the options of [`match`]" in section(command):
        listed |= matching()
    if command != "report":
        return listed or set(re.findall(FLAG, section(command)))
    # Its page refers to the selection of `mine`, and says which options of that it lacks.
    excepted = section(command).partition("except")[2]
    return listed | (fields().keys() & rows("mine").keys()) - set(re.findall(FLAG, excepted))


def test_every_command_is_documented():
    assert SECTIONS.keys() == entry.COMMANDS.keys()


@pytest.mark.parametrize("command", entry.COMMANDS)
def test_the_pages_list_the_options_of_a_command(command):
    assert sorted(documented(command)) == sorted(actions(command))


def test_report_lacks_what_its_page_says():
    excepted = set(re.findall(FLAG, section("report").partition("except")[2]))
    assert excepted == {"--scope", "--pool-size", "--seed"} == excepted & actions("mine").keys()


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command in TABLES for flag in rows(command)])
def test_a_row_says_what_the_option_takes_and_its_default(command, flag):
    action, (name, meaning, default) = actions(command)[flag], rows(command)[flag]
    if isinstance(action.metavar, str):
        assert f"`{flag} {action.metavar}`" in name
    if action.choices:
        assert sorted(re.findall("`([a-z_]+)`", meaning)) == sorted(action.choices)
    value = action.default
    if value is None and flag in fields():
        value = getattr(sm.Mining(), fields()[flag])
    if value is not None and not isinstance(value, bool):
        assert default.strip("`") == (value if isinstance(value, str) else f"{value:g}")
