"""Watch a torchvision SSD, SSDLite or RetinaNet: what it saw of each batch, as NumPy arrays for the other functions."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.checks import refuse
from ssd_mining.classification import Classification, Focal, Softmax
from ssd_mining.mining_rule import Mining
from ssd_mining.recipe import recipes

# What the models call to turn images into losses or boxes.
PARTS = ("transform", "head", "anchor_generator", "proposal_matcher", "box_coder")

IGNORED = -1  # the label of an anchor that matches neither an object nor the background


class Seen:
    """What a model saw of the last batch, B images with A anchors each.

    Boxes and anchors are corners x1, y1, x2, y2 in pixels of the images as the model resized them;
    ``seen.anchors * seen.scale[b]`` and ``seen.boxes[b] * seen.scale[b]`` are in pixels of the original image b.

    Attributes
    ----------
    mining : Mining
        The rule by which the model's own loss chooses anchors.
    classification : Softmax or Focal
        The model's own classification loss.
    keywords : dict
        These two, and the other keywords with which `multibox_loss` gives the model's own losses.
    logits : ndarray, (B, A, C)
        The classification logits; an SSD has a column for background, the first, a RetinaNet has none.
    labels : ndarray of int64, (B, A)
        The class of the object of every anchor; the background, 0 of an SSD and C of a RetinaNet; or -1, ignored.
    loc_pred, loc_target : ndarray, (B, A, 4)
        The predicted offsets, and those of the matched objects, 0 where there is none.
    matched : ndarray of int64, (B, A)
        The number of the object of every anchor; -1: background; -2: ignored.
    overlaps : ndarray, (B, A)
        The largest overlap of every anchor with an object.
    anchors : ndarray, (A, 4)
        The anchors, the same of all images.
    boxes : list of ndarray, (n, 4)
        The labelled boxes of every image.
    classes : list of ndarray of int64, (n,)
        Their classes.
    scale : ndarray of float64, (B, 4)
        The size of every original image over that of the resized one, for x, y, x, y.
    """

    mining: Mining
    classification: Classification
    keywords: dict[str, Any]
    logits: NDArray[Any]
    labels: NDArray[np.int64]
    loc_pred: NDArray[Any]
    loc_target: NDArray[Any]
    matched: NDArray[np.int64]
    overlaps: NDArray[Any]
    anchors: NDArray[Any]
    boxes: list[NDArray[Any]]
    classes: list[NDArray[np.int64]]
    scale: NDArray[np.float64]

    def __init__(self, keywords: dict[str, Any]) -> None:
        self.mining, self.classification = keywords["mining"], keywords["classification"]
        self.keywords = keywords

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of `LossReport` and `LossAnalysis` for the model's own loss."""
        return {"mining": self.mining, "classification": self.classification, "beta": self.keywords.get("beta", 1.0)}

    @property
    def batch(self) -> dict[str, Any]:
        """The last batch, as the keywords of `LossReport.update`."""
        names = ("labels", "matched", "overlaps", "loc_pred", "loc_target", "anchors", "boxes")
        return {"values": self.logits, **{name: getattr(self, name) for name in names}}

    def __getattr__(self, name: str) -> Any:
        msg = f"{name}: nothing of this name was seen; call the model with images and targets first"
        raise AttributeError(msg)


