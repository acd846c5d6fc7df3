"""``ssd-mining demo``: synthetic data to try the package on."""

import argparse
from pathlib import Path

from ssd_mining.cli.options import at_least


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.description = "Write synthetic losses and labels with the geometry of SSD300, then mine them."
    option = parser.add_argument
    option("--out", metavar="DIR", default="ssd-mining-demo", help="a new directory (default %(default)s)")
    option("--samples", metavar="N", type=at_least(1), default=64, help="how many (default %(default)s)")
    option("--seed", metavar="N", type=at_least(0), default=0, help="seed of the data (default %(default)s)")


def write(out: Path, num_samples: int, seed: int) -> None:
    """Write the data set into a new directory."""
    from ssd_mining.cli import synthetic
    from ssd_mining.report import output

    with output.atomic_directory(out) as folder:
        _write_arrays(folder, num_samples, seed)
        readme = synthetic.README.format(samples=num_samples, seed=seed)
        (folder / "README.txt").write_text(readme, encoding="utf-8")


def _write_arrays(folder: Path, num_samples: int, seed: int) -> None:
    import numpy as np

    from ssd_mining.cli import synthetic
    from ssd_mining.report.output import array_writer

    boxes = synthetic.default_boxes()
    with (
        array_writer(folder / "losses.npy", np.float32, boxes.shape[:1]) as append_losses,
        array_writer(folder / "labels.npy", np.uint8, boxes.shape[:1]) as append_labels,
        array_writer(folder / "default_boxes.npy", np.float64, (4,)) as append_boxes,
    ):
        append_boxes(boxes)
        for index in range(num_samples):
            drawn = synthetic.sample(seed, index)
            append_losses(drawn.conf_loss[np.newaxis])
            append_labels(drawn.labels[np.newaxis])
