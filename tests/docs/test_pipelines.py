"""The scripts of docs/pipelines.md, each in a process of its own, where its framework is installed."""

import re

import pytest

from tests.support.batches import ROOT
from tests.support.commands import run_script

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
    run_script(SCRIPTS[framework], tmp_path, **QUIET, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
