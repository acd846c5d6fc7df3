"""The same sums by other means: what people write in NumPy and torch. Each takes (B, A) and returns (B,) float64."""

import importlib.util
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Peer = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
RATIO = 3


def numpy_boolean_partition(conf_loss: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Loop over rows with a boolean index and ``np.partition``: the usual way."""
    total = np.zeros(conf_loss.shape[0])
    for i, row in enumerate(conf_loss):
        pos_mask = classes[i] != 0
        negatives = row[~pos_mask]
        kept = min(negatives.size, RATIO * int(pos_mask.sum()))
        total[i] = row[pos_mask].sum(dtype=np.float64)
        if kept:
            total[i] += np.partition(negatives, negatives.size - kept)[negatives.size - kept :].sum(dtype=np.float64)
    return total


def numpy_best_loop(
    conf_loss: NDArray[Any], classes: NDArray[Any], *, checks_nan: bool = False
) -> NDArray[np.float64]:
    """Partition one scratch row in place, its positives overwritten with -inf: the fastest NumPy loop known to us."""
    total = np.zeros(conf_loss.shape[0])
    scratch = np.empty(conf_loss.shape[1], conf_loss.dtype)
    for i, row in enumerate(conf_loss):
        if checks_nan and np.isnan(row.max()):  # NaN is larger than all to it
            msg = "conf_loss: NaN"
            raise ValueError(msg)
        positives = np.flatnonzero(classes[i])
        kept = min(row.size - positives.size, RATIO * positives.size)
        total[i] = row[positives].sum(dtype=np.float64)
        if kept:
            scratch[...] = row
            scratch[positives] = -np.inf
            scratch.partition(row.size - kept)
            total[i] += scratch[row.size - kept :].sum(dtype=np.float64)
    return total


def numpy_checked_loop(conf_loss: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Do what the best loop does, and refuse NaN, as we do: without it, a row without positives is not even read."""
    return numpy_best_loop(conf_loss, classes, checks_nan=True)


def numpy_sort(conf_loss: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Sort every row, the notebook's way."""
    pos_mask = classes != 0
    num_pos = pos_mask.sum(axis=1)
    kept = np.minimum(conf_loss.shape[1] - num_pos, RATIO * num_pos)
    hardest_last = np.sort(np.where(pos_mask, -np.inf, conf_loss), axis=1)
    in_quota = np.arange(conf_loss.shape[1] - 1, -1, -1) < kept[:, None]
    negatives = np.where(in_quota, hardest_last, 0.0).sum(axis=1, dtype=np.float64)
    return np.where(pos_mask, conf_loss, 0.0).sum(axis=1, dtype=np.float64) + negatives


def torch_double_sort(conf_loss: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Rank by sorting twice, as torchvision and ssd.pytorch do."""
    import torch

    loss, pos_mask = torch.from_numpy(conf_loss), torch.from_numpy(classes) != 0
    num_pos = pos_mask.sum(dim=1, keepdim=True)
    ranked = loss.masked_fill(pos_mask, -torch.inf)
    rank = ranked.sort(dim=1, descending=True)[1].sort(dim=1)[1]
    chosen = pos_mask | (rank < torch.minimum(RATIO * num_pos, loss.shape[1] - num_pos))
    return torch.where(chosen, loss, 0.0).double().sum(dim=1).numpy()


def torch_topk(conf_loss: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Take the largest quota of the batch from every row, then cut each row to its own."""
    import torch

    loss, pos_mask = torch.from_numpy(conf_loss), torch.from_numpy(classes) != 0
    num_pos = pos_mask.sum(dim=1, keepdim=True)
    kept = torch.minimum(RATIO * num_pos, loss.shape[1] - num_pos)
    top = loss.masked_fill(pos_mask, -torch.inf).topk(int(kept.max()), dim=1).values
    in_quota = torch.arange(top.shape[1]) < kept
    positives = torch.where(pos_mask, loss, 0.0).double().sum(dim=1)
    return (positives + torch.where(in_quota, top, 0.0).double().sum(dim=1)).numpy()


def tensorflow_notebook(conf_loss: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Run the seed notebook's cells, which sort every row whole with ``top_k``; summed in float64."""
    import tensorflow as tf

    conf, positives_mask = tf.constant(conf_loss), tf.constant(classes != 0)
    num_anchors = conf_loss.shape[1]
    positives_num = tf.math.count_nonzero(positives_mask, axis=1)
    negatives_num_max = tf.minimum(num_anchors - positives_num, RATIO * positives_num)
    positives_conf = tf.where(positives_mask, conf, tf.zeros_like(conf))
    negatives_conf = tf.where(positives_mask, tf.zeros_like(conf), conf)
    negatives_top = tf.nn.top_k(negatives_conf, num_anchors)[0]
    negatives_max_mask = tf.range(num_anchors, dtype=tf.int64)[None] < negatives_num_max[:, None]
    negatives_max = tf.where(negatives_max_mask, negatives_top, tf.zeros_like(negatives_top))
    both = tf.cast(positives_conf, tf.float64), tf.cast(negatives_max, tf.float64)
    return tf.add(*(tf.reduce_sum(part, axis=-1) for part in both)).numpy()


def sorted_keys(num_kept: NDArray[Any], ranks: NDArray[np.float32], anchors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort kept negatives, hardest first, by one ``np.sort`` of whole numbers: sample, falling rank, anchor.

    No rank is NaN, and the anchors fit into 16 bits.
    """
    rising = ranks.view(np.int32).astype(np.int64)
    rising ^= (rising >> 63) & 0x7FFFFFFF
    samples = np.repeat(np.arange(num_kept.size), num_kept)
    keys = samples << 49 | (0x80000000 - rising) << 16 | anchors
    keys.sort()
    return keys & 0xFFFF


def read_floor(conf_loss: NDArray[Any], classes: NDArray[Any]) -> float:
    """Read both arrays once: the cost below which nothing can compute the loss. Labels are read as 8-byte words."""
    words = classes.reshape(-1).view(np.uint8)
    words = words[: words.size // 8 * 8].view(np.int64)
    return float(conf_loss.sum()) + float(words.sum())


def read_wide(conf_loss: NDArray[Any], labels: NDArray[Any]) -> float:
    """Read losses and labels once by the widest loads: the cost below which no labels can be checked."""
    words = labels.reshape(-1).view(np.uint8)
    return float(conf_loss.max()) + float(words[: words.size // 8 * 8].view(np.int64).max())


def read_by_two(conf_loss: NDArray[Any], classes: NDArray[Any], readers: Executor) -> float:
    """Read both arrays once with two threads, half of the samples each: what memory gains by the second one."""
    half = len(conf_loss) // 2
    parts = (conf_loss[:half], conf_loss[half:]), (classes[:half], classes[half:])
    return sum(readers.map(read_floor, *parts))


def numpy_cross_entropy(logits: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Compute the softmax cross-entropy (B, A) the usual way: the logarithm of the sum, less the label's logit."""
    top = logits.max(axis=2, keepdims=True)
    own = np.take_along_axis(logits, classes[..., None], axis=2)[..., 0]
    total = np.log(np.exp(logits - top).sum(axis=2)) + top[..., 0]
    return np.asarray(total - own)


def torch_cross_entropy(logits: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    """Compute the softmax cross-entropy (B, A) with torch."""
    import torch

    flat = torch.from_numpy(logits).reshape(-1, logits.shape[2])
    loss = torch.nn.functional.cross_entropy(flat, torch.from_numpy(classes).reshape(-1), reduction="none")
    return np.asarray(loss.reshape(classes.shape).numpy())


NUMPY: dict[str, Peer] = {
    "boolean": numpy_boolean_partition,
    "best": numpy_best_loop,
    "checked": numpy_checked_loop,
    "sort": numpy_sort,
}
FRAMEWORKS: dict[str, dict[str, Peer]] = {
    "torch": {"torch double sort": torch_double_sort, "torch topk": torch_topk},
    "tensorflow": {"the notebook in TensorFlow": tensorflow_notebook},
}


def installed() -> dict[str, Peer]:
    """Return the peers of the frameworks that are installed."""
    found = [those for package, those in FRAMEWORKS.items() if importlib.util.find_spec(package)]
    return {name: peer for those in found for name, peer in those.items()}
