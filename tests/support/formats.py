"""Writers of the formats that are read."""

import json

import pytest

CODES = {"f2": "F16", "f4": "F32", "f8": "F64", "u1": "U8", "i1": "I8", "i8": "I64", "b1": "BOOL"}


def write_safetensors(path, arrays):
    """Write the format from its description: a length, JSON, values."""
    header, values = {"__metadata__": {"writer": "a test"}}, b""
    for name, array in arrays.items():
        end = len(values) + array.nbytes
        code = CODES[array.dtype.str[1:]]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [len(values), end]}
        values += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)


def write_zarr(path, arrays):
    import zarr

    group = zarr.open_group(path, mode="w")
    for name, array in arrays.items():
        config = {"write_empty_chunks": True}  # or chunks of nothing but zeros would be missing
        group.create_array(name, data=array, chunks=(3, *array.shape[1:]), config=config)


def write_hdf5(path, arrays):
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=(3, *array.shape[1:]) if array.size else None)


FORMATS = {"a.safetensors": write_safetensors, "a.zarr": write_zarr, "a.h5": write_hdf5, "a.hdf5": write_hdf5}


def format_case(name: str) -> object:
    """Return the name of a file as a parameter, with the package that its format needs."""
    needs = {"zarr": "zarr", "h5": "h5py", "hdf5": "h5py"}.get(name.rpartition(".")[2])
    return pytest.param(name, marks=pytest.mark.extra(needs) if needs else ())
