"""The same input: what was found in another state of a file is neither taken up, nor merged, nor compared."""

import json
import os

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.report import parts
from tests.support.commands import run

RNG = np.random.default_rng(3)
LABELS = np.zeros((12, 60), np.uint8)
LABELS[:, ::11] = 1
OLD = RNG.gamma(0.3, 1.0, LABELS.shape).astype(np.float32)
NEW = OLD.copy()
NEW[5] *= 2  # one sample only, none of those that stand for a file of 12


def losses_in(folder):
    lines = (folder / "per_sample.csv").read_text().splitlines()
    place = lines[0].split(",").index("confidence_loss")
    return [float(line.split(",")[place]) for line in lines[1:]]


def write_npy(folder, array):
    """Write it at the same size, and put the time back."""
    path = folder / "losses.npy"
    before = path.stat() if path.exists() else None
    np.save(path, array)
    if before:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


def write_zarr(version, inside):
    def write(folder, array):
        import zarr

        mode = "r+" if (folder / "a.zarr").exists() else "w"
        group = zarr.open_group(folder / "a.zarr", mode=mode, zarr_format=version)
        if inside not in group:
            group.create_array(inside, shape=array.shape, chunks=(3, 60), dtype="f4", fill_value=-1)
        group[inside][:] = array
        return f"{folder}/a.zarr:{inside}"

    return write


def write_shards(folder, array):
    import zarr

    if not (folder / "s.zarr").exists():
        zarr.create_array(
            folder / "s.zarr", shape=array.shape, chunks=(1, 60), shards=(4, 60), dtype="f4", fill_value=-1
        )
    zarr.open_array(folder / "s.zarr", mode="r+")[:] = array
    return folder / "s.zarr"


def write_virtual(folder, array):
    import h5py

    with h5py.File(folder / "source.h5", "a") as file:
        file.require_dataset("x", array.shape, "f4")[:] = array
    if not (folder / "v.h5").exists():
        with h5py.File(folder / "v.h5", "w") as file:
            layout = h5py.VirtualLayout(array.shape, "f4")
            layout[:] = h5py.VirtualSource("source.h5", "x", array.shape)
            file.create_virtual_dataset("x", layout)
    return folder / "v.h5"


def write_external(folder, array):
    import h5py

    if not (folder / "e.h5").exists():
        with h5py.File(folder / "e.h5", "w") as file:
            file.create_dataset("x", array.shape, "f4", external=[(str(folder / "raw.bin"), 0, array.nbytes)])
    array.tofile(folder / "raw.bin")
    return folder / "e.h5"


def write_linked(folder, array):
    import h5py

    with h5py.File(folder / "target.h5", "a") as file:
        file.require_dataset("x", array.shape, "f4")[:] = array
    if not (folder / "l.h5").exists():
        with h5py.File(folder / "l.h5", "w") as file:
            file["losses"] = h5py.ExternalLink("target.h5", "/x")
    return folder / "l.h5"


WRITERS = {
    "npy": write_npy,
    "zarr 2": write_zarr(2, "losses"),
    "zarr 3": write_zarr(3, "losses"),
    "zarr 3, deep": write_zarr(3, "run/epoch/losses"),
    "shards": write_shards,
    "virtual": write_virtual,
    "external": write_external,
    "linked": write_linked,
}


def stopped_after(count, monkeypatch):
    """Let a report stop as if it were killed, once it has kept some parts."""
    save, done = parts.Part.save, []

    def stopping(part, path):
        save(part, path)
        done.append(path)
        if len(done) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(parts.Part, "save", stopping)


def kinds():
    """Yield the names of the writers, each with the package that it needs."""
    for kind in WRITERS:
        package = "zarr" if kind.startswith(("zarr", "shards")) else "h5py"
        yield kind if kind == "npy" else pytest.param(kind, marks=pytest.mark.extra(package))


@pytest.mark.parametrize("kind", list(kinds()))
def test_parts_of_a_file_that_changed_are_not_taken_up_and_those_of_the_same_are(tmp_path, monkeypatch, kind):
    np.save(tmp_path / "labels.npy", LABELS)
    monkeypatch.setattr(parts, "PART_BYTES", 6 * 300)
    name = WRITERS[kind](tmp_path, OLD)
    words = ("report", name, tmp_path / "labels.npy", "--background", 0, "--no-page", "--out", tmp_path / "out")
    with monkeypatch.context() as stopped:
        stopped_after(1, stopped)
        assert run(*words)[0] == 130
    with monkeypatch.context() as counted:
        stopped_after(1, counted)  # the first of two parts is there, so only the second is kept now
        assert run(*words)[0] == 130
    assert sorted(path.name for path in next(tmp_path.glob(".out.parts-*")).iterdir()) == ["0-6.npz", "6-12.npz"]
    assert WRITERS[kind](tmp_path, NEW) == name
    assert run(*words)[0] == 0
    assert losses_in(tmp_path / "out") == sm.confidence_loss(NEW, LABELS, background=0).confidence_loss.tolist()


