"""Text: what is shown hides nothing and moves nothing, and every stream takes it."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_mining.files.text import read_text, say, shown, write_text

ANY = st.text(st.characters() | st.characters(categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("写真 é \u202f.jpg", "写真 é \u202f.jpg"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\tc\rd\x85e\u2028f", r"a\nb\tc\rd\x85e\u2028f"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("caf\udce9.jpg", r"caf\xe9.jpg"),
        ("\ud800\ufeff\0", r"\ud800\ufeff\x00"),
    ],
)
def test_what_would_not_be_seen_is_written_out(text, expected):
    assert shown(text) == expected


@given(ANY)
def test_what_is_shown_is_one_line_without_controls_that_utf_8_can_hold(text):
    got = shown(text)
    got.encode()
    assert got.splitlines() in ([got], [])
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in got)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16", "shift_jis"])
@given(ANY)
def test_every_stream_takes_every_text(encoding, text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", newline="")
    say(f"one {text}\ntwo", stream)
    said = stream.buffer.getvalue().decode(encoding)
    assert said.startswith("one ")
    assert said.endswith("\ntwo\n")


@given(ANY)
def test_every_text_is_written_and_read_back(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    write_text(path, f"x{text}")
    assert read_text(path) == f"x{text}"
