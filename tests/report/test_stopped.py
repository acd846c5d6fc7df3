"""Reports that are stopped half-way: what is left, and what is taken up."""

import os
import signal

import pytest

import ssd_mining as sm
from ssd_mining.report import parts
from tests.support.commands import USED, content, run, shell
from tests.support.reports import report, words

pytestmark = pytest.mark.process

DYING = """
import os, signal, sys
from ssd_mining import cli
from ssd_mining.report import parts

parts.PART_BYTES, save, count = 2000, parts.Part.save, []

def dying(part, path):
    count.append(path)
    if len(count) == 3:
        path.with_name(".half.partial").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(part, path)

parts.Part.save = dying
cli.main(sys.argv[1:])
"""


@pytest.fixture
def killed(data, monkeypatch):
    """Kill a run while it writes its third part; return its folder, and a list of the parts computed from then on."""
    folder, _ = data
    process = shell(
        *words(folder), "--no-page", "--out", folder / "out", script=DYING, env={"NUMBA_DISABLE_JIT": "1"}
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "out").exists()
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    computed = []
    save = parts.Part.save
    monkeypatch.setattr(parts.Part, "save", lambda part, path: (computed.append(path.name), save(part, path)))
    return folder, computed


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".out")]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_is_taken_up_where_it_was(killed):
    folder, computed = killed
    assert len(left_over(folder)) == 1
    got = report(folder, "out")
    assert computed == ["20-30.npz", "30-40.npz", "40-50.npz", "50-60.npz"]
    assert left_over(folder) == []
    computed.clear()
    assert report(folder, "again") == got
    assert len(computed) == 6


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("change", ["option", "data", "ids"])
def test_a_run_with_other_data_or_options_takes_up_nothing(killed, change):
    folder, computed = killed
    options = {"option": ["--top", 3], "ids": ["--ids", folder / "ids.txt"]}.get(change, [])
    if change == "data":
        os.utime(folder / "losses.npy", ns=(1, 1))
    report(folder, "out", *options)
    assert len(computed) == 6


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_part_that_is_damaged_is_computed_again(killed):
    folder, computed = killed
    part = folder / left_over(folder)[0] / "0-10.npz"
    part.write_bytes(part.read_bytes()[:100])
    got = report(folder, "out")
    assert computed[0] == "0-10.npz"
    assert report(folder, "again") == got


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_that_is_stopped_keeps_its_finished_parts(data, monkeypatch, error):
    folder, _ = data
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    save, done = parts.Part.save, []

    def stopped(part, path):
        if len(done) == 4:
            raise error
        done.append(path)
        save(part, path)

    monkeypatch.setattr(parts.Part, "save", stopped)
    code, out, err = run(*words(folder), "--no-page", "--out", folder / "out")
    if error is KeyboardInterrupt:
        kept = "40 samples are done and kept: the same command takes the run up from there"
        assert (code, out, err) == (130, "", f"ssd-mining: interrupted; {kept}\n")
    else:
        message = f"{folder}/out: expected a place to write to, got No space left on device"
        assert (code, out, err) == (3, "", f"ssd-mining: error: {message}\n")
    assert len(list((folder / left_over(folder)[0]).iterdir())) == 4
    monkeypatch.setattr(parts.Part, "save", lambda part, path: (done.append(path), save(part, path)))
    report(folder, "out")
    assert len(done) == 6


@pytest.mark.parametrize("limit", [100, 30_000])
def test_a_full_disk_ends_with_3_and_leaves_no_report(data, limit):
    resource = pytest.importorskip("resource", reason="needs the limits of a POSIX system")
    folder, _ = data
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        got = run(
            *words(folder), "--no-page", "--ids", folder / "ids.txt", "--levels", "20,15,5", "--out", folder / "out"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = f"{folder}/out: expected a place to write to, got File too large"
    assert got == (3, "", f"ssd-mining: error: {message}\n")
    assert not (folder / "out").exists()
    assert all(path.suffix == ".npz" for name in left_over(folder) for path in (folder / name).iterdir())
    report(folder, "out", "--ids", folder / "ids.txt", "--levels", "20,15,5")


def test_a_directory_in_use_is_left_alone_and_nothing_is_computed_for_it(data, monkeypatch):
    folder, _ = data
    (folder / "out").mkdir()
    (folder / "out" / "precious.txt").write_text("precious")
    monkeypatch.setattr(sm.LossAnalysis, "update", lambda *_: pytest.fail("computed"))
    for command in (words(folder), ["merge", folder]):
        got = run(*command, "--no-page", "--out", folder / "out")
        assert got == (2, "", f"ssd-mining: error: {folder}/out: {USED}\n")
    assert content(folder / "out") == {"precious.txt": b"precious"}


def test_a_place_that_cannot_be_written_ends_with_3_before_anything_is_computed(data, monkeypatch):
    folder, _ = data
    (folder / "file").write_text("precious")
    monkeypatch.setattr(parts, "resumed", lambda *_: pytest.fail("computed"))
    code, _, err = run(*words(folder), "--no-page", "--out", folder / "file" / "out")
    message = f"{folder}/file/out: expected a place to write to, got Not a directory"
    assert (code, err) == (3, f"ssd-mining: error: {message}\n")
