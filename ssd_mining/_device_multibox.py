"""The whole loss of device arrays: mined, then divided and differentiated by kernels that ask the host nothing."""

from typing import Any

import numpy as np

from ssd_mining import _cuda, _device
from ssd_mining._arrays import refuse
from ssd_mining._cuda import DeviceArray
from ssd_mining._device import OnDevice
from ssd_mining._device_losses import DeviceLosses, LogitBatch, packed
from ssd_mining._foreign import Foreign
from ssd_mining._spec import Mined
from ssd_mining.kernels import cuda_multibox as kernels
from ssd_mining.localization import paired_locations
from ssd_mining.losses import loss_divisors


def compute(logits: LogitBatch, loc_pred: Any, loc_target: Any, **how: Any) -> dict[str, Any]:
    """Compute the fields of a `MultiboxLoss`; the locations may be None.

    `how` are the `normalize`, `loc_normalize`, `zero_positives`, `loc_weight`, `beta` and `with_gradients`.
    """
    locations = _locations(logits, loc_pred, loc_target)
    on_device = logits.mine()
    with _cuda.current(on_device.stream.device):
        return _divided(logits, on_device, _boxes(logits, on_device, locations, how["beta"]), how)


def _locations(logits: LogitBatch, loc_pred: Any, loc_target: Any) -> dict[str, Foreign]:
    """Check the locations as the host does."""
    arrays = _device.gathered({"logits": logits.arrays["logits"], "loc_pred": loc_pred, "loc_target": loc_target})
    del arrays["logits"]
    stand_ins = _device.stand_ins(arrays)
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


def _divided(
    logits: LogitBatch, on_device: OnDevice, boxes: kernels.Boxes, how: dict[str, Any]
) -> dict[str, Any]:
    """Enqueue the division, and the gradients if they are asked for; return the fields."""
    batch, losses, mined = logits.batch, logits.losses, on_device.mined
    num_samples, num_anchors = batch.num_samples, batch.conf_loss.size
    normalizers = {name: how[name] for name in ("normalize", "loc_normalize")}
    if how["zero_positives"] == "raise":  # the one word that must wait for the counts
        counts = Mined(on_device.read(mined.counts), *[np.empty(0)] * 3)
        for name, word in normalizers.items():
            loss_divisors(
                counts.num_pos, counts.num_kept, num_anchors, normalize=word, zero_positives="raise", argument=name
            )
    conf, loc = (
        kernels.divisor(word, how["zero_positives"], num_samples, num_anchors) for word in normalizers.values()
    )
    loc_sums = losses.allocate((num_samples,), np.float64)
    given = kernels.Sums(mined.counts, mined.sums, loc_sums, num_samples, how["loc_weight"])
    numbers = [losses.allocate((), np.float64) for _ in range(3)]
    results = kernels.Quotients(*numbers, losses.allocate((kernels.NUM_SHARES, num_samples), np.float64))
    kernels.enqueue_division(boxes, given, (conf, loc), results, losses.stream)
    logits_gradient, loc_gradient = _gradients(losses, boxes, results.shares) if how["with_gradients"] else (None, None)
    host_like = Mined(mined.counts.owner, mined.sums.owner, None, None)
    fields = {name: getattr(host_like, name) for name in ("positive_sum", "negative_sum", "num_pos", "num_neg", "num_kept")}
    fields |= dict(zip(("loss", "conf_loss", "loc_loss"), (number.owner for number in numbers), strict=True))
    return fields | {"loc_sum": loc_sums.owner, "logits_gradient": logits_gradient, "loc_gradient": loc_gradient}


def _gradients(losses: DeviceLosses, boxes: kernels.Boxes, shares: DeviceArray) -> tuple[Any, Any]:
    """Enqueue the gradients of the logits and of the predictions, arrays of the caller's library."""
    factors = losses.allocate((boxes.pos_mask.size,), np.float64)
    loc_gradient = losses.allocate((*losses.shape, boxes.width), boxes.pred.dtype)
    kernels.enqueue_factors(boxes, shares, factors, loc_gradient, losses.stream)
    return losses.gradients(factors), loc_gradient.owner if boxes.width else None
