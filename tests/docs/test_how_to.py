"""The scripts of docs/how-to, each in a process of its own, where its framework is installed."""

import re

import pytest

from tests.support.batches import ROOT
from tests.support.commands import run_script

SCRIPTS = {
    name: script
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md"))
    for name, script in re.findall(r"```python (\w+)\n(.*?)```", page.read_text(), re.DOTALL)
}


@pytest.mark.process
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.framework(name)) for name in SCRIPTS])
def test_the_script_runs_and_its_assertions_hold(name, tmp_path):
    run_script(SCRIPTS[name], tmp_path)
