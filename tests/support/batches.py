"""Generated batches, the reference's answer to them, and the real ones where they are at hand."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numba
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from ssd_mining import reference
from ssd_mining.mining_rule import Scope
from ssd_mining.reference import Roles, Sample

ROOT = Path(__file__).parents[2]
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-42, 3e38]
LOSSES = ("gamma", "ties", "zeros", "negative", "special", "equal", "ascending", "descending")
LABELS = ("int64", "uint8", "int16", "uint64", "bool", "one_hot", "one_hot_int")
MANY = os.environ.get("SSD_MINING_EXAMPLES") == "all"  # .ci/run slow


def examples(number: int) -> int:
    """Say how many examples to generate: all in the slow run, few where the JIT is off and rows take longer."""
    if MANY:
        return number
    return number // (20 if numba.config.DISABLE_JIT else 10)


def generated(number: int) -> Callable[[Any], Any]:
    """Mark a test whose examples are generated, so that the slow run generates all of them."""
    return lambda test: pytest.mark.generated(settings(max_examples=examples(number))(test))


def printed(code: str, *arguments: str, **environment: str) -> list[str]:
    """Run code in a process of its own, with these variables beside those of this one; return the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def losses(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw losses (B, A) of a kind; most kinds are full of ties."""
    size = shape[0] * shape[1]
    values = {
        "gamma": lambda: rng.gamma(0.3, 1.0, size),
        "ties": lambda: rng.integers(0, 4, size) / 4,
        "zeros": lambda: np.where(rng.random(size) < 0.8, 0.0, rng.gamma(0.3, 1.0, size)),
        "negative": lambda: rng.normal(-1, 1, size).round(1),
        "special": lambda: rng.choice(SPECIAL, size),
        "equal": lambda: np.full(size, 0.7),
        "ascending": lambda: np.arange(size) / 8,
        "descending": lambda: -np.arange(size) / 8,
    }[kind]()
    return values.reshape(shape).astype(np.float32)


@dataclass
class Batch:
    """A generated call, and which anchors play which role in it."""

    conf_loss: np.ndarray
    labels: np.ndarray
    keywords: dict[str, Any]
    rules: dict[str, Any]  # what the reference wants to know of the quota
    pos_mask: np.ndarray
    neg_mask: np.ndarray
    rank: np.ndarray
    quotas: np.ndarray | None = None
    omit_nan: bool = False
    weighted: np.ndarray | None = None  # the losses times their weights
    expected: list[Sample] = field(default_factory=list)

    @property
    def offsets(self) -> np.ndarray:
        given = self.keywords.get("sample_offsets")
        return np.arange(self.conf_loss.shape[0] + 1) * self.conf_loss.shape[1] if given is None else given

    def __post_init__(self) -> None:
        rng = self.keywords.get("rng")
        self.expected += reference.mine_batch(
            (self.conf_loss if self.weighted is None else self.weighted).ravel(),
            self.rank.ravel(),
            Roles(self.pos_mask.ravel(), self.neg_mask.ravel()),
            self.offsets,
            num_negatives=self.quotas,
            omit_nan=self.omit_nan,
            rng=None if rng is None else np.random.default_rng(rng),
            **self.rules,
        )


def kinds_beside(dtype: type) -> tuple[str, ...]:
    """Return the kinds of labels to draw beside losses of a type; fewer where each width is compiled for each type."""
    if MANY or numba.config.DISABLE_JIT or numba.config.ENABLE_CUDASIM:
        return LABELS
    return ("int64",) if dtype is np.float32 else ("uint8", "bool", "one_hot", "one_hot_int")


@st.composite
def labelled(
    draw: st.DrawFn, shape: tuple[int, int], kinds: tuple[str, ...], rng: np.random.Generator
) -> tuple[np.ndarray, dict, Roles]:
    """Draw labels of a kind, the keywords that go with them, and the roles that they give."""
    num_classes, keywords = draw(st.integers(1, 5)), {}
    positives = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    kind = draw(st.sampled_from(kinds))
    background = draw(st.integers(0, num_classes - 1))
    classes = np.where(rng.random(shape) < positives, rng.integers(0, num_classes, shape), background)
    valid = rng.random(shape) < 0.8 if draw(st.booleans()) else None
    if valid is not None:
        keywords["valid"] = valid
    if kind == "bool":
        return classes != background, keywords, reference.roles(classes != background, valid=valid)
    if kind.startswith("one_hot"):
        labels = np.eye(num_classes, dtype=np.float32 if kind == "one_hot" else np.int8)[classes]
        if background != num_classes - 1 or draw(st.booleans()):
            keywords["background"] = background if draw(st.booleans()) else background - num_classes
        return labels, keywords, reference.roles(labels, background=background, valid=valid)
    labels, ignore_index = classes.astype(kind), None
    if draw(st.booleans()):
        ignore_index = 200 if kind.startswith("u") else -1
        labels[rng.random(shape) < 0.2] = ignore_index
        keywords["ignore_index"] = ignore_index
    keywords["background"] = background
    return labels, keywords, reference.roles(labels, background=background, ignore_index=ignore_index, valid=valid)


@st.composite
def batches(draw: st.DrawFn, max_anchors: int = 70) -> Batch:
    """Draw a whole call: losses, labels, keywords. The values come from a seed, so that thousands are cheap."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(0, 4)), draw(st.integers(0, max_anchors)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    conf_loss = losses(draw(st.sampled_from(LOSSES)), shape, rng).astype(dtype)
    labels, keywords, roles = draw(labelled(shape, kinds_beside(dtype), rng))
    nan_policy = draw(st.sampled_from(["raise", "raise", "propagate", "omit"]))
    if nan_policy != "raise":
        keywords["nan_policy"] = nan_policy
        conf_loss[rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.5]))] = np.nan
    if draw(st.integers(0, 3)) == 0:
        keywords["overlaps"] = overlaps = rng.integers(0, 5, shape) / 4
        keywords["neg_overlap"] = draw(st.sampled_from([0.5, 0.75]))
        roles = Roles(roles.pos_mask, roles.neg_mask & ~(overlaps >= keywords["neg_overlap"]))
    weighted = None
    if draw(st.integers(0, 3)) == 0:
        keywords["anchor_weights"] = weights = rng.integers(0, 3, shape).astype(np.float32)
        with np.errstate(over="ignore"):
            product = conf_loss * np.where(weights == 0, 1, weights)
        weighted = np.where(weights == 0, 0, product).astype(conf_loss.dtype)
    rules = draw(quota_rules()) | draw(selection_rules())
    keywords.update(rules)
    rank, quotas = conf_loss if weighted is None else weighted, None
    if draw(st.integers(0, 3)) == 0:
        keywords["rank_by"] = rank = losses(draw(st.sampled_from(LOSSES)), shape, rng)
    if draw(st.integers(0, 3)) == 0:
        keywords["num_negatives"] = quotas = rng.integers(0, max_anchors, shape[0])
        if rules.get("scope") == "batch":  # which takes one number
            quotas[:] = keywords["num_negatives"] = draw(st.integers(0, 2 * max_anchors))
    if "pool_size" in rules:
        keywords["rng"] = draw(st.integers(0, 100))
    batch = Batch(conf_loss, labels, keywords, rules, *roles, rank, quotas, nan_policy == "omit", weighted)
    return ragged(batch, rng) if draw(st.integers(0, 3)) == 0 and shape[0] else batch


