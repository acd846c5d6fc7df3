"""The command line."""

from ssd_mining.cli.entry import main

__all__ = ["main"]
