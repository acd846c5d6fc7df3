"""Text: the one place that encodes what is printed and written, and that makes names fit to be shown."""

import re
from pathlib import Path
from typing import TextIO

# A name that is no UTF-8 has lone surrogates in Python. With this handler, every string reads back as it was.
EXACT = "surrogatepass"

# What a terminal, a page or a picture obeys instead of showing it, or cannot hold: control characters, marks of
# direction, separators of lines, surrogates, noncharacters.
_UNSEEN = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shown(text: object) -> str:
    r"""Return a text as one line for people: what would not be seen is written as an escape.

    Examples
    --------
    >>> print(shown("red \x1b[31m, two\nlines, caf\udce9.jpg"))
    red \x1b[31m, two\nlines, caf\xe9.jpg
    """
    return _UNSEEN.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code < 0xDD00:  # stands for a byte of the name of a file
        code -= 0xDC00
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def fitted(text: object, width: int) -> str:
    """Return a text as `shown`, of at most so many characters: three dots stand for what is cut off on the left.

    Examples
    --------
    >>> fitted("val2017/000000000139.jpg", 12)
    '...00139.jpg'
    """
    whole = shown(text)
    return whole if len(whole) <= width else f"...{whole[3 - width :]}"


def say(text: str, stream: TextIO) -> None:
    """Print lines, now; what the stream cannot hold is written as an escape."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    lines = "\n".join(map(shown, text.split("\n")))
    print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    path.write_bytes(text.encode("utf-8", EXACT))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; UnicodeDecodeError if it is none."""
    return path.read_bytes().decode("utf-8", EXACT).removeprefix("\ufeff")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, without their ends."""
    lines = re.split("\r?\n", read_text(path))  # splitlines splits in the middle of names
    return lines if lines[-1] else lines[:-1]
