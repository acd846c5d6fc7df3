"""The fixture of the tests that look at machine code."""

from tests.support.compiled import capability

__all__ = ["capability"]
