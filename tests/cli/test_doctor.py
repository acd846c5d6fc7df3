"""The doctor tells what is there and what is not, and ends with 0 whatever that is."""

import json
import os
import platform
import subprocess
import sys
import tomllib
from importlib import metadata

import numba
import numpy as np
import pytest

from ssd_mining import cli
from ssd_mining.checks import install_command
from ssd_mining.cli import doctor
from tests.support.batches import ROOT

pytestmark = pytest.mark.process


def consult(*words, **environment):
    command = [sys.executable, "-m", "ssd_mining", "doctor", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.stderr == ""
    return done.stdout


def test_versions_machine_and_threads_are_those_of_this_process(tmp_path):
    found = json.loads(consult("--json", SSD_MINING_CACHE_DIR=str(tmp_path), NUMBA_NUM_THREADS="3"))
    assert found["versions"]["python"] == platform.python_version()
    assert (found["versions"]["numpy"], found["versions"]["numba"]) == (np.__version__, numba.__version__)
    assert found["machine"]["processors"] == os.cpu_count()
    assert found["threads"] == 3
    assert found["cache"] == {"directory": f"{tmp_path}/ssd_mining", "writable": True, "problem": None}
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_the_same_as_the_json(tmp_path):
    page = consult(SSD_MINING_CACHE_DIR=str(tmp_path))
    lines = dict(line.split(maxsplit=1) for line in page.splitlines() if line)
    assert lines["numpy"] == np.__version__
    assert lines["cache"] == f"{tmp_path}/ssd_mining, writable"


@pytest.mark.parametrize("missing", doctor.OPTIONAL)
def test_a_package_that_is_missing_comes_with_the_command_that_installs_it(monkeypatch, capsys, missing):
    real = metadata.version

    def version(name):
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3" if name in doctor.OPTIONAL else real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert f"{missing:14}not installed\n" in page
    assert page.endswith(f"\n\ninstall what some commands and files need: {install_command(missing)}\n")
    assert f"{missing:14}1.2.3" not in page


def test_frameworks_are_listed_without_a_command(monkeypatch, capsys):
    def version(name):
        if name == "torchvision":
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    assert cli.main(["doctor"]) == 0
    page = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("install what") for line in page)
    assert {f"{'torch':14}1.2.3", f"{'torchvision':14}not installed"} <= set(page)


def test_an_extra_installs_every_package_that_is_hinted_at():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirements = [
        requirement for extra in ("cli", "report", "zarr", "hdf5", "dask") for requirement in extras[extra]
    ]
    for package in doctor.OPTIONAL:
        assert any(requirement.startswith(package) for requirement in requirements), package


def test_a_cache_that_cannot_be_written_is_said_to_be_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    found = json.loads(consult("--json", SSD_MINING_CACHE_DIR=str(tmp_path / "file")))
    assert (found["cache"]["writable"], found["cache"]["problem"]) == (False, "Not a directory")
    (tmp_path / "ssd_mining").mkdir(mode=0o777)
    (tmp_path / "ssd_mining").chmod(0o777)
    page = consult(SSD_MINING_CACHE_DIR=str(tmp_path))
    assert "is not a directory that belongs to this user alone" in page
    off = json.loads(consult("--json", SSD_MINING_CACHE_DIR=str(tmp_path), SSD_MINING_CACHE="0"))
    assert off["cache"]["problem"] == "switched off by SSD_MINING_CACHE=0"
