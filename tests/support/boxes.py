"""Objects and anchors for the tests of matching: drawn at random, many with equal overlaps, or computed by hand."""

import numpy as np

KINDS = ("free", "grid", "crowded", "tiny", "same")


def grid_anchors(rng: np.random.Generator, cells: int = 7, sizes: int = 3) -> np.ndarray:
    """Return anchors (cells * cells * sizes, 4) on a grid in [0, 1], whose coordinates are multiples of 1/64."""
    centres = (np.arange(cells) * 8 + 4) / 64
    sides = rng.integers(1, 5, (sizes, 2)) * 2 / 32
    x, y = np.meshgrid(centres, centres)
    middle = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    return np.concatenate([middle - sides / 2, middle + sides / 2], axis=-1).reshape(-1, 4).astype(np.float32)


def free_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes (count, 4) of any shape, some of which reach out of [0, 1]."""
    low = rng.uniform(-0.1, 0.9, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.02, 0.5, (count, 2))], axis=1).astype(np.float32)


def draw(kind: str, rng: np.random.Generator, *, touching: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Draw objects (n, 4) and anchors (A, 4). `touching`: every object has an area in common with an anchor."""
    count = int(rng.integers(1, 9))
    if kind == "free":
        objects, anchors = free_boxes(rng, count), free_boxes(rng, int(rng.integers(1, 200)))
    elif kind == "grid":  # corners on the lattice of the anchors: overlaps are equal again and again
        anchors = grid_anchors(rng)
        low = rng.integers(0, 48, (count, 2)) / 64
        objects = np.concatenate([low, low + rng.integers(1, 33, (count, 2)) / 64], axis=1).astype(np.float32)
    elif kind == "crowded":  # more objects than anchors
        anchors = grid_anchors(rng, cells=2, sizes=1)
        objects = free_boxes(rng, 12)
    elif kind == "tiny":  # smaller than any anchor, and many in one
        anchors = grid_anchors(rng)
        low = rng.uniform(0.1, 0.8, (count, 2))
        objects = np.concatenate([low, low + rng.uniform(0.002, 0.02, (count, 2))], axis=1).astype(np.float32)
    else:  # the same object again and again
        anchors = grid_anchors(rng)
        objects = np.repeat(free_boxes(rng, 1), count, axis=0)
    if touching:
        low = np.maximum(objects[:, None, :2], anchors[:, :2])
        high = np.minimum(objects[:, None, 2:], anchors[:, 2:])
        objects = objects[(high - low > 1e-4).all(axis=-1).any(axis=1)]
    return objects, anchors
