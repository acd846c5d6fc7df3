"""The hazards of an analysis: input that is legal and surely a mistake, as the counts of a data set show it."""

from ssd_mining.analysis.state import POS_MASK, State
from ssd_mining.engine.hazards import FEW_ANCHORS, hazards_of

OMITTED = 0.01  # more NaN than this share of the anchors are no accident
LIKE_PROBABILITIES = 0.8  # half of the negatives above this and none above 1: probabilities of the labels


def hazards_of_state(state: State) -> tuple[str, ...]:
    """Say what is surely a mistake about the samples seen so far, each with the number that shows it."""
    count = {name: state.totals[name].count_of() for name in _COUNTS}
    if count["anchors"] < FEW_ANCHORS:
        return _of_labels(state, count)
    return _of_labels(state, count) + _of_roles(state, count) + _of_values(state, count)


_COUNTS = (
    *("samples", "anchors", "positives", "negatives", "without positives", "empty rows"),
    *("omitted", "flat", "scored", "like probabilities"),
)


def _of_labels(state: State, count: dict[str, int]) -> tuple[str, ...]:
    if state.labels in (None, POS_MASK):
        return ()
    return hazards_of(
        state.spec.mining.background,
        num_samples=count["samples"],
        num_anchors=count["anchors"],
        num_pos=count["positives"],
        num_neg=count["negatives"],
        num_empty=count["empty rows"],
        is_whole=True,
    )


def _of_roles(state: State, count: dict[str, int]) -> tuple[str, ...]:
    found = []
    num_pos, num_neg = count["positives"], count["negatives"]
    if num_pos > num_neg > 0:
        advice = "" if state.labels == POS_MASK else "; is background the right class?"
        found.append(f"more than half of the anchors, {num_pos:,} of {num_pos + num_neg:,}, are positives{advice}")
    if not num_pos and num_neg and count["samples"] > 1:
        found.append(
            f"none of the {count['samples']:,} samples has a positive: all anchors are background or ignored"
        )
    if state.spec.mining.nan_policy == "omit" and count["omitted"] > OMITTED * count["anchors"]:
        found.append(f"{count['omitted'] / count['anchors']:.1%} of the anchors are NaN and were omitted")
    return tuple(found)


def _of_values(state: State, count: dict[str, int]) -> tuple[str, ...]:
    found = []
    with_pos, from_losses = count["samples"] - count["without positives"], state.spec.classification is None
    if from_losses and count["flat"] and count["flat"] == with_pos:  # an untrained model has such logits
        seen = f"all losses of a sample are equal, in {with_pos:,} of {with_pos:,} samples"
        found.append(f"{seen}; expected a loss for every anchor, not their mean")
    if count["scored"] and count["like probabilities"] == count["scored"]:
        looked = f"all {count['scored']:,} rows of logits that were looked at lie between 0 and 1"
        found.append(f"{looked}, as probabilities do; pass what goes into the softmax or sigmoid")
    negatives = state.distribution("negatives")
    if from_losses and negatives.largest <= 1:
        middle = negatives.quantile(0.5)
        if middle >= LIKE_PROBABILITIES and negatives.least >= 0:
            seen = f"half of the losses of negatives are above {middle:.3g} and none is above 1"
            found.append(f"{seen}, as probabilities of the label are; the loss is minus their logarithm")
    return tuple(found)
