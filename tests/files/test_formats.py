"""Files of other formats than NumPy's: their rows come back, their damage is named, what is missing is hinted at."""

import json
import sys
import warnings

import numpy as np
import pytest

from ssd_mining.checks import install_command
from ssd_mining.files.sources import DataError, open_array
from tests.support.formats import FORMATS, format_case, write_hdf5, write_safetensors

LOSSES = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
ARRAYS = {
    "losses": LOSSES,
    "half": LOSSES.astype(np.float16),
    "double": LOSSES.astype(np.float64),
    "labels": np.arange(35, dtype=np.uint8).reshape(7, 5),
    "wide": np.arange(-17, 18).reshape(7, 5),
    "mask": LOSSES > 0,
    "one_hot": np.eye(3, dtype=np.int8)[np.arange(35).reshape(7, 5) % 3],
    "empty": LOSSES[:0],
}


@pytest.fixture(params=map(format_case, FORMATS))
def write(request, tmp_path):
    """Return what writes arrays in one of the formats, and gives the name of the file."""

    def written(**arrays):
        FORMATS[request.param](tmp_path / request.param, arrays)
        return f"{tmp_path / request.param}"

    return written


def refusal(name, rows=slice(None)):
    with pytest.raises(DataError) as caught, open_array(name) as source:
        source[rows]
    return str(caught.value)


@pytest.mark.parametrize("rows", [slice(0, 7), slice(0, 3), slice(2, 5), slice(6, 20), slice(4, 4), slice(5, 2)])
def test_any_rows_of_any_array_come_back_as_they_were_written(write, rows):
    name = write(**ARRAYS)
    for key, expected in ARRAYS.items():
        with open_array(f"{name}:{key}") as source:
            assert (source.name, source.shape, source.dtype) == (f"{name}:{key}", expected.shape, expected.dtype)
            assert (source.ndim, len(source)) == (expected.ndim, expected.shape[0])
            np.testing.assert_array_equal(source[rows], expected[rows], strict=True)
            np.testing.assert_array_equal(source[:2], expected[:2], strict=True)  # and back again
            assert source[rows].flags.writeable


def test_the_only_array_needs_no_key(write):
    with open_array(write(losses=LOSSES)) as source:
        np.testing.assert_array_equal(source[:], LOSSES, strict=True)


def test_a_key_that_is_missing_is_answered_with_those_that_exist(write):
    name = write(losses=LOSSES, labels=ARRAYS["labels"])
    for key, got in {"": "none", ":loss": "'loss'"}.items():
        refused = refusal(f"{name}{key}")
        assert refused.startswith(f"{name}{key}: expected one of its arrays (l")
        assert refused.endswith(f") after the colon, got {got}")


def test_a_file_that_is_missing_is_named(write):
    name = write(losses=LOSSES)
    missing = name.replace("a.", "none.")
    assert refusal(missing) == f"{missing}: expected a readable file, got No such file or directory"


def test_rows_are_read_with_a_step_of_1_only(write):
    with (
        open_array(write(losses=LOSSES)) as source,
        pytest.raises(ValueError, match="rows: expected a slice of step"),
    ):
        source[::2]


def test_chunks_are_those_of_the_file(write):
    with open_array(write(losses=LOSSES)) as source:
        assert source.chunks == (None if "safetensors" in source.name else (3, 5))


@pytest.mark.extra("zarr", "h5py")
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_an_anchor_axis_that_is_split_over_chunks_is_refused_with_advice(tmp_path, suffix):
    name = f"{tmp_path}/a.{suffix}"
    if suffix == "zarr":
        import zarr

        zarr.open_group(name, mode="w").create_array("losses", data=LOSSES, chunks=(7, 2))
    else:
        import h5py

        with h5py.File(name, "w") as file:
            file.create_dataset("losses", data=LOSSES, chunks=(7, 2))
    got = "chunks (7, 2) of shape (7, 5); store it again, or rechunk it"
    assert refusal(name) == f"{name}: expected chunks of whole samples, such as (7, 5), got {got}"


@pytest.mark.extra("zarr")
def test_an_array_inside_groups_and_a_store_that_is_an_array_are_found(tmp_path):
    import zarr

    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("run/losses", data=LOSSES, chunks=(3, 5))
    zarr.create_array(tmp_path / "b.zarr", data=LOSSES, chunks=(3, 5))
    for name in ("a.zarr:run/losses", "b.zarr", "b.zarr/"):
        with open_array(f"{tmp_path}/{name}") as source:
            np.testing.assert_array_equal(source[1:], LOSSES[1:], strict=True)
    assert refusal(f"{tmp_path}/b.zarr:key").endswith("expected an array in it, got 'key'")


