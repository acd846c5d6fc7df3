"""``ssd-mining warmup``: compile the kernels ahead."""

import argparse
import itertools
from typing import Any

import ssd_mining
from ssd_mining.cli.options import OptionError
from ssd_mining.cli.progress import progress

_FLOATS = ("float32", "float64")
_LABELS = ("uint8", "uint16", "uint32", "uint64")
_LOSSES = [{"loss_dtypes": [loss], "label_dtypes": [labels]} for loss, labels in itertools.product(_FLOATS, _LABELS)]
_NO_LOSSES: dict[str, Any] = {"loss_dtypes": (), "label_dtypes": ()}
# The calls of `warmup` that each part takes; its names are those of `options.PARTS`.
STEPS: dict[str, list[dict[str, Any]]] = {
    "mining": _LOSSES,
    "logits": [_NO_LOSSES | {"logit_dtypes": [logits]} for logits in _FLOATS],
    "analysis": [each | {"analysis": True} for each in _LOSSES],
    "matching": [_NO_LOSSES | {"matching": True}],
}
# What a GPU has; labels beside logits are taken as they are.
GPU_STEPS: dict[str, list[dict[str, Any]]] = {
    "mining": _LOSSES,
    "logits": [
        {"loss_dtypes": (), "label_dtypes": [labels], "logit_dtypes": [logits]}
        for logits, labels in itertools.product(_FLOATS, ("uint8", "int32", "int64"))
    ],
}


def run(args: argparse.Namespace) -> str:
    """Compile the parts that are asked for, all unless any is; say how much that was."""
    known, where = STEPS, {}
    if args.backend == "cuda":
        known, where = GPU_STEPS, {"backend": "cuda", "num_anchors": args.anchors}
        for part in args.parts:
            if part not in GPU_STEPS:
                expected = " or ".join(GPU_STEPS)
                raise OptionError(f"PART: expected {expected} with --backend cuda, got {part}")
    steps = [step | where for part in args.parts or known for step in known[part]]
    done = []
    with progress(len(steps), "steps") as advance:
        try:
            for step in steps:
                done.append(ssd_mining.warmup(**step))
                advance(1)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("what is compiled is kept in the cache") from None
        except RuntimeError as error:  # there is no GPU
            if args.backend == "cpu":
                raise
            raise OptionError(f"--{error}") from error
    compiled, loaded = sum(each.compiled for each in done), sum(each.loaded for each in done)
    seconds = sum(each.seconds for each in done)
    return f"compiled {compiled} kernels, found {loaded} in the cache, in {seconds:.1f} s"