@pytest.mark.parametrize("command", ["report", "mine"])
def test_a_file_that_changes_while_it_is_read_is_refused_and_nothing_is_written(tmp_path, monkeypatch, command):
    np.save(tmp_path / "labels.npy", LABELS)
    write_npy(tmp_path, OLD)
    from ssd_mining.cli import mine

    module, name = (parts, "analysed") if command == "report" else (mine, "_mine_blocks")
    real = getattr(module, name)

    def changed(*arguments):
        found = real(*arguments)
        write_npy(tmp_path, NEW)
        return found

    monkeypatch.setattr(module, name, changed)
    words = (command, tmp_path / "losses.npy", tmp_path / "labels.npy", "--background", 0, "--out", tmp_path / "out")
    code, out, err = run(*words, *(["--no-page"] if command == "report" else []))
    expected = "losses.npy: expected a file that stays as it is while it is read, got one that changed\n"
    assert (code, out, err) == (3, "", f"ssd-mining: error: {tmp_path}/{expected}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changed", ["losses", "labels", "ids"])
def test_shards_of_files_that_changed_in_between_are_refused(tmp_path, changed):
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "losses.npy", OLD)
    np.save(tmp_path / "ids.npy", np.arange(12))
    words = ("report", *(tmp_path / f"{name}.npy" for name in ("losses", "labels")), "--background", 0)
    words = (*words, "--ids", tmp_path / "ids.npy", "--no-page")
    assert run(*words, "--shard", "1/2", "--out", tmp_path / "s1")[0] == 0
    array = np.load(tmp_path / f"{changed}.npy")
    np.save(tmp_path / f"{changed}.npy", np.roll(array, 1))
    assert run(*words, "--shard", "2/2", "--out", tmp_path / "s2")[0] == 0
    code, out, err = run("merge", tmp_path / "s1", tmp_path / "s2", "--no-page", "--out", tmp_path / "out")
    expected = f"expected a shard of the same data as {tmp_path}/s1, got one of files that changed\n"
    assert (code, out, err) == (3, "", f"ssd-mining: error: {tmp_path}/s2: {expected}")
    np.save(tmp_path / f"{changed}.npy", array)  # the same again, at another time
    assert run(*words, "--shard", "2/2", "--out", tmp_path / "s3")[0] == 0
    assert run("merge", tmp_path / "s1", tmp_path / "s3", "--no-page", "--out", tmp_path / "out")[0] == 0


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("change", ["one sample", "nan", "labels", "class", "dtype", "kind"])
def test_arrays_that_are_not_those_of_the_report_are_refused_in_one_sentence(tmp_path, change, logits):
    old = RNG.normal(0, 2, (12, 60, 4)).astype(np.float32) if logits else OLD
    np.save(tmp_path / "values.npy", old)
    np.save(tmp_path / "labels.npy", LABELS)
    for name in "ab":
        words = ("report", tmp_path / "values.npy", tmp_path / "labels.npy", "--background", 0, "--no-page")
        assert run(*words, "--out", tmp_path / name)[0] == 0
    assert json.loads(run("compare", tmp_path / "a", tmp_path / "b", "--json")[1])["churn"]["overlap"] == 1
    new, labels = old.copy(), LABELS.copy()
    if change == "one sample":
        new[7] = new[8]
    elif change == "nan":
        new[7, 3] = np.nan
    elif change == "labels":
        labels[7] = np.roll(labels[7], 1)
    elif change == "class":
        labels = labels.astype(np.int64) - 5
    elif change == "dtype":
        new = new > 0
    else:
        labels = labels > 0
        new = new * 2
    np.save(tmp_path / "values.npy", new)
    np.save(tmp_path / "labels.npy", labels)
    code, out, err = run("compare", tmp_path / "a", tmp_path / "b", "--json")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith(f"ssd-mining: error: {tmp_path}/")
    advice = f"; name where the arrays of {tmp_path}/a are now, or leave this out with --no-churn\n"
    assert err.endswith(advice)
    assert run("compare", tmp_path / "a", tmp_path / "b", "--json", "--no-churn")[0] == 0
    np.savez(tmp_path / "old.npz", values=old, labels=LABELS)
    moved = (f"{tmp_path}/old.npz:values", f"{tmp_path}/old.npz:labels")
    assert run("compare", tmp_path / "a", tmp_path / "b", "--inputs-a", *moved, "--inputs-b", *moved)[0] == 0