@pytest.mark.extra("h5py")
def test_hdf5_without_chunks_is_read(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/losses"] = LOSSES
    with open_array(f"{tmp_path}/a.h5:run/losses") as source:
        assert source.chunks is None
        np.testing.assert_array_equal(source[2:4], LOSSES[2:4], strict=True)


@pytest.mark.parametrize(("suffix", "package"), [("zarr", "zarr"), ("h5", "h5py")])
def test_a_package_that_is_not_installed_is_hinted_at_in_one_line(tmp_path, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    name = f"{tmp_path}/a.{suffix}"
    hint = f"expected {package}, to read it, got none installed; {install_command(package)}"
    assert refusal(name) == f"{name}: {hint}"


@pytest.mark.parametrize("content", [b"", b"sample,loss\n", b"\x93NUMPY\x01\x00v\x00" + bytes(200)])
@pytest.mark.parametrize("suffix", ["safetensors", "h5"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, suffix, content):
    if suffix == "h5":
        pytest.importorskip("h5py", reason="h5py is an extra")
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert refusal(f"{tmp_path}/a.{suffix}").startswith(f"{tmp_path}/a.{suffix}: expected a sound file, got ")


@pytest.mark.extra("zarr")
def test_a_directory_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    assert refusal(f"{tmp_path}/a.zarr").startswith(f"{tmp_path}/a.zarr: expected a sound file, got this: ")


def test_a_tensor_that_numpy_has_no_dtype_for_is_refused_with_advice(tmp_path):
    text = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    expected = "expected a dtype that NumPy has, got BF16; save it as float32"
    assert refusal(tmp_path / "a.safetensors") == f"{tmp_path}/a.safetensors: {expected}"


def test_a_tensor_that_is_cut_short_is_refused_before_a_row_is_read(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"losses": LOSSES})
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content[:-1])
    promise = "expected 140 bytes of values for shape (7, 5) and dtype float32, got 139: the file is cut short"
    assert refusal(tmp_path / "a.safetensors", slice(0)) == f"{tmp_path}/a.safetensors: {promise}"


@pytest.mark.parametrize(
    ("offsets", "stored"), [([-4, 136], 136), ([0, 100], 100), ([60, 140], 80), ([200, 340], -60)]
)
def test_a_tensor_that_claims_bytes_which_are_not_its_own_is_refused(tmp_path, offsets, stored):
    text = json.dumps({"losses": {"dtype": "F32", "shape": [7, 5], "data_offsets": offsets}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + LOSSES.tobytes())
    assert refusal(path).endswith(f"got {stored}: the file is cut short")


@pytest.mark.parametrize("suffix", ["safetensors", pytest.param("h5", marks=pytest.mark.extra("h5py"))])
def test_damage_of_a_file_gives_a_data_error_or_other_numbers_but_nothing_else(tmp_path, suffix):
    rng, path = np.random.default_rng(0), tmp_path / f"a.{suffix}"
    {"h5": write_hdf5, "safetensors": write_safetensors}[suffix](path, {"losses": LOSSES})
    sound, num_refused = path.read_bytes(), 0
    head = 160 if suffix == "safetensors" else len(sound)
    for _ in range(300):
        content = np.frombuffer(sound, np.uint8).copy()
        places = rng.integers(head, size=rng.integers(1, 4))
        content[places] = rng.choice([*b"{}()[]'\", 09\n", *rng.integers(256, size=12)], size=places.size)
        path.write_bytes(content[: rng.choice([content.size, rng.integers(content.size)])].tobytes())
        try:
            with warnings.catch_warnings(action="ignore"), open_array(path) as source:
                source[:]
        except DataError:
            num_refused += 1
    assert num_refused > 100


@pytest.mark.extra("safetensors")
def test_tensors_that_the_package_wrote_are_read(tmp_path):
    from safetensors import numpy

    numpy.save_file({key: array for key, array in ARRAYS.items() if array.size}, tmp_path / "a.safetensors")
    for key in ("losses", "half", "labels", "wide", "mask"):
        with open_array(f"{tmp_path}/a.safetensors:{key}") as source:
            np.testing.assert_array_equal(source[2:], ARRAYS[key][2:], strict=True)
