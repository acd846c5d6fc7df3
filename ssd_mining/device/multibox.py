"""The whole loss of device arrays: mined, then divided and differentiated by kernels that ask the host nothing."""

from typing import Any

import numpy as np

from ssd_mining.checks import refuse
from ssd_mining.device import mining as miner
from ssd_mining.device.arrays import Foreign
from ssd_mining.device.losses import DeviceLosses, LogitBatch, packed
from ssd_mining.device.mining import OnDevice
from ssd_mining.kernels.cuda import multibox as kernels
from ssd_mining.kernels.cuda import runtime as _cuda
from ssd_mining.kernels.cuda.runtime import DeviceArray
from ssd_mining.localization import paired_locations
from ssd_mining.losses import loss_divisors


def compute(arrays: tuple[Any, Any, Any, Any], spec: tuple[Any, ...], **how: Any) -> dict[str, Any]:
    """Compute the fields of a `MultiboxLoss` from logits, labels, and locations, which may be None.

    `spec` are the further arguments of `LogitBatch`; `how` the `normalize`, `loc_normalize`, `zero_positives`,
    `loc_weight`, `beta` and `with_gradients`.
    """
    logits = LogitBatch(*arrays[:2], *spec)
    locations = _locations(logits, *arrays[2:])
    on_device = logits.mine()
    with _cuda.current(on_device.stream.device):
        return _divided(logits, on_device, _boxes(logits, on_device, locations, how["beta"]), how)


def _locations(logits: LogitBatch, loc_pred: Any, loc_target: Any) -> dict[str, Foreign]:
    """Check the locations as the host does."""
    given = {"logits": logits.logits, "loc_pred": loc_pred, "loc_target": loc_target}
    arrays = {name: array for name, array in miner.gathered(given).items() if name != "logits"}
    stand_ins = miner.stand_ins(arrays)
    paired_locations(logits.batch, stand_ins.get("loc_pred"), stand_ins.get("loc_target"), 1.0)
    for name, array in arrays.items():
        dtype = array.array.dtype
        if dtype not in (np.float32, np.float64) or dtype != arrays["loc_pred"].array.dtype:
            refuse(name, "float32 or float64 on a device, both locations the same", f"dtype {dtype}", TypeError)
    return arrays


def _boxes(logits: LogitBatch, on_device: OnDevice, locations: dict[str, Foreign], beta: float) -> kernels.Boxes:
    """Return what the kernels read of each anchor, as device arrays."""
    batch, losses = logits.batch, logits.losses
    pred = target = _cuda.nothing(np.float32)._replace(shape=(batch.conf_loss.size, 0))
    if locations:
        pred, target = (packed(each, -1, losses.stream, losses.allocate) for each in locations.values())
    offsets = _cuda.nothing(np.int64)
    if not batch.is_dense:
        offsets = _cuda.upload(np.ascontiguousarray(batch.offsets), losses.stream, losses.allocate)
    mined = on_device.mined
    return kernels.Boxes(
        pos_mask=mined.pos_mask,
        hard_negative_mask=mined.hard_negative_mask,
        pred=pred,
        target=target,
        offsets=offsets,
        num_anchors=batch.conf_loss.shape[1] if batch.is_dense else -1,
        width=pred.shape[1],
        beta=beta,
    )


def _divided(logits: LogitBatch, on_device: OnDevice, boxes: kernels.Boxes, how: dict[str, Any]) -> dict[str, Any]:
    """Enqueue the division, and the gradients if they are asked for; return the fields."""
    losses, owned, num_samples = logits.losses, on_device.owned(), logits.batch.num_samples
    divisors = _divisors(on_device, logits.batch.conf_loss.size, how)
    loc_sums = losses.allocate((num_samples,), np.float64)
    given = kernels.Sums(on_device.mined.counts, on_device.mined.sums, loc_sums, num_samples, how["loc_weight"])
    loss, conf_loss, loc_loss = (losses.allocate((), np.float64) for _ in range(3))
    shares = losses.allocate((kernels.NUM_SHARES, num_samples), np.float64)
    results = kernels.Quotients(loss, conf_loss, loc_loss, shares)
    kernels.enqueue_division(boxes, given, divisors, results, losses.stream)
    gradients = _gradients(losses, boxes, shares) if how["with_gradients"] else (None, None)
    return {
        "loss": loss.owner,
        "conf_loss": conf_loss.owner,
        "loc_loss": loc_loss.owner,
        "positive_sum": owned.positive_sum,
        "negative_sum": owned.negative_sum,
        "loc_sum": loc_sums.owner,
        "num_pos": owned.num_pos,
        "num_neg": owned.num_neg,
        "num_kept": owned.num_kept,
        "logits_gradient": gradients[0],
        "loc_gradient": gradients[1],
    }


def _divisors(on_device: OnDevice, num_anchors: int, how: dict[str, Any]) -> tuple[kernels.Divisor, kernels.Divisor]:
    """Return by what the two parts are divided."""
    zero_positives, num_samples = how["zero_positives"], on_device.offsets.size - 1
    if zero_positives == "raise":  # the one word that waits for the counts
        counts = on_device.read_numbers()
        for name in ("normalize", "loc_normalize"):
            words = {"normalize": how[name], "zero_positives": zero_positives, "argument": name}
            loss_divisors(counts.num_pos, counts.num_kept, num_anchors, **words)
    conf, loc = (
        kernels.divisor(how[name], zero_positives, num_samples, num_anchors)
        for name in ("normalize", "loc_normalize")
    )
    return conf, loc


def _gradients(losses: DeviceLosses, boxes: kernels.Boxes, shares: DeviceArray) -> tuple[Any, Any]:
    """Enqueue the gradients of the logits and of the predictions, arrays of the caller's library."""
    factors = losses.allocate((boxes.pos_mask.size,), np.float64)
    loc_gradient = losses.allocate((*losses.shape, boxes.width), boxes.pred.dtype)
    kernels.enqueue_factors(boxes, shares, factors, loc_gradient, losses.stream)
    return losses.gradients(factors), loc_gradient.owner if boxes.width else None
