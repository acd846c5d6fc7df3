"""The whole loss of device arrays: mined, then divided and differentiated by kernels that ask the host nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.classification import Classification
from ssd_mining.device.losses import MinedLogits, check_batch, mine_checked
from ssd_mining.device.mining import DeviceBatch, checked
from ssd_mining.engine.run import sample_columns
from ssd_mining.inputs.arrays import FLOAT32, FLOAT64
from ssd_mining.kernels.cuda.multibox import NUM_SHARES, Boxes, Quotients, Sums, enqueue_division, enqueue_factors
from ssd_mining.kernels.cuda.runtime import nothing
from ssd_mining.kernels.loss_rules import divisor_of
from ssd_mining.mining_rule import Extras, Mining


class Checked(NamedTuple):
    """Checked logits and labels, and locations of which only the dtypes were checked."""

    given: DeviceBatch
    class_axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the caller's anchors, (B, A), (B, H, W) and the like, or (N,)."""
        return self.given.batch.mask_shape

    @property
    def num_anchors(self) -> int:
        """The number of anchors in all."""
        return int(self.given.batch.offsets[-1])

    @property
    def stand_ins(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Host arrays without memory, of the dtypes and shapes of the locations."""
        arrays = self.given.arrays
        pred, target = arrays.get("loc_pred"), arrays.get("loc_target")
        return None if pred is None else pred.stand_in, None if target is None else target.stand_in


def check(
    logits: Any,
    labels: Any,
    loc_pred: Any,
    loc_target: Any,
    mining: Mining,
    extras: Extras,
    *,
    classification: Classification | None,
    class_axis: int,
) -> Checked:
    """Check all arrays of a call, but for the shapes of the locations."""
    how = mining, classification, class_axis
    given = checked(check_batch, how, extras, logits=logits, labels=labels, loc_pred=loc_pred, loc_target=loc_target)
    locations = {name: given.arrays[name].dtype for name in ("loc_pred", "loc_target") if name in given.arrays}
    for name, dtype in locations.items():
        if dtype not in (FLOAT32, FLOAT64) or dtype != locations.get("loc_pred", dtype):
            refuse(name, "float32 or float64 on a device, both locations the same", f"dtype {dtype}", TypeError)
    return Checked(given, class_axis)


def computed(
    call: Checked,
    refuse_counts: Callable[[NDArray[np.int64]], None] | None,
    *,
    normalize: str,
    loc_normalize: str,
    zero_positives: str,
    loc_weight: float,
    beta: float,
    with_gradients: bool,
) -> dict[str, Any]:
    """Enqueue the whole loss; return the fields of a `MultiboxLoss`, arrays of the caller's library.

    `refuse_counts` is called with the counts of mining if it is not None: then the host waits for them.
    """
    library = call.given.library
    num_samples, allocate = call.given.batch.offsets.size - 1, library.allocate
    with library.current():
        mined = mine_checked(call.given, call.class_axis)
        resident = mined.resident
        if refuse_counts is not None:
            refuse_counts(library.download(resident.mined.counts))
        boxes = _boxes(call, mined, beta)
        given = Sums(
            counts=resident.mined.counts,
            sums=resident.mined.sums,
            loc_sums=allocate((num_samples,), np.float64),
            num_samples=num_samples,
            loc_weight=loc_weight,
        )
        results = Quotients(
            loss=allocate((), np.float64),
            conf_loss=allocate((), np.float64),
            loc_loss=allocate((), np.float64),
            per_sample=allocate((num_samples,), np.float64),
            shares=allocate((NUM_SHARES, num_samples), np.float64),
        )
        conf = divisor_of(normalize, zero_positives, num_samples, call.num_anchors)
        loc = divisor_of(loc_normalize, zero_positives, num_samples, call.num_anchors)
        enqueue_division(boxes, given, conf, loc, results, library.stream)
        fields: dict[str, Any] = sample_columns(resident.owned())
        del fields["threshold"]
        if with_gradients:
            factors = allocate((boxes.pos_mask.size,), np.float64)
            loc_gradient = allocate((*call.shape, boxes.width), boxes.pred.dtype)
            enqueue_factors(boxes, results.shares, factors, loc_gradient, library.stream)
            fields["logits_gradient"] = mined.logits.gradients(factors).owner
            fields["loc_gradient"] = loc_gradient.owner if boxes.width else None
    of_batch = {name: getattr(results, name).owner for name in ("loss", "conf_loss", "loc_loss")}
    return fields | of_batch | {"confidence_loss": results.per_sample.owner, "loc_sum": given.loc_sums.owner}


def _boxes(call: Checked, mined: MinedLogits, beta: float) -> Boxes:
    """Return what the kernels read of each anchor."""
    batch, arrays, library = call.given.batch, call.given.arrays, mined.logits.library
    pred = target = nothing(np.float32)._replace(shape=(call.num_anchors, 0))
    if "loc_pred" in arrays:
        pred, target = (arrays[name].packed(library, -1) for name in ("loc_pred", "loc_target"))
    return Boxes(
        pos_mask=mined.resident.mined.pos_mask,
        hard_negative_mask=mined.resident.mined.hard_negative_mask,
        pred=pred,
        target=target,
        offsets=nothing(np.int64) if batch.is_dense else library.upload(batch.offsets),
        num_anchors=batch.shape[1] if batch.is_dense else -1,
        longest=batch.shape[1] if batch.is_dense else int(np.diff(batch.offsets).max(initial=0)),
        width=pred.shape[1],
        beta=beta,
    )
