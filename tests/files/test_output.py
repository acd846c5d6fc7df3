"""Directories that replace others: the old one goes when the new one is complete, and nothing else goes."""

from pathlib import Path

import pytest

from ssd_mining.files.output import atomic_directory
from tests.support.commands import content


def replace(path, *names):
    """Replace a directory that holds `names` by one with a new a.txt."""
    with atomic_directory(path, names) as folder:
        (folder / "a.txt").write_text("new")


def test_the_files_of_a_command_are_replaced_all_at_once(tmp_path):
    final = tmp_path / "mined"
    final.mkdir()
    for name in ("a.txt", "b.txt"):
        (final / name).write_text("old")
    with atomic_directory(final, ["a.txt", "b.txt", "c.txt"]) as folder:
        (folder / "a.txt").write_text("new")
        assert (final / "a.txt").read_text() == "old"
    assert content(final) == {"a.txt": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["mined"]


def test_a_directory_with_anything_else_in_it_is_not_replaced(tmp_path):
    final = tmp_path / "mined"
    (final / "b.txt").mkdir(parents=True)
    (final / "a.txt").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    for names, other in {("a.txt",): "b.txt", ("b.txt",): "a.txt", ("a.txt", "b.txt"): "b.txt"}.items():
        expected = f"a directory with no files but those of this command, got {other} in it"
        with pytest.raises(FileExistsError, match=expected):
            replace(final, *names)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_is_replaced_comes_back_if_the_new_does_not_get_its_name(tmp_path, monkeypatch, error):
    final, rename = tmp_path / "mined", Path.rename
    final.mkdir()
    (final / "a.txt").write_text("old")

    def fail(path, target):
        if ".partial-" in path.name:
            assert not final.exists()
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(error):
        replace(final, "a.txt")
    assert content(final) == {"a.txt": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["mined"]


def test_a_file_that_comes_at_the_last_moment_is_not_lost(tmp_path, monkeypatch):
    final, rename = tmp_path / "mined", Path.rename
    final.mkdir()
    (final / "a.txt").write_text("old")

    def race(path, target):
        if path == final:
            (final / "b.txt").write_text("of another process")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", race)
    replace(final, "a.txt")
    assert content(final) == {"a.txt": b"new"}
    (old,) = (path for path in tmp_path.iterdir() if path != final)
    assert old.name.startswith(".mined.replaced-")
    assert content(old) == {"b.txt": b"of another process"}
