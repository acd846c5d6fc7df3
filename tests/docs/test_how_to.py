"""The scripts of docs/how-to, each in a process of its own, where its framework is installed."""

import re
import subprocess
import sys

import pytest

from tests.support.batches import ROOT

SCRIPTS = {
    name: script
    for page in sorted((ROOT / "docs" / "how-to").glob("*.md"))
    for name, script in re.findall(r"```python (\w+)\n(.*?)```", page.read_text(), re.DOTALL)
}


@pytest.mark.process
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.framework(name)) for name in SCRIPTS])
def test_the_script_runs_and_its_assertions_hold(name, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{SCRIPTS[name]}")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
