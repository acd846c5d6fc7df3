"""After a warmup for it, matching compiles nothing, whatever the layouts, the batch and the number of threads."""

import pytest

from tests.support.batches import printed

CODE = """
import numpy as np
import ssd_mining as sm
from ssd_mining.kernels.cpu import jit
done = sm.warmup(loss_dtypes=[], matching=True)
from ssd_mining.matching import match
match.PAIRS_EACH, match.BLOCK_PAIRS = 1, 700
before = jit.counts()
boxes = np.array([[0, 0, 1, 1], [0.5, 0, 1, 1], [0, 0, 0.5, 0.5]])
for dtype in ("f2", "f4", ">f4", "f8", "i1", "i8"):
    for layout in (np.array, np.asfortranarray, lambda a: a[::-1]):
        own = layout(boxes.astype(dtype))
        for anchors in (own, np.stack([own] * 3), np.tile(own, (60, 1))):
            for valid in (None, np.ones(anchors.shape[-2], bool), np.ones((3, anchors.shape[-2]), bool)):
                call = {"valid": valid, "crowd": [[False, True, False], [], [True] * 3]}
                sm.match_anchors([own, [], own], [[1, 2, 3], [], (1, 2, 3)], anchors, **call)
                crowd = np.repeat([False, True, False], 2)[::2]
                flat = {"box_offsets": np.int32([0, 1, 1, 3]), "force": "own_best", "crowd": crowd}
                sm.match_anchors(own, np.uint8([1, 2, 3]), anchors, **flat)
print(done.compiled + done.loaded > 0, jit.counts() == before)
"""


@pytest.mark.slow
@pytest.mark.process
def test_after_a_warmup_for_it_matching_compiles_nothing():
    assert printed(CODE) == ["True True"]
