"""Hazards: input that is legal and surely a mistake. What mining counts anyway shows it, so the look costs nothing."""

from ssd_mining.checks import warn
from ssd_mining.inputs.batch import Batch
from ssd_mining.kernels.records import Counts

# A batch of fewer anchors than this may have no negative: crops that objects fill, or a test. A data set of several
# samples has some.
FEW_ANCHORS = 1000


def hazards_of(
    background: int | None,
    *,
    num_samples: int,
    num_anchors: int,
    num_pos: int,
    num_neg: int,
    num_empty: int,
    is_whole: bool = False,
) -> tuple[str, ...]:
    """Say what is surely a mistake about labels with these counts.

    `background` is None for the last class of scores; `num_empty` counts all-zero rows that became positives;
    `is_whole` says that these are the counts of a data set, not of a batch.
    """
    if num_empty > num_pos - num_empty:
        advice = "if they are background, pass all_zero='negative', or background=C for labels without its column"
        return (f"all-zero rows of labels make {num_empty:,} of the {num_anchors:,} anchors positives; {advice}",)
    if num_neg == 0 and num_pos >= (1 if is_whole and num_samples > 1 else FEW_ANCHORS):
        name = "the last class, which is background," if background is None else f"background {background}"
        which = "anchors" if num_pos == num_anchors else "anchors that are not ignored"
        return (f"{name} labels none of the {num_pos:,} {which}: all of them are positives",)
    return ()


def warn_of_hazards(batch: Batch, num_pos: Counts, num_neg: Counts) -> None:
    """Warn of what is surely a mistake about a batch with these counts, (B,)."""
    for hazard in batch_hazards(batch, int(num_pos.sum()), int(num_neg.sum())):
        warn(hazard)


def batch_hazards(batch: Batch, num_pos: int, num_neg: int) -> tuple[str, ...]:
    """Say what is surely a mistake about a batch with these counts."""
    if batch.is_pos_mask:
        return ()  # a pos_mask has no background
    return hazards_of(
        batch.mining.background,
        num_samples=batch.offsets.size - 1,
        num_anchors=int(batch.offsets[-1]),
        num_pos=num_pos,
        num_neg=num_neg,
        num_empty=batch.num_empty,
    )
