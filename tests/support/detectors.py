"""Small detectors with the parts, the calls and the losses of torchvision's SSD and RetinaNet, for torch alone."""

from types import SimpleNamespace

import torch
import torch.nn.functional as tnf
from torch import nn

SIZE = 32  # of every resized image


def box_iou(boxes, others):
    """Stand in for `torchvision.ops.box_iou`: every overlap of the boxes with the others."""
    low = torch.max(boxes[:, None, :2], others[:, :2])
    high = torch.min(boxes[:, None, 2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=2)
    areas = [(given[:, 2:] - given[:, :2]).prod(dim=1) for given in (boxes, others)]
    return common / (areas[0][:, None] + areas[1] - common)


class Transform(nn.Module):
    def forward(self, images, targets=None):
        resized = [tnf.interpolate(image[None], (SIZE, SIZE))[0] for image in images]
        batch = SimpleNamespace(tensors=torch.stack(resized), image_sizes=[(SIZE, SIZE)] * len(images))
        if targets is None:
            return batch, None
        moved = []
        for image, target in zip(images, targets, strict=True):
            height, width = image.shape[-2:]
            by = torch.tensor([SIZE / width, SIZE / height] * 2)
            moved.append({**target, "boxes": target["boxes"] * by})
        return batch, moved


class Head(nn.Module):
    def __init__(self, num_classes, shapes):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Conv2d(8, shapes * width, 1) for name, width in num_classes.items()})
        self.classification_head = SimpleNamespace(num_classes=num_classes["cls_logits"])
        self.widths = num_classes

    def forward(self, features):
        return {
            name: layer(features).permute(0, 2, 3, 1).reshape(len(features), -1, self.widths[name])
            for name, layer in self.layers.items()
        }


class Anchors(nn.Module):
    def forward(self, images, features):
        step = SIZE / features.shape[-1]
        centres = (torch.arange(features.shape[-1]) + 0.5) * step
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        centre = torch.stack([x, y], dim=2).reshape(-1, 1, 2)
        half = torch.tensor([[3.0, 3.0], [6.0, 4.0], [5.0, 8.0]])
        anchors = torch.cat([centre - half, centre + half], dim=2).reshape(-1, 4)
        return [anchors for _ in images.image_sizes]


def match_ssd(overlaps):
    values, matched = overlaps.max(dim=0)
    matched[values < 0.5] = -1
    matched[overlaps.argmax(dim=1)] = torch.arange(len(overlaps))
    return matched


def match_retinanet(overlaps):
    values, best = overlaps.max(dim=0)
    matched = best.clone()
    matched[values < 0.4] = -1
    matched[(values >= 0.4) & (values < 0.5)] = -2
    anchors = torch.where(overlaps == overlaps.amax(dim=1, keepdim=True))[1]
    matched[anchors] = best[anchors]
    return matched


def encoder(*weights):
    """Return the coder of offsets with these weights."""

    def encode_single(boxes, anchors):
        (c, s), (c_a, s_a) = (((b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]) for b in (boxes, anchors))
        return torch.cat([(c - c_a) / s_a, (s / s_a).log()], dim=1) * torch.tensor(weights)

    return SimpleNamespace(encode_single=encode_single)


class Detector(nn.Module):
    """What the two have in common; it returns losses in train mode, and something else in eval mode."""

    def __init__(self, num_classes):
        super().__init__()
        self.transform, self.anchor_generator = Transform(), Anchors()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.BatchNorm2d(8), nn.Dropout(0.1))
        self.head = Head({"cls_logits": num_classes, "bbox_regression": 4}, shapes=3)

    def forward(self, images, targets=None):
        images, targets = self.transform(images, targets)
        features = self.backbone(images.tensors)
        outputs, anchors = self.head(features), self.anchor_generator(images, features)
        if not self.training:
            return [{"boxes": boxes} for boxes in outputs["bbox_regression"]]
        matched = []
        for target, own in zip(targets, anchors, strict=True):
            overlaps = box_iou(target["boxes"], own)
            matched.append(self.proposal_matcher(overlaps) if len(overlaps) else torch.full((len(own),), -1))
        return self.compute_loss(targets, outputs, anchors, matched)


class SSD(Detector):
    def __init__(self):
        super().__init__(num_classes=5)
        self.neg_to_pos_ratio, self.box_coder, self.proposal_matcher = 3.0, encoder(10, 10, 5, 5), match_ssd

    def compute_loss(self, targets, outputs, anchors, matched):
        labels, boxes = [], 0
        for target, own, found, offsets in zip(targets, anchors, matched, outputs["bbox_regression"], strict=True):
            positive = found >= 0
            expected = self.box_coder.encode_single(target["boxes"][found[positive]], own[positive])
            boxes += tnf.smooth_l1_loss(offsets[positive], expected, reduction="sum")
            labels.append(torch.zeros_like(found).masked_scatter(positive, target["labels"][found[positive]]))
        labels = torch.stack(labels)
        loss = tnf.cross_entropy(outputs["cls_logits"].flatten(0, 1), labels.flatten(), reduction="none")
        loss, positive = loss.view(labels.shape), labels > 0
        place = loss.masked_fill(positive, -torch.inf).sort(1, descending=True).indices.sort(1).indices
        mined = place < self.neg_to_pos_ratio * positive.sum(1, keepdim=True)
        divisor = max(1, int(positive.sum()))
        return {
            "bbox_regression": boxes / divisor,
            "classification": (loss[positive].sum() + loss[mined].sum()) / divisor,
        }


class RetinaNet(Detector):
    def __init__(self):
        super().__init__(num_classes=4)
        self.box_coder, self.proposal_matcher = encoder(1, 1, 1, 1), match_retinanet

    def compute_loss(self, targets, outputs, anchors, matched):
        sums = {"classification": 0, "bbox_regression": 0}
        for i, (target, own, found) in enumerate(zip(targets, anchors, matched, strict=True)):
            positive, logits = found >= 0, outputs["cls_logits"][i]
            classes = torch.zeros_like(logits)
            classes[positive, target["labels"][found[positive]]] = 1
            p = torch.sigmoid(logits)
            off, weight = (1 - p) * classes + p * (1 - classes), 0.25 * classes + 0.75 * (1 - classes)
            focal = weight * off**2 * tnf.binary_cross_entropy_with_logits(logits, classes, reduction="none")
            expected = self.box_coder.encode_single(target["boxes"][found[positive]], own[positive])
            divisor = max(1, int(positive.sum())) * len(targets)
            sums["classification"] += focal[found != -2].sum() / divisor
            offsets = outputs["bbox_regression"][i, positive]
            sums["bbox_regression"] += (offsets - expected).abs().sum() / divisor
        return sums
