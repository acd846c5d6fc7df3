"""The commands of `ssd-mining`, one module each; what they share is in ``common``."""
