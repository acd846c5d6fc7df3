"""The fixtures of the tests of the cache."""

from tests.support.cache import package, run

__all__ = ["package", "run"]