@contextlib.contextmanager
def watch(model: Any) -> Iterator[Seen]:
    """Watch a detector of torchvision: each ``model(images, targets)`` in this context is seen.

    Nothing has a gradient here. When the context ends, also by an exception, the hooks are gone, and the buffers, such
    as the statistics of a batch norm, are what they were. The mode, train or eval, is the caller's.

    Parameters
    ----------
    model : torchvision SSD, SSDLite or RetinaNet
        In train or eval mode. Give it the targets in eval mode too: it does not use them there, but they are seen.

    Yields
    ------
    Seen
        The logits, labels, locations, anchors and boxes of the last batch.

    Raises
    ------
    TypeError
        If the model is another one, or is called without targets.

    Notes
    -----
    The model's own matcher and box coder make `matched` and `loc_target`. `multibox_loss` with ``seen.keywords`` gives
    the ``classification`` and ``bbox_regression`` of the model's ``compute_loss``, with two exceptions: an SSD adds
    positives a second time where the quota exceeds the negatives (docs/recipes.md), and a RetinaNet may have another
    loss of boxes than L1, as ``retinanet_resnet50_fpn_v2`` has. docs/how-to/torchvision.md has a complete script.
    """
    import torch

    seen, given = Seen(_keywords(model)), dict[str, Any]()

    def keep(part: str) -> Any:
        return lambda _, inputs, output: given.update({part: (inputs, output)})

    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for part in ("transform", "head", "anchor_generator"):
            hooks.callback(getattr(model, part).register_forward_hook(keep(part)).remove)
        after = model.register_forward_hook(
            lambda *_: vars(seen).update(_of_batch(model, given, seen.mining.background))
        )
        hooks.callback(after.remove)
        try:
            yield seen
        finally:
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def _keywords(model: Any) -> dict[str, Any]:
    """Return the keywords of `multibox_loss` for the model's own loss."""
    lacks = [part for part in PARTS if not hasattr(model, part)]
    if lacks:
        got = f"{type(model).__name__}, which has no {lacks[0]}"
        refuse("model", "an SSD, an SSDLite or a RetinaNet of torchvision", got, TypeError)
    if hasattr(model, "neg_to_pos_ratio"):
        recipe = dict(recipes["torchvision"])
        rule = {"background": recipe.pop("background"), "rounding": recipe.pop("rounding")}
        mining = Mining(**rule, neg_pos_ratio=model.neg_to_pos_ratio)
        return {"mining": mining, "classification": Softmax(), **recipe}
    # Every negative counts, and there is no column for background.
    background = model.head.classification_head.num_classes
    mining = Mining(background=background, ignore_index=IGNORED, min_negatives=sys.maxsize)
    return {"mining": mining, "classification": Focal(), "normalize": "sample_positives", "beta": 0.0}


def _of_batch(model: Any, given: dict[str, Any], background: int | None) -> dict[str, Any]:
    """Return the attributes of `Seen` for a batch, from what the parts of the model were given and returned."""
    (originals, *_), (images, targets) = given.pop("transform")
    outputs, (anchors, *_) = given.pop("head")[1], given.pop("anchor_generator")[1]
    if targets is None:
        refuse("targets", "the targets of the images, in eval mode too", "None", TypeError)
    logits, loc_pred = outputs["cls_logits"], outputs["bbox_regression"]
    matches = [_matches(model, target, anchors, background) for target in targets]
    sizes = [[image.shape[-2:] for image in originals], images.image_sizes]
    height, width = np.moveaxis(np.divide(*np.array(sizes, np.float64)), -1, 0)
    arrays = dict(
        zip(("labels", "matched", "loc_target", "overlaps"), map(_stacked, zip(*matches, strict=True)), strict=True)
    )
    return arrays | {
        "logits": _array(logits),
        "loc_pred": _array(loc_pred),
        "anchors": _array(anchors),
        "boxes": [_array(target["boxes"]) for target in targets],
        "classes": [_array(target["labels"]) for target in targets],
        "scale": np.stack([width, height, width, height], axis=1),
    }


def _matches(model: Any, target: Any, anchors: Any, background: int | None) -> tuple[Any, Any, Any, Any]:
    """Return labels, objects, target offsets and overlaps of the anchors of an image, as the model's loss has them."""
    from torchvision.ops import box_iou

    boxes, matched, overlaps = (
        target["boxes"],
        anchors.new_full((len(anchors),), -1).long(),
        anchors.new_zeros(len(anchors)),
    )
    if len(boxes):
        pairs = box_iou(boxes, anchors)
        matched, overlaps = model.proposal_matcher(pairs), pairs.amax(dim=0)
    positive, loc_target = matched >= 0, anchors.new_zeros(anchors.shape)
    labels = matched.new_full(matched.shape, background)
    labels[matched == -2] = IGNORED
    labels[positive] = target["labels"][matched[positive]]
    loc_target[positive] = model.box_coder.encode_single(boxes[matched[positive]], anchors[positive])
    return labels, matched, loc_target, overlaps


def _stacked(tensors: Any) -> NDArray[Any]:
    return np.stack([_array(tensor) for tensor in tensors])


def _array(tensor: Any) -> NDArray[Any]:
    """Return a tensor as an array; NumPy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if tensor.dtype.itemsize == 2 else tensor).numpy())
