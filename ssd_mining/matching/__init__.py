"""Matching: from boxes to the labels that every other function takes, and to the targets of the localization loss.

Read `rule` (a `Matching`, and the rules of other systems by name), `match` (`match_anchors`), `offsets` (`encode_boxes`
and its inverse), then `anchors` (`anchor_grid`, and the default boxes of known detectors).

The contract: the IoU is computed in the dtype of the boxes and the anchors, float32 unless one of them needs float64,
by the formula of all the systems; so equal overlaps, and overlaps at a threshold, are decided as they decide them.
"""
