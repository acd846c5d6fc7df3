"""What goes wrong with a file, as one error that names it: `DataError`."""

import contextlib
import re
import zlib
from collections.abc import Iterator
from tokenize import TokenError
from zipfile import BadZipFile

_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # of an object in memory: of no use to anybody


class DataError(ValueError):
    """A file is missing or damaged, does not hold what is expected of it, or cannot be written."""


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what goes wrong while a file is opened or read into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name}: expected a readable file, got {error.strerror or error}") from error
    # What zipfile and numpy.lib.format were seen to raise over damaged files; RuntimeError is a password.
    except (ValueError, SyntaxError, EOFError, RuntimeError, TokenError, BadZipFile, zlib.error) as error:
        raise DataError(f"{name}: expected a sound file, got this: {_ADDRESS.sub('', str(error))}") from error


@contextlib.contextmanager
def anything_explained(name: str) -> Iterator[None]:
    """Turn whatever code of others raises over a damaged file into a `DataError` that names it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{name}: expected a sound file, got this: {_ADDRESS.sub('', repr(error))}") from error
