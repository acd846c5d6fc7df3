"""Files: rows come back as they were saved, damage is named, output is whole or absent."""

import os
import stat
import zipfile

import numpy as np
import pytest

from ssd_mining.files.output import array_writer, atomic_directory, write_csv
from ssd_mining.files.sources import KNOWN, DataError, open_array

VALUES = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
SCORES = np.eye(3, dtype=np.float64)[np.random.default_rng(1).integers(0, 3, (7, 5))]


def read_in_blocks(name, count):
    with open_array(name) as source:
        blocks = [source[start : start + count] for start in range(0, len(source) + count, count)]
        assert all(block.flags.writeable and block.dtype == source.dtype for block in blocks)
        return np.concatenate(blocks), source


def refusal(name, count=100):
    with pytest.raises(DataError) as caught, open_array(name) as source:
        source[:count]
    return str(caught.value)


@pytest.mark.parametrize("count", [1, 3, 7, 100])
@pytest.mark.parametrize(
    "expected",
    [
        VALUES,
        SCORES,
        np.asfortranarray(VALUES),
        np.asfortranarray(SCORES),
        VALUES.astype(">f8"),
        VALUES.astype(np.float16),
        VALUES > 0,
        np.asfortranarray(VALUES > 0),
        np.arange(7, dtype=np.int8),
        VALUES[:0],
        VALUES[:, :0],
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}{'F' if np.isfortran(array) else ''}",
)
def test_rows_of_an_npy_file_come_back_in_blocks_of_any_size(tmp_path, expected, count):
    np.save(tmp_path / "a.npy", expected)
    got, source = read_in_blocks(tmp_path / "a.npy", count)
    np.testing.assert_array_equal(got, expected)
    assert (source.shape, source.dtype) == (expected.shape, expected.dtype)
    assert (source.outline.shape, source.outline.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_of_an_archive_is_found_by_its_key(tmp_path, save):
    save(tmp_path / "a.npz", losses=VALUES, scores=SCORES)
    for key, expected in (("losses", VALUES), ("scores", SCORES)):
        got, source = read_in_blocks(f"{tmp_path}/a.npz:{key}", 3)
        np.testing.assert_array_equal(got, expected, strict=True)
        assert source.name == f"{tmp_path}/a.npz:{key}"


def test_the_only_array_of_an_archive_needs_no_key(tmp_path):
    np.savez(tmp_path / "a.npz", VALUES)
    np.testing.assert_array_equal(read_in_blocks(tmp_path / "a.npz", 3)[0], VALUES)


def test_a_header_of_version_2_is_read(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, VALUES, version=(2, 0))
    np.testing.assert_array_equal(read_in_blocks(tmp_path / "a.npy", 3)[0], VALUES)


def test_any_byte_but_0_of_a_stored_bool_is_true(tmp_path):
    # NumPy keeps such a byte as it is, and a kernel that takes its bits for a label miscounts.
    np.save(tmp_path / "a.npy", np.array([[0, 1, 2, 255]], np.uint8).view(np.bool_))
    got, _ = read_in_blocks(tmp_path / "a.npy", 1)
    np.testing.assert_array_equal(got.view(np.uint8), [[0, 1, 1, 1]])


def test_a_name_that_cannot_be_an_array_is_refused(tmp_path):
    (tmp_path / "folder.npy").mkdir()
    suffixes = f"a name that ends in {KNOWN}"
    for name, expected in {
        tmp_path / "none.npy": "expected a readable file, got No such file or directory",
        f"{tmp_path}/none.npz:key": "expected a readable file, got No such file or directory",
        tmp_path / "folder.npy": "expected a readable file, got Is a directory",
        tmp_path: f"expected {suffixes}, got another",
        tmp_path / "losses.xls": f"expected {suffixes}, got another",
        f"{tmp_path}/a.npy:key": f"expected {suffixes}, got another",
    }.items():
        assert refusal(name) == f"{name}: {expected}"


def test_a_key_that_is_missing_is_answered_with_those_that_exist(tmp_path):
    np.savez(tmp_path / "two.npz", losses=VALUES, labels=VALUES)
    np.savez(tmp_path / "empty.npz")
    keys = "expected one of its arrays (losses, labels) after the colon"
    assert refusal(tmp_path / "two.npz") == f"{tmp_path}/two.npz: {keys}, got none"
    assert refusal(f"{tmp_path}/two.npz:") == f"{tmp_path}/two.npz:: {keys}, got none"
    assert refusal(f"{tmp_path}/two.npz:loss") == f"{tmp_path}/two.npz:loss: {keys}, got 'loss'"
    assert refusal(tmp_path / "empty.npz") == f"{tmp_path}/empty.npz: expected an array in it, got none"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[None]]), "bools, integers or floats, got pickled objects, which are never loaded"),
        (np.array([["a"]]), "bools, integers or floats, got dtype <U1"),
        (np.zeros((1, 1), complex), "bools, integers or floats, got dtype complex128"),
        (np.zeros(1, [("a", "f4")]), "bools, integers or floats, got dtype [('a', '<f4')]"),
        (np.array(1.0), "an array with a row per sample, got shape ()"),
    ],
)
def test_what_holds_no_rows_of_numbers_is_refused(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array)
    assert refusal(tmp_path / "a.npy") == f"{tmp_path}/a.npy: expected {expected}"
    np.savez(tmp_path / "a.npz", a=array)
    assert refusal(f"{tmp_path}/a.npz:a") == f"{tmp_path}/a.npz:a: expected {expected}"


