"""What the tests of the analysis share: generated batches taken apart by sample, and merged again."""

import itertools
import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

import ssd_mining as sm
from tests.support.batches import Batch, batches

PER_ANCHOR = ("valid", "overlaps", "anchor_weights", "rank_by")


def part(batch: Batch, start: int, stop: int) -> dict[str, Any]:
    """Return some samples of a batch as what `update` takes, without the fields of the rule."""
    given = batch.keywords
    ragged = "sample_offsets" in given
    anchors = slice(batch.offsets[start], batch.offsets[stop]) if ragged else slice(start, stop)
    call = {"values": batch.conf_loss[anchors], "labels": batch.labels[anchors], "first_sample": start}
    call |= {name: given[name][anchors] for name in PER_ANCHOR if isinstance(given.get(name), np.ndarray)}
    if ragged:
        call["sample_offsets"] = batch.offsets[start : stop + 1] - batch.offsets[start]
    if "num_negatives" in given:
        call["num_negatives"] = given["num_negatives"][start:stop]
    call["ids"] = [f"picture {i}" for i in range(start, stop)]
    return call


def selection(batch: Batch) -> dict[str, Any]:
    """Return the fields of the rule of a batch."""
    own = {"valid", "overlaps", "anchor_weights", "num_negatives", "sample_offsets", "rng"}
    chosen = {name: value for name, value in batch.keywords.items() if name not in own}
    if isinstance(chosen.get("rank_by"), np.ndarray):
        del chosen["rank_by"]
    return chosen


@st.composite
def analysed(draw: st.DrawFn, max_anchors: int = 70) -> tuple[Batch, dict[str, Any]]:
    """Draw a batch whose samples are mined one by one without draws, and the settings of an analysis of it."""
    batch = draw(
        batches(max_anchors).filter(
            lambda batch: batch.rules.get("scope", "sample") == "sample" and "pool_size" not in batch.rules
        )
    )
    settings = {**selection(batch), "top": draw(st.sampled_from([0, 1, 3, 50])), "ratios": (1, 2.5, 3)}
    if "num_negatives" in batch.keywords:
        settings["ratios"] = ()
    if "sample_offsets" not in batch.keywords and batch.conf_loss.shape[1] > 2:
        first = draw(st.integers(1, batch.conf_loss.shape[1] - 1))
        settings["levels"] = [first, batch.conf_loss.shape[1] - first]
    return batch, settings


def dumped(analysis: sm.LossAnalysis) -> str:
    """Return the result as text: equal bytes, equal results."""
    return json.dumps(analysis.result().to_dict())


def blocks(batch: Batch, cuts: list[int]) -> list[dict[str, Any]]:
    """Return a batch as blocks that end at these samples."""
    ends = [0, *sorted(cuts), batch.offsets.size - 1]
    return [part(batch, start, stop) for start, stop in itertools.pairwise(ends)]
