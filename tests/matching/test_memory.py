"""Matching holds no matrix of overlaps."""

import tracemalloc

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.benchmarks import matching


@pytest.mark.full_size
@pytest.mark.parametrize("count", [30, 3000])
def test_memory_grows_with_the_anchors_and_not_with_the_objects(count):
    anchors = sm.default_boxes("retinanet", image_size=800)
    boxes, classes = matching.objects(count) * np.float32(800), np.ones(count, int)
    sm.match_anchors([boxes], [classes], anchors, force="none", num_threads=1)  # compiled
    tracemalloc.start()
    sm.match_anchors([boxes], [classes], anchors, force="none", num_threads=1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (8 << 20)