def test_a_fortran_ordered_array_of_an_archive_is_refused_with_advice(tmp_path):
    np.savez(tmp_path / "a.npz", np.asfortranarray(VALUES))
    expected = (
        "expected rows in C order, got Fortran order; save it again through numpy.ascontiguousarray, or as .npy"
    )
    assert refusal(tmp_path / "a.npz") == f"{tmp_path}/a.npz: {expected}"


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    sound = f"{tmp_path}/a.{{}}: expected a sound file, got this: {{}}"
    magic = r"the magic string is not correct; expected b'\x93NUMPY', got "
    np.savez(tmp_path / "zip.npz", VALUES)
    for suffix, content, expected in [
        ("npy", b"", "EOF: reading magic string, expected 8 bytes got 0"),
        ("npy", b"sample,loss\n", f"{magic}b'sample'"),
        ("npy", b"\x80\x04a pickle", f"{magic}b'\\x80\\x04a pi'"),
        ("npy", (tmp_path / "zip.npz").read_bytes(), rf"{magic}b'PK\x03\x04-\x00'"),
        ("npz", b"", "File is not a zip file"),
        ("npz", b"sample,loss\n", "File is not a zip file"),
    ]:
        (tmp_path / f"a.{suffix}").write_bytes(content)
        assert refusal(tmp_path / f"a.{suffix}") == sound.format(suffix, expected)


def test_an_archive_under_a_password_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", VALUES)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[6] |= 1  # the encryption flags, of the member and of the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert "is encrypted, password required for extraction" in refusal(tmp_path / "a.npz")


