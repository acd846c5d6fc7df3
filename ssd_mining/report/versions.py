"""The versions that results and their speed depend on."""

import functools
import platform
from importlib import metadata


@functools.cache  # no version changes while a process runs, and each look takes a millisecond
def versions() -> dict[str, str | None]:
    """Return the versions of Python, of this package and of those that it always needs."""
    names = ("ssd_mining", "numpy", "numba", "llvmlite")
    return {"python": platform.python_version(), **{name: version_of(name) for name in names}}


def version_of(name: str) -> str | None:
    """Return the version of an installed package; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
