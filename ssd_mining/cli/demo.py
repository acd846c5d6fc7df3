"""``ssd-mining demo``: synthetic data to try the package on."""

import argparse
from pathlib import Path

import numpy as np

from ssd_mining.cli import mine, options, synthetic
from ssd_mining.cli.program import command
from ssd_mining.files import output
from ssd_mining.files.text import shown, write_text

FILES = {"losses.npy", "labels.npy", "default_boxes.npy", "README.txt"}


def run(args: argparse.Namespace) -> str:
    """Write the data set into a new directory, and mine it."""
    out = Path(args.out)
    with output.atomic_directory(out, FILES if args.overwrite else ()) as folder:
        _write_arrays(folder, args.samples, args.seed)
        readme = synthetic.README.format(samples=args.samples, seed=args.seed)
        write_text(folder / "README.txt", readme)
    words = [str(out / "losses.npy"), str(out / "labels.npy"), "--background", "0"]
    parser = options.Parser()
    options.mine(parser)
    table = mine.run(parser.parse_args(words))
    return (
        f"Synthetic data (seed {args.seed}), which no detector ever saw, written to {shown(args.out)}. Mined, it"
        " gives:\n\n"
        f"{table}\n\nMine it yourself, and keep the hard negatives:\n\n"
        f"  {command('mine', *words, '--out', str(out / 'mined'))}\n\n"
        "Analyse it, and look at the page:\n\n"
        f"  {command('report', *words, '--out', str(out / 'report'))}"
    )


def _write_arrays(folder: Path, num_samples: int, seed: int) -> None:
    boxes = synthetic.default_boxes()
    with (
        output.array_writer(folder / "losses.npy", np.float32, boxes.shape[:1]) as append_losses,
        output.array_writer(folder / "labels.npy", np.uint8, boxes.shape[:1]) as append_labels,
        output.array_writer(folder / "default_boxes.npy", np.float64, (4,)) as append_boxes,
    ):
        append_boxes(boxes)
        for index in range(num_samples):
            drawn = synthetic.sample(seed, index)
            append_losses(drawn.conf_loss[np.newaxis])
            append_labels(drawn.labels[np.newaxis])
