"""The CPU twin."""
