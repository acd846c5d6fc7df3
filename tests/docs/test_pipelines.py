"""The scripts of docs/pipelines.md, each in a process of its own, where its framework is installed."""

import importlib.util
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


@pytest.mark.full_size
@pytest.mark.parametrize("framework", SCRIPTS)
def test_the_script_runs_and_its_assertions_hold(framework, tmp_path):
    for package in {framework, *(["dask"] if framework == "xarray" else [])}:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    script = tmp_path / "pipeline.py"
    script.write_text(SCRIPTS[framework])
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
