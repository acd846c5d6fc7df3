"""Names: any text and any integer of 64 bits is read, kept and written as it was."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_mining.checks import DataError
from ssd_mining.files import names, output
from ssd_mining.report import parts

# All of Unicode, lone surrogates too, and what CSV, str.splitlines and NumPy's strings trip over.
ODD = [
    "\u2028",
    "\u2029",
    "\x85",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\r",
    "\n",
    "\r\n",
    '"',
    ",",
    "\0",
    "\ufeff",
    "\ud800",
    "caf\udce9",
    "",
]
TEXT = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=8) | st.sampled_from(ODD)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**64 - 1)


@settings(max_examples=300)
@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_a_table_reads_back_the_names_and_numbers_that_were_written(tmp_path_factory, texts, data):
    numbers = data.draw(st.lists(NUMBERS, min_size=len(texts), max_size=len(texts)))
    path = tmp_path_factory.mktemp("table") / "a.csv"
    output.write_csv(path, {"sample": names.column_of(numbers), "id": names.column_of(texts)})
    got = names.read_csv(path)
    assert got == {"sample": list(map(str, numbers)), "id": texts}
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8", "surrogatepass"), newline="")))
    assert [row[1] for row in rows[1:]] == texts  # as any reader of CSV does


@settings(max_examples=300)
@given(st.lists(TEXT | NUMBERS, max_size=6))
def test_names_in_a_file_of_arrays_are_those_that_were_packed(given_names):
    assert parts._unpacked(parts._packed(given_names)) == given_names
    assert names.column_of(given_names).tolist() == given_names


@settings(max_examples=300)
@given(
    st.lists(
        TEXT.filter(lambda text: "\n" not in text and not text.endswith("\r")), min_size=1, max_size=6, unique=True
    )
)
def test_lines_of_a_text_are_names_whatever_ends_them(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("text") / "ids.txt"
    for end in ("\n", "\r\n"):
        for mark in ("\ufeff", ""):
            if mark or not lines[0].startswith("\ufeff"):
                text = mark + end.join(lines) + end
                path.write_bytes(text.encode("utf-8", "surrogatepass"))
                assert names.read_ids(path, len(lines)) == lines


def test_the_last_line_needs_no_end(tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"a\n\nb")
    assert names.read_ids(tmp_path / "ids.txt", 3) == ["a", "", "b"]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, ">u8"])
def test_integers_of_any_width_are_names(tmp_path, dtype):
    limits = np.iinfo(dtype)
    expected = [int(limits.max), int(limits.min), 17]
    np.save(tmp_path / "ids.npy", np.array(expected, dtype))
    assert names.read_ids(tmp_path / "ids.npy", 3) == expected


def test_bytes_are_names_as_python_reads_them_from_a_directory(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([b"caf\xe9.jpg", "é.jpg".encode()]))
    assert names.read_ids(tmp_path / "ids.npy", 2) == ["caf\udce9.jpg", "é.jpg"]
    assert names.read_class_names(tmp_path / "ids.npy") == ["caf\udce9.jpg", "é.jpg"]


def test_a_table_that_is_none_is_refused(tmp_path):
    for content in (b"", b"sample,id\n0\n", b'sample,id\n0,"a"b\n', b"sample,id\n0," + b"x" * 200_000):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.csv: expected the table of a report, got this: "):
            names.read_csv(tmp_path / "a.csv")
