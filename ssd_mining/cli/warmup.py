"""``ssd-mining warmup``: compile the kernels ahead."""

import argparse

import ssd_mining


def run(args: argparse.Namespace) -> str:  # noqa: ARG001 - as the other commands
    """Compile all that any command needs; say how much that was."""
    done = ssd_mining.warmup(logit_dtypes=("float32", "float64"), analysis=True, matching=True)
    return f"compiled {done.compiled} kernels, found {done.loaded} in the cache, in {done.seconds:.1f} s"