def ragged(batch: Batch, rng: np.random.Generator) -> Batch:
    """Return the anchors of a batch as samples of unequal lengths, some of them empty."""
    num_samples, size = batch.conf_loss.shape[0], batch.conf_loss.size
    cuts = np.sort(rng.integers(0, size + 1, num_samples - 1))
    keywords = {"sample_offsets": np.array([0, *cuts, size])}
    for name, value in batch.keywords.items():
        is_array = isinstance(value, np.ndarray) and value.ndim == 2
        keywords[name] = value.reshape(-1) if is_array else value
    rank = batch.rank.reshape(-1)
    return Batch(
        *(batch.conf_loss.reshape(-1), batch.labels.reshape(-1, *batch.labels.shape[2:]), keywords, batch.rules),
        *(batch.pos_mask.reshape(-1), batch.neg_mask.reshape(-1), rank, batch.quotas, batch.omit_nan),
        None if batch.weighted is None else batch.weighted.reshape(-1),
    )


@st.composite
def quota_rules(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the keywords that decide how many negatives are kept."""
    rules: dict[str, Any] = {"neg_pos_ratio": draw(st.sampled_from([3, 3.0, 0, 0.5, 1.7, 1e300]))}
    if draw(st.integers(0, 3)) == 0:
        rules["rounding"] = "ceil"
    if draw(st.integers(0, 3)) == 0:
        rules["extra_negatives"] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        rules["min_negatives"] = draw(st.one_of(st.integers(0, 10), st.sampled_from([0.1, 0.29, 0.0])))
        rules["min_negatives_when"] = draw(st.sampled_from(["always", "no_positives"]))
    if draw(st.booleans()):
        rules["max_negatives"] = draw(st.integers(10, 20))
    return rules


@st.composite
def selection_rules(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the keywords of the rules that take more than one pass; none of them half of the time."""
    rules: dict[str, Any] = {}
    if draw(st.booleans()):
        return rules
    rules["scope"] = draw(st.sampled_from(get_args(Scope)))
    if draw(st.booleans()):
        rules["skip_hardest"] = draw(st.integers(0, 20))
    kind = draw(st.sampled_from(["index", "strict", "all", "pool"]))
    if kind == "pool":
        rules["pool_size"] = draw(st.sampled_from([1.5, 2, 10.0]))
    elif kind != "index":
        rules["tie_policy"] = kind
    return rules


def real_folder() -> Path:
    """Return the folder of the real arrays; skip where it is not at hand."""
    folder = Path(os.environ.get("SSD_MINING_DATA", ROOT.parent / "shared" / "real"))
    if not (folder / "load_real.py").exists():
        pytest.skip(f"the real arrays are not at hand: no {folder}; set SSD_MINING_DATA")
    return folder


def load_real(name: str, background: str = "first") -> dict[str, Any]:
    """Load one real file through the loader beside it."""
    folder = real_folder()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    import load_real as loader

    return loader.load(name, background=background)


REAL_FILES = {  # the batch means that their README prints
    "coco91_int8.npz": "104.415917",
    "coco91_float.npz": "45.019319",
    "pvb4.npz": "93.695809",
    "veh2.npz": "52.258012",
}
