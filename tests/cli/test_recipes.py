"""``recipes``: which known system would print a loss."""

import json

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.commands import run
from tests.support.multibox import draw


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Save a batch, and work beside it; return its arrays."""
    call = draw(3, positives=(3, 1), num_anchors=40)
    for name, array in zip(("logits", "labels", "pred", "target"), call.arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    monkeypatch.chdir(tmp_path)
    return call.arrays


WORDS = ("recipes", "logits.npy", "labels.npy", "--background", 0)


def test_the_table_is_that_of_the_library(saved):
    assert run(*WORDS) == (0, f"{sm.compare_recipes(*saved[:2], background=0)}\n", "")
    with_locations = sm.compare_recipes(*saved, background=0, recipes=["caffe", "seed"])
    options = ("--locations", "pred.npy", "target.npy", "--recipes", "caffe,seed")
    assert run(*WORDS, *options) == (0, f"{with_locations}\n", "")


def test_a_printed_loss_is_answered(saved):
    found = sm.compare_recipes(*saved[:2], background=0)
    loss = f"{found.loss[found.names.index('torchvision')]:.4f}"
    expected = ", ".join(found.would_print(loss))
    assert "torchvision" in expected
    assert run(*WORDS, "--loss", loss)[1].endswith(f"\n\n{loss} would be printed by: {expected}\n")
    none = run(*WORDS, "--loss", "1e9")[1].splitlines()[-1]
    name = found.names[int(np.argmax(found.loss))]
    assert none == f"1e9 would be printed by none of them; {name} is nearest, with {found.loss.max():.6g}"
    answer = json.loads(run(*WORDS, "--loss", loss, "--json")[1])
    assert answer["would_print"] == expected.split(", ")
    assert [tuple(group["recipes"]) for group in answer["groups"]] == list(found.groups)
    assert answer["overlap_with"] == found.names[0]


@pytest.mark.usefixtures("saved")
def test_what_cannot_be_compared_is_refused_in_one_line():
    np.save("short.npy", np.zeros((2, 39), int))
    for words, code, expected in [
        (
            (*WORDS, "--recipes", "nvida"),
            2,
            "--recipes: expected names of ssd_mining.recipes, got 'nvida'; did you mean",
        ),
        (WORDS[:3], 2, "--background: expected a whole number, got None"),
        ((*WORDS, "--loss", "x"), 2, "--loss: expected a number, got 'x'"),
        ((*WORDS, "--locations", "pred.npy", "labels.npy"), 2, "--locations: expected"),
        (("recipes", "labels.npy", *WORDS[2:]), 3, "labels.npy: expected"),
        (("recipes", "logits.npy", "short.npy", *WORDS[3:]), 3, "logits.npy: expected a (B, A, C) array for labels"),
    ]:
        got, out, err = run(*words)
        assert (got, out, err.count("\n")) == (code, "", 1)
        assert err.startswith(f"ssd-mining: error: {expected}")
