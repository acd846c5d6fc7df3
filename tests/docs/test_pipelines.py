"""The scripts of docs/pipelines.md, each in a process of its own, where its framework is installed."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.batches import ROOT

PAGE = (ROOT / "docs" / "pipelines.md").read_text()
SCRIPTS = dict(re.findall(r"```python (\w+)\n(.*?)```", PAGE, re.DOTALL))
# What the frameworks themselves warn of; ours are errors all the same.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def test_every_script_is_known():
    assert list(SCRIPTS) == ["multiprocessing", "torch", "tensorflow", "datasets", "ray", "dask", "xarray"]
    assert PAGE.count("```python") == len(SCRIPTS)


NEEDS = {
    "multiprocessing": pytest.mark.slow,  # compiles the analysis for several threads
    "dask": pytest.mark.extra("dask"),
    "xarray": pytest.mark.extra("dask", "xarray"),
}
NEEDS |= {name: pytest.mark.framework(name) for name in SCRIPTS if name not in NEEDS}


@pytest.mark.process
@pytest.mark.parametrize("framework", [pytest.param(name, marks=NEEDS[name]) for name in SCRIPTS])
def test_the_script_runs_and_its_assertions_hold(framework, tmp_path):
    script = tmp_path / "pipeline.py"
    script.write_text(SCRIPTS[framework])
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
