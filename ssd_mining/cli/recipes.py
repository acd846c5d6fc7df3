"""``ssd-mining recipes``: the loss that each known system would print for a batch."""

import argparse
import contextlib
from typing import Any

import numpy as np

from ssd_mining import RecipeComparison, compare_recipes
from ssd_mining.files import output
from ssd_mining.files.sources import open_array


def run(args: argparse.Namespace) -> str:
    """Compute the loss of every recipe; return the table, and which of them give the loss that was printed."""
    names = [args.logits, args.labels, *(args.locations or ())]
    with contextlib.ExitStack() as files:
        sources = [files.enter_context(open_array(name)) for name in names]
        arrays = [source[:] for source in sources]
    found = compare_recipes(
        *arrays,
        background=args.background,
        recipes=args.recipes,
        num_threads=args.num_threads,
        ignore_index=args.ignore_index,
    )
    printed = None if args.loss is None else found.would_print(args.loss)
    if args.json:
        return output.json_text({"groups": _groups(found), "overlap_with": found.names[0], "would_print": printed})
    return str(found) if printed is None else f"{found}\n\n{_answer(found, args.loss, printed)}"


def _groups(found: RecipeComparison) -> list[dict[str, Any]]:
    firsts = [found.names.index(group[0]) for group in found.groups]
    return [
        {
            "recipes": group,
            "loss": found.loss[first].item(),
            "num_kept": int(found.num_kept[first].sum()),
            "overlap": found.overlap[0, first].item(),
            "hazards": found.hazards[group[0]],
        }
        for group, first in zip(found.groups, firsts, strict=True)
    ]


def _answer(found: RecipeComparison, loss: str, printed: tuple[str, ...]) -> str:
    if printed:
        return f"{loss} would be printed by: {', '.join(printed)}"
    with np.errstate(invalid="ignore"):
        nearest = int(np.nanargmin([*np.abs(found.loss - float(loss)), np.inf]))
    if nearest == len(found.names):
        return f"{loss} would be printed by none of them"
    return (
        f"{loss} would be printed by none of them; {found.names[nearest]} is nearest, with {found.loss[nearest]:.6g}"
    )