def test_a_file_shorter_than_its_header_promises_is_refused_before_a_row_is_read(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    content = (tmp_path / "a.npy").read_bytes()[:-1]
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    promise = "expected 140 bytes of values for shape (7, 5) and dtype float32, got 139: the file is cut short"
    for name in ("a.npy", "a.npz"):
        assert refusal(tmp_path / name, count=0) == f"{tmp_path}/{name}: {promise}"


def test_a_shape_that_no_memory_could_hold_is_refused(tmp_path):
    for shape, expected in [((10**15, 4), "got 0: the file is cut short"), ((-1, 4), "got shape (-1, 4)")]:
        with (tmp_path / "a.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        assert refusal(tmp_path / "a.npy").endswith(expected)


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    with open_array(tmp_path / "a.npy") as source:
        source[:3]
        os.truncate(tmp_path / "a.npy", (tmp_path / "a.npy").stat().st_size - 60)
        with pytest.raises(DataError) as caught:
            source[3:6]
    assert str(caught.value) == f"{tmp_path}/a.npy: expected 40 more bytes, got the end of the file"


def test_damage_of_a_file_gives_a_data_error_or_other_numbers_but_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", VALUES)
    np.savez_compressed(tmp_path / "a.npz", VALUES)
    num_refused = 0
    for name in ("a.npy", "a.npz"):
        sound = (tmp_path / name).read_bytes()
        for _ in range(400):
            content = np.frombuffer(sound, np.uint8).copy()
            places = rng.integers(content.size, size=rng.integers(1, 4))
            content[places] = rng.choice([*b"{}()[]'\", 09\n", *rng.integers(256, size=12)], size=places.size)
            end = rng.choice([content.size, rng.integers(content.size)])
            (tmp_path / name).write_bytes(content[:end].tobytes())
            try:
                read_in_blocks(tmp_path / name, 3)
            except DataError:
                num_refused += 1
    assert num_refused > 500


def test_a_file_written_in_blocks_is_the_file_that_numpy_would_save(tmp_path):
    for name, blocks in [("rows", [VALUES[:3], VALUES[3:3], VALUES[3:]]), ("none", []), ("many", [VALUES] * 2000)]:
        with array_writer(tmp_path / f"{name}.npy", np.float32, (5,)) as append:
            for block in blocks:
                append(block)
        expected = np.concatenate([VALUES[:0], *blocks])
        got = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(got, expected, strict=True)
        np.save(tmp_path / "expected.npy", expected)
        assert (tmp_path / f"{name}.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_blocks_may_be_strided(tmp_path):
    with array_writer(tmp_path / "a.npy", np.float32, (5,)) as append:
        append(VALUES[::-1])
        append(np.asfortranarray(VALUES))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate([VALUES[::-1], VALUES]))


@pytest.mark.parametrize("block", [VALUES.astype(np.float64), VALUES[:, :4], VALUES[0]])
def test_a_block_of_another_kind_is_refused(tmp_path, block):
    expected = rf"block: expected float32 rows of shape \(5,\), got {block.dtype} of shape "
    with (
        pytest.raises(ValueError, match=expected),
        array_writer(tmp_path / "a.npy", np.float32, (5,)) as append,
    ):
        append(block)


def test_a_file_is_not_written_over(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"precious")
    with pytest.raises(FileExistsError), array_writer(tmp_path / "a.npy", np.float32):
        pass
    assert (tmp_path / "a.npy").read_bytes() == b"precious"


def test_floats_of_a_table_read_back_to_the_same_bits(tmp_path):
    values = np.append(np.random.default_rng(0).normal(size=25_000) ** 9, [np.nan, np.inf, -0.0, 5e-324])
    write_csv(tmp_path / "a.csv", {"sample": np.arange(values.size), "loss": values})
    lines = (tmp_path / "a.csv").read_text().splitlines()
    got = np.array([[float(word) for word in line.split(",")] for line in lines[1:]])
    assert lines[0] == "sample,loss"
    np.testing.assert_array_equal(got[:, 0], np.arange(values.size))
    np.testing.assert_array_equal(got[:, 1].view(np.int64), values.view(np.int64))


def test_a_table_without_rows_has_its_header(tmp_path):
    write_csv(tmp_path / "a.csv", {"sample": np.arange(0), "loss": np.zeros(0)})
    assert (tmp_path / "a.csv").read_bytes() == b"sample,loss\n"


def test_a_directory_appears_with_all_its_files(tmp_path):
    final = tmp_path / "new" / "mined"
    with atomic_directory(final) as folder:
        (folder / "a.txt").write_text("whole")
        assert folder.name.startswith(".mined.partial-")
        assert not final.exists()
    assert [path.name for path in final.parent.iterdir()] == ["mined"]
    assert (final / "a.txt").read_text() == "whole"


def test_a_directory_has_the_permissions_of_any_other(tmp_path):
    with atomic_directory(tmp_path / "mined"):
        pass
    (tmp_path / "other").mkdir()
    got, expected = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("mined", "other"))
    assert got == expected


@pytest.mark.skipif(os.name != "posix", reason="directories can be synced on POSIX systems only")
def test_the_files_are_on_the_disk_before_the_directory_gets_its_name(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "mined").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_directory(tmp_path / "mined") as folder:
        (folder / "a.txt").write_text("whole")
    paths = (tmp_path / "mined" / "a.txt", tmp_path / "mined", tmp_path)
    assert synced == [(path.stat().st_ino, path == tmp_path) for path in paths]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_directory_that_fails_leaves_nothing(tmp_path, error):
    def fail():
        with atomic_directory(tmp_path / "mined") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "mined").mkdir()
    with atomic_directory(tmp_path / "mined") as folder:
        (folder / "a.txt").write_text("whole")
    assert (tmp_path / "mined" / "a.txt").read_text() == "whole"


def test_a_directory_that_is_in_use_is_refused_and_left_alone(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / "full", tmp_path / "file", "."):
        with pytest.raises(FileExistsError) as caught, atomic_directory(path):
            pass
        assert str(caught.value) == f"{path}: expected a new name or an empty directory, got one that is in use"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_that_was_filled_meanwhile_is_left_alone(tmp_path):
    def race():
        with atomic_directory(tmp_path / "mined"):
            (tmp_path / "mined").mkdir()
            (tmp_path / "mined" / "a.txt").write_text("of another process")

    with pytest.raises(FileExistsError, match="in use"):
        race()
    assert [path.name for path in tmp_path.iterdir()] == ["mined"]
    assert (tmp_path / "mined" / "a.txt").read_text() == "of another process"
