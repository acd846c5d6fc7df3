"""Arrays in stores: which are found, which strings are names, what was never written, and damage of other formats."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.checks import DataError, HazardWarning
from ssd_mining.files.names import read_ids
from ssd_mining.files.sources import open_array

LOSSES = np.random.default_rng(0).gamma(0.3, 1.0, (6, 50)).astype(np.float32)
NAMES = ["a.jpg", "é.jpg", "c\u2028d.jpg"]


def read(name, **options):
    with open_array(name, **options) as source:
        return source[:]


def refusal(name):
    with pytest.raises(DataError) as caught, open_array(name) as source:
        source[:]
    return str(caught.value)


def warning(name):
    """Return what is said of an array that is read with a warning."""
    with pytest.warns(HazardWarning) as caught, open_array(name):
        pass
    return str(caught[0].message).removeprefix(f"{name}: ").partition(";")[0]


# What is found


@pytest.mark.extra("h5py")
def test_links_into_the_void_hide_no_array_and_links_in_a_circle_end(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/losses"] = LOSSES
        file["run/up"] = file["/"]
        file["gone"], file["elsewhere"] = h5py.SoftLink("/nowhere"), h5py.ExternalLink("none.h5", "/x")
    np.testing.assert_array_equal(read(tmp_path / "a.h5"), LOSSES)
    assert refusal(f"{tmp_path}/a.h5:loses").endswith(
        "expected one of its arrays (run/losses) after the colon, got 'loses'"
    )
    assert "(run/losses)" in refusal(f"{tmp_path}/a.h5:gone")


@pytest.mark.extra("zarr")
@pytest.mark.parametrize("version", [2, 3])
def test_arrays_in_groups_of_a_store_are_listed_and_named_by_their_path(tmp_path, version):
    import zarr

    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    group.create_array("run/losses", data=LOSSES, chunks=(2, 50))
    for name in ("a.zarr", "a.zarr:run/losses", "a.zarr/run/losses", "a.zarr/run/losses/"):
        np.testing.assert_array_equal(read(f"{tmp_path}/{name}"), LOSSES)
    group.create_array("run/other", data=LOSSES)
    assert "(run/losses, run/other) after the colon, got none" in refusal(f"{tmp_path}/a.zarr")


@pytest.mark.extra("zarr")
def test_an_array_that_cannot_be_opened_hides_no_other(tmp_path):
    import zarr

    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name in ("losses", "strange"):
        group.create_array(name, data=LOSSES, chunks=(2, 50))
    about = tmp_path / "a.zarr" / "strange" / "zarr.json"
    about.write_text(about.read_text().replace('"bytes"', '"of_the_future"'))
    np.testing.assert_array_equal(read(f"{tmp_path}/a.zarr:losses"), LOSSES)


@pytest.mark.extra("zarr")
@pytest.mark.parametrize("inside", ["", "a.zarr"])
def test_a_zipped_store_is_read(tmp_path, inside):
    import zarr

    zarr.create_array(tmp_path / "zip" / "a.zarr", data=LOSSES, chunks=(2, 50))
    folder = tmp_path / "zip" if inside else tmp_path / "zip" / "a.zarr"
    shutil.make_archive(f"{tmp_path}/a.zarr", "zip", folder)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr.zip"), LOSSES)


@pytest.mark.extra("h5py")
def test_strings_of_hdf5_are_names(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["long"] = NAMES
        file["fixed"] = np.array([name.encode() for name in NAMES])
        file.create_dataset("utf", data=[name.encode() for name in NAMES], dtype=h5py.string_dtype("utf-8", 16))
        file["refs"] = np.array([file["long"].ref], h5py.ref_dtype)
    for key in ("long", "fixed", "utf"):
        assert read_ids(f"{tmp_path}/a.h5:{key}", 3) == NAMES
        assert "expected bools, integers or floats, got dtype " in refusal(f"{tmp_path}/a.h5:{key}")
    assert "pickled objects" in refusal(f"{tmp_path}/a.h5:refs")


@pytest.mark.extra("zarr")
@pytest.mark.parametrize("dtype", [str, "U16", "S16"])
@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")
def test_strings_of_zarr_are_names(tmp_path, dtype):
    import zarr

    array = zarr.create_array(tmp_path / "a.zarr", shape=(3,), chunks=(2,), dtype=dtype)
    array[:] = np.array(
        [name.encode() for name in NAMES] if dtype == "S16" else NAMES, object if dtype is str else dtype
    )
    assert read_ids(tmp_path / "a.zarr", 3) == NAMES


# What was never written


@pytest.mark.extra("zarr")
@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_missing_are_counted(tmp_path, version):
    import zarr

    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    array = group.create_array("run/losses", shape=(6, 50), chunks=(2, 50), dtype="f4", fill_value=0)
    array[:2] = LOSSES[:2]
    assert warning(f"{tmp_path}/a.zarr:run/losses") == "2 of 3 chunks are missing, and read as 0.0"
    with pytest.warns(HazardWarning, match="sources: 2 of 3 chunks are missing, and read as 0.0; ") as caught:
        list(sm.read_blocks(array))
    assert caught[0].filename == __file__
    array[:] = LOSSES
    np.testing.assert_array_equal(read(f"{tmp_path}/a.zarr:run/losses"), LOSSES)


@pytest.mark.extra("zarr")
@pytest.mark.parametrize("place", ["start", "end"])
def test_chunks_that_are_missing_in_shards_are_counted(tmp_path, place):
    import zarr

    codec = zarr.codecs.ShardingCodec(chunk_shape=(1, 50), index_location=place)
    array = zarr.create(
        store=tmp_path / "a.zarr", shape=(6, 50), chunks=(4, 50), dtype="f4", codecs=[codec], fill_value=0
    )
    array[:3] = LOSSES[:3]
    assert warning(f"{tmp_path}/a.zarr") == "3 of 6 chunks are missing, and read as 0.0"
    array[:] = LOSSES
    np.testing.assert_array_equal(read(f"{tmp_path}/a.zarr"), LOSSES)


@pytest.mark.extra("h5py")
def test_what_is_missing_of_a_dataset_is_counted(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("chunks", (6, 50), "f4", chunks=(2, 50))[:2] = LOSSES[:2]
        file.create_dataset("nothing", (6, 50), "f4")
        file.create_dataset("outside", (6, 50), "f4", external=[(f"{tmp_path}/raw.bin", 0, 1200)])[:] = LOSSES
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["losses"] = LOSSES[:2]
        layout = h5py.VirtualLayout((6, 50), "f4")
        layout[:2] = h5py.VirtualSource("b.h5", "losses", (2, 50))
        layout[2:4] = h5py.VirtualSource("none.h5", "losses", (2, 50))
        file.create_virtual_dataset("files", layout)
        layout = h5py.VirtualLayout((6, 50), "f4")
        layout[:2] = h5py.VirtualSource("b.h5", "losses", (2, 50))
        file.create_virtual_dataset("rows", layout)
    assert warning(f"{tmp_path}/a.h5:chunks") == "2 of 3 chunks are missing, and read as 0.0"
    assert warning(f"{tmp_path}/a.h5:nothing") == "all of its values are missing, and read as 0.0"
    np.testing.assert_array_equal(read(f"{tmp_path}/a.h5:outside"), LOSSES)
    os.truncate(tmp_path / "raw.bin", 800)
    assert warning(f"{tmp_path}/a.h5:outside") == "400 of 1,200 bytes are missing, and read as 0.0"
    assert warning(f"{tmp_path}/b.h5:files") == "1 of 2 virtual sources are missing, and read as 0.0"
    assert warning(f"{tmp_path}/b.h5:rows") == "200 of 300 values are missing, and read as 0.0"


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="this system does not tell holes in files")
def test_room_that_was_never_written_in_a_plain_file_is_seen_if_it_is_of_floats(tmp_path):
    for dtype in ("f4", "u1"):
        made = np.lib.format.open_memmap(tmp_path / f"{dtype}.npy", "w+", dtype, (64, 8192))
        made[:32] = 1
        made.flush()
    if (tmp_path / "f4.npy").stat().st_blocks * 512 >= 64 * 8192 * 4:
        pytest.skip("this file system keeps no holes")
    assert warning(tmp_path / "f4.npy").endswith(" bytes are missing, and read as 0.0")
    read(tmp_path / "u1.npy")  # labels of samples without positives are zeros, too
    np.save(tmp_path / "zeros.npy", np.zeros((64, 8192), np.float32))
    read(tmp_path / "zeros.npy")


# Headers that only look sound


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (b"(np.int64(6), np.uint16(50))", None),
        (b"(6, True)", "expected whole numbers as shape, got (6, True)"),
        (b"(6, object())", "expected a sound file, got this: "),
    ],
)
def test_a_header_of_odd_numbers_is_read_or_refused_without_an_address(tmp_path, shape, expected):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b"}\n"
    content = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + LOSSES.tobytes()
    (tmp_path / "a.npy").write_bytes(content)
    if expected is None:
        np.testing.assert_array_equal(read(tmp_path / "a.npy"), LOSSES)
    else:
        got = refusal(tmp_path / "a.npy")
        assert got.startswith(f"{tmp_path}/a.npy: {expected}")
        assert "0x" not in got


@pytest.mark.parametrize("version", [(9, 0), (1, 1), (0, 0)])
def test_a_header_of_an_unknown_version_is_refused(tmp_path, version):
    np.save(tmp_path / "a.npy", LOSSES)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[6:8] = bytes(version)
    (tmp_path / "a.npy").write_bytes(content)
    expected = f"expected a header of version 1.0, 2.0 or 3.0, got {version[0]}.{version[1]}"
    assert refusal(tmp_path / "a.npy") == f"{tmp_path}/a.npy: {expected}"


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"shape": [6.5, 50], "data_offsets": [0, 1200]}, "expected whole numbers, got shape (6.5, 50)"),
        ({"shape": ["6", 50], "data_offsets": [0, 1200]}, "expected whole numbers, got shape ('6', 50)"),
        ({"shape": [6, True], "data_offsets": [0, 24]}, "expected whole numbers, got shape (6, True)"),
        ({"shape": [6, 50], "data_offsets": [0, 1200.0]}, "expected whole numbers, got shape (6, 50)"),
        ({"shape": [5, 50], "data_offsets": [0, 1200]}, "expected as many bytes as shape (5, 50)"),
        ({"shape": [6, 50], "data_offsets": [4, 1204]}, "expected tensors that lie one after the other"),
    ],
)
def test_a_tensor_of_odd_numbers_or_in_the_place_of_another_is_refused(tmp_path, about, expected):
    header = {"x": {"dtype": "F32", **about}, "y": {"dtype": "F32", "shape": [6, 50], "data_offsets": [1200, 2400]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + LOSSES.tobytes() * 2)
    assert refusal(f"{tmp_path}/a.safetensors:x").startswith(f"{tmp_path}/a.safetensors:x: {expected}")


def test_a_whole_array_is_read_without_a_warning(tmp_path):
    np.save(tmp_path / "a.npy", LOSSES)
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(read(tmp_path / "a.npy"), LOSSES)
