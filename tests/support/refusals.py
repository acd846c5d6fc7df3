"""What is refused wherever the keywords of a mining rule are taken, and in which words."""

import re

import numpy as np

import ssd_mining as sm

LOSS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


LOGITS = np.arange(24.0).reshape(2, 3, 4)
CLASSES = np.array([[1, 0, 0], [0, 0, 2]])
ONE_HOT = np.eye(4)[CLASSES]
LOC = np.zeros((2, 3, 4))
NAN = np.where(np.arange(24).reshape(2, 3, 4) == 17, np.nan, LOGITS)  # sample 1, anchor 1


def pattern(message):
    """Make a message a pattern, in which `.*` alone is not literal."""
    return ".*".join(re.escape(part) for part in message.split(".*"))


# Changes of keywords of a good call, the error that each gets, and its message.
BAD_KEYWORDS = {
    "no background": (
        {"background": None},
        ValueError,
        (
            "background: expected the background class, for integer labels, got None; systems differ between first and "
            "last class, so there is no default (often background=0)"
        ),
    ),
    "the last class of integer labels": (
        {"background": -1},
        ValueError,
        "background: expected a class number of at least 0, for integer labels, got -1; integer labels do not tell",
    ),
    "a fractional background": (
        {"background": 0.5},
        TypeError,
        "background: expected a whole number or None, got 0.5",
    ),
    "a bool background": ({"background": True}, TypeError, "background: expected a whole number or None, got True"),
    "an ignored background": (
        {"ignore_index": 0},
        ValueError,
        "ignore_index: expected a label other than background, got 0 for both",
    ),
    "a negative ratio": (
        {"neg_pos_ratio": -1},
        ValueError,
        "neg_pos_ratio: expected a finite number of at least 0, got -1",
    ),
    "a NaN ratio": ({"neg_pos_ratio": float("nan")}, ValueError, "neg_pos_ratio: .* got nan"),
    "an infinite ratio": ({"neg_pos_ratio": float("inf")}, ValueError, "neg_pos_ratio: .* got inf"),
    "a ratio that is no number": ({"neg_pos_ratio": "3"}, TypeError, "neg_pos_ratio: expected a number, got '3'"),
    "a negative minimum": (
        {"min_negatives": -1},
        ValueError,
        "min_negatives: expected a whole number of at least 0, got -1",
    ),
    "a fractional minimum": (
        {"min_negatives": 1.5},
        ValueError,
        "min_negatives: expected a whole number of at least 0, or a share of the anchors below 1, got 1.5",
    ),
    "a minimum that is no number": ({"min_negatives": "1"}, TypeError, "min_negatives: expected a whole .* got '1'"),
    "a ratio beyond float64": (
        {"neg_pos_ratio": 10**400},
        ValueError,
        "neg_pos_ratio: expected a finite number of at least 0, got a whole number of 1329 bits",
    ),
    "an unknown rounding": (
        {"rounding": "up"},
        ValueError,
        "rounding: expected 'floor' or 'ceil', got 'up'",
    ),
    "an unknown scope": ({"scope": "image"}, ValueError, "scope: expected 'sample' or 'batch' or .*, got 'image'"),
    "an unknown tie policy": (
        {"tie_policy": "first"},
        ValueError,
        "tie_policy: expected 'index' or 'strict' or 'all', got 'first'",
    ),
    "an unknown rank": (
        {"rank_by": "score"},
        ValueError,
        "rank_by: expected 'loss' or 'background' or 'foreground_max' or 'foreground_sum', got 'score'",
    ),
    "a rank that only logits have": (
        {"rank_by": "background"},
        ValueError,
        "rank_by: expected \"loss\" or an array, .* (mine_logits, multibox_loss), got 'background'",
    ),
    "fewer than no extra negatives": (
        {"extra_negatives": -1},
        ValueError,
        "extra_negatives: expected a whole number of at least 0, got -1",
    ),
    "half a skipped anchor": (
        {"skip_hardest": 0.5},
        TypeError,
        "skip_hardest: expected a whole number of at least 0, got 0.5",
    ),
    "a pool that is too small": (
        {"pool_size": 0.5},
        ValueError,
        "pool_size: expected a finite number of at least 1, got 0.5",
    ),
    "a pool with ties": (
        {"pool_size": 2, "tie_policy": "all"},
        ValueError,
        "pool_size: expected 1 with tie_policy='all', got 2",
    ),
    "an overlap that is no number": ({"neg_overlap": "0.5"}, TypeError, "neg_overlap: expected a number, got '0.5'"),
    "overlaps of another shape": (
        {"overlaps": [0.5]},
        ValueError,
        "overlaps: expected the shape of conf_loss (2, 3), got shape (1,)",
    ),
    "negative weights": (
        {"anchor_weights": [[1, 1, -0.5], [1, 1, 1]]},
        ValueError,
        "anchor_weights: expected finite numbers of at least 0, got -0.5 at (sample 0, anchor 2)",
    ),
    "weights of NaN": (
        {"anchor_weights": np.full((2, 3), np.nan)},
        ValueError,
        "anchor_weights: expected finite numbers of at least 0, got nan at (sample 0, anchor 0)",
    ),
    "weights of another shape": (
        {"anchor_weights": [1.0, 1.0]},
        ValueError,
        "anchor_weights: expected the shape of conf_loss (2, 3), got shape (2,)",
    ),
    "a quota for each sample of a batch that is mined as one": (
        {"num_negatives": [1, 2], "scope": "batch"},
        ValueError,
        'num_negatives: expected one number for scope="batch", got shape (2,)',
    ),
    "a minimum above the maximum": (
        {"min_negatives": 5, "max_negatives": 4},
        ValueError,
        "min_negatives: expected at most max_negatives (4), got 5",
    ),
    "a negative maximum": (
        {"max_negatives": -1},
        ValueError,
        "max_negatives: expected a whole number of at least 0, got -1",
    ),
    "an unknown minimum rule": (
        {"min_negatives_when": "never"},
        ValueError,
        "min_negatives_when: expected 'always' or 'no_positives', got 'never'",
    ),
    "an unknown NaN policy": (
        {"nan_policy": None},
        ValueError,
        "nan_policy: expected 'raise' or 'propagate' or 'omit', got None",
    ),
    "NaN ranks": (
        {"rank_by": np.where(LOSS == 5, np.nan, LOSS)},
        ValueError,
        "rank_by: expected no NaN .* got NaN at (sample 1, anchor 1)",
    ),
    "ranks of another shape": (
        {"rank_by": LOSS[:1]},
        ValueError,
        "rank_by: expected the shape of conf_loss (2, 3), got shape (1, 3)",
    ),
    "integers for valid": (
        {"valid": CLASSES},
        TypeError,
        "valid: expected a bool array, True where the anchor counts, got dtype int64",
    ),
    "valid of another shape": (
        {"valid": [True, False, True]},
        ValueError,
        "valid: expected the shape of conf_loss (2, 3), got shape (3,)",
    ),
    "a negative quota": (
        {"num_negatives": [1, -2]},
        ValueError,
        "num_negatives: expected numbers of at least 0, got -2 at 1",
    ),
    "a quota per anchor": (
        {"num_negatives": CLASSES},
        ValueError,
        "num_negatives: expected one number, or one per sample (2,), got shape (2, 3)",
    ),
    "a fractional quota": (
        {"num_negatives": 1.5},
        TypeError,
        "num_negatives: expected whole numbers, got dtype float64",
    ),
    "an unknown keyword": (
        {"ratio": 3},
        TypeError,
        "ratio: no such keyword; did you mean neg_pos_ratio?",
    ),
    "a spec and keywords": (
        {"mining": sm.Mining()},
        TypeError,
        "mining: expected either mining= or keywords, got both mining= and background",
    ),
    "a spec of another type": ({"mining": {"background": 0}}, TypeError, "mining: expected a Mining, got dict"),
    "an unhashable keyword": ({"background": [0]}, TypeError, "background: expected a whole number or None, got [0]"),
    "an unknown backend": (
        {"backend": "gpu"},
        ValueError,
        "backend: expected 'cpu', 'cuda', 'reference' or None, got 'gpu'",
    ),
    "a backend that is no name": (
        {"backend": ["cpu"]},
        ValueError,
        "backend: expected 'cpu', 'cuda', 'reference' or None, got ['cpu']",
    ),
    "no threads": (
        {"num_threads": 0},
        ValueError,
        "num_threads: expected a whole number of at least 1 or None, got 0",
    ),
    "half a thread": (
        {"num_threads": 0.5},
        TypeError,
        "num_threads: expected a whole number of at least 1 or None, got 0.5",
    ),
}
