"""What a test needs decides where it runs: the markers, by rule; and one profile for all generated tests.

A test says by a marker that it is `slow` or starts a `process`, and which packages it needs (`extra`, `framework`).
The rest follows here: a test of a folder in `KERNELS` is run in every mode of ``.ci/run``, and what needs nothing at
all is `quick`. A new file falls into its modes by the folder in which it lies.
"""

import importlib.util
import os
from pathlib import Path

import numba
import pytest
from hypothesis import HealthCheck, settings

from tests.support.simulator import install, turns

__all__ = ["turns"]  # fixtures

TESTS = Path(__file__).parent
# Folders whose tests call kernels on arrays of any kind: interpreted, bounds-checked and by old versions, too.
KERNELS = {
    "analysis",
    "cross_entropy",
    "hard_examples",
    "inputs",
    "kernels",
    "matching",
    "mining",
    "multibox",
    "reference",
}
NOT_QUICK = ("slow", "process", "cuda", "toolchain", "gpu", "extra", "framework")
NOT_IN_EVERY_MODE = ("slow", "process", "cuda", "toolchain", "gpu", "framework")

if numba.config.ENABLE_CUDASIM:
    install()

settings.register_profile(
    "ssd_mining",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ssd_mining")


def pytest_configure():
    """Let the workers of one run wait for what another one compiles, however long that takes on a busy machine."""
    from ssd_mining.kernels import cache

    cache.LOCK_SECONDS = 600.0


def pytest_addoption(parser):
    parser.addoption("--no-skips", action="store_true", help="fail if a test is skipped: all that they need is here")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items):
    for item in items:
        own = {mark.name for mark in item.iter_markers()}
        if item.path.relative_to(TESTS).parts[0] in KERNELS and not own.intersection(NOT_IN_EVERY_MODE):
            item.add_marker("kernel")
        if not own.intersection(NOT_QUICK):
            item.add_marker("quick")
        for mark in item.iter_markers("framework"):
            for package in mark.args:
                item.add_marker(package)
        if "cuda" in own:  # scalar NumPy, of which the simulator is made, warns of inf - inf
            item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))


def pytest_runtest_setup(item):
    from tests.support.device import missing_device  # after the stand-in is where the package looks for numba.cuda

    if item.get_closest_marker("cuda") and missing_device():
        pytest.skip(missing_device())
    for mark in (*item.iter_markers("extra"), *item.iter_markers("framework")):
        for package in mark.args:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")


def pytest_sessionfinish(session):
    """Say by the exit code that a test was skipped where none may be."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_report_header():
    return f"SSD_MINING_CACHE_DIR: {os.environ.get('SSD_MINING_CACHE_DIR', 'not set: the cache of the user')}"
