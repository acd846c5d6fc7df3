"""`watch` sees what a detector's own loss sees, and leaves the detector as it was.

An optional room: its stand-ins need torch, and the models themselves torchvision.
"""

import contextlib
import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.torchvision import watch

if importlib.util.find_spec("torch"):
    import torch

    from tests.support import detectors


def of_torchvision(name, **options):
    """Make a model of torchvision with random weights."""
    from torchvision.models import detection

    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5, **options)


MODELS = {
    "a small SSD": lambda: detectors.SSD(),
    "a small RetinaNet": lambda: detectors.RetinaNet(),
    "ssd300_vgg16": lambda: of_torchvision("ssd300_vgg16"),
    "ssdlite320_mobilenet_v3_large": lambda: of_torchvision("ssdlite320_mobilenet_v3_large"),
    "retinanet_resnet50_fpn": lambda: of_torchvision("retinanet_resnet50_fpn", min_size=96, max_size=128),
}


def needs(name):
    return pytest.mark.framework("torch" if name.startswith("a small") else "torchvision")


every_model = pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in MODELS])


@pytest.fixture
def model(name, monkeypatch):
    """Make a model; a small one comes with a stand-in for torchvision."""
    torch.manual_seed(0)
    if name.startswith("a small"):
        ops, package = ModuleType("torchvision.ops"), ModuleType("torchvision")
        ops.box_iou = detectors.box_iou
        for module in (package, ops):
            monkeypatch.setitem(sys.modules, module.__name__, module)
    return MODELS[name]()


def batch(*, objects=(2, 0, 3)):
    """Draw images of different sizes, and their targets: so many objects each."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 60 + 20 * i, 90 - 10 * i, generator=generator) for i in range(len(objects))]
    targets = []
    for image, number in zip(images, objects, strict=True):
        height, width = image.shape[-2:]
        corner, size = (0.4 * torch.rand(number, 2, generator=generator) + add for add in (0, 0.15))
        boxes = torch.cat([corner, corner + size], dim=1) * torch.tensor([width, height] * 2)
        targets.append({"boxes": boxes, "labels": torch.randint(1, 4, (number,), generator=generator)})
    return images, targets


def losses_of(seen):
    out = sm.multibox_loss(seen.logits, seen.labels, seen.loc_pred, seen.loc_target, **seen.keywords)
    return {"classification": out.conf_loss, "bbox_regression": out.loc_loss}


@every_model
@pytest.mark.parametrize("objects", [(2, 0, 3), (1, 4), (0, 0)])
def test_its_losses_are_the_model_s_own(model, objects):
    with watch(model.train()) as seen:
        own = model(*batch(objects=objects))
    got = losses_of(seen)
    assert got.keys() == own.keys()
    for name, loss in own.items():
        assert got[name] == pytest.approx(float(loss), rel=1e-5, abs=1e-12), name
    assert (got["bbox_regression"] > 0) == (sum(objects) > 0)


@every_model
def test_eval_mode_sees_the_same_objects_and_its_own_logits(model):
    seen_in, images, targets = {}, *batch()
    for mode in (True, False):
        with watch(model.train(mode)) as seen:
            output = model(images, targets)
        seen_in[mode] = vars(seen).copy()
        assert isinstance(output, dict if mode else list)
    for name in ("labels", "matched", "loc_target", "anchors", "scale"):
        np.testing.assert_array_equal(seen_in[True][name], seen_in[False][name], err_msg=name)
    with torch.no_grad():
        features = model.backbone(model.transform(images)[0].tensors)
        outputs = model.head(list(features.values()) if isinstance(features, dict) else features)
    np.testing.assert_array_equal(seen_in[False]["logits"], outputs["cls_logits"].numpy())
    np.testing.assert_array_equal(seen_in[False]["loc_pred"], outputs["bbox_regression"].numpy())


@every_model
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("is_stopped", [True, False])
def test_the_model_is_left_as_it_was(model, is_training, is_stopped):
    model.train(is_training)
    model.head.train(not is_training)  # a part in a mode of its own
    flags = [part.training for part in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images, targets = batch()
    given = [target["boxes"].clone() for target in targets]
    with pytest.raises(KeyError) if is_stopped else contextlib.nullcontext(), watch(model) as seen:
        model(images, targets)
        assert not torch.is_grad_enabled()
        assert all(isinstance(value, np.ndarray) for value in (seen.logits, seen.labels, *seen.boxes))
        if is_stopped:
            raise KeyError
    assert torch.is_grad_enabled()
    assert [part.training for part in model.modules()] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    for target, before in zip(targets, given, strict=True):
        assert torch.equal(target["boxes"], before)


@every_model
def test_matching_and_offsets_are_those_of_this_package(model):
    with watch(model.eval()) as seen:
        model(*batch())
    is_ssd = seen.mining.background == 0
    rule = "torchvision" if is_ssd else "torchvision_retinanet"
    got = sm.match_anchors(seen.boxes, seen.classes, seen.anchors, rule=rule, background=seen.mining.background)
    np.testing.assert_array_equal(got.labels, seen.labels)
    np.testing.assert_array_equal(got.matched, seen.matched)
    variances = (0.1, 0.1, 0.2, 0.2) if is_ssd else (1, 1, 1, 1)
    offsets = sm.encode_boxes(seen.boxes, seen.anchors, seen.matched, variances=variances)
    np.testing.assert_allclose(offsets, seen.loc_target, rtol=1e-4, atol=1e-5)


@every_model
def test_the_scale_leads_back_to_the_original_images(model):
    images, targets = batch()
    with watch(model.eval()) as seen:
        model(images, targets)
    for i, target in enumerate(targets):
        np.testing.assert_allclose(seen.boxes[i] * seen.scale[i], target["boxes"], rtol=1e-5, atol=1e-4)
        assert seen.classes[i].tolist() == target["labels"].tolist()
    assert seen.scale.shape == (3, 4)
    num_anchors = seen.anchors.shape[0]
    assert seen.logits.shape[:2] == seen.labels.shape == seen.matched.shape == (3, num_anchors)
    assert seen.loc_pred.shape == seen.loc_target.shape == (3, num_anchors, 4)


@every_model
def test_an_analysis_takes_what_was_seen_batch_by_batch(model):
    with watch(model.eval()) as seen:
        analysis = sm.LossAnalysis(mining=seen.mining, classification=seen.classification)
        for objects in ((2, 0), (1,)):
            model(*batch(objects=objects))
            columns = analysis.update(seen.logits, seen.labels)
            out = sm.multibox_loss(seen.logits, seen.labels, **seen.keywords)
            np.testing.assert_allclose(columns["confidence_loss"], out.confidence_loss, rtol=1e-6)
    assert analysis.result().num_samples == 3


@pytest.mark.parametrize("name", [pytest.param("a small SSD", marks=needs("a small SSD"))])
def test_what_cannot_be_seen_is_refused_by_name(model):
    images, targets = batch()
    with watch(model.eval()) as seen:
        with pytest.raises(AttributeError, match="labels: nothing of this name was seen; call the model with images"):
            seen.labels  # noqa: B018
        with pytest.raises(
            TypeError, match="targets: expected the targets of the images, in eval mode too, got None"
        ):
            model(images)
        model(images, targets)
    expected = "model: expected an SSD, an SSDLite or a RetinaNet of torchvision, got Linear, which has no transform"
    with pytest.raises(TypeError, match=expected), watch(torch.nn.Linear(1, 1)):
        pass


@pytest.mark.parametrize("name", [pytest.param("a small SSD", marks=needs("a small SSD"))])
def test_numbers_that_numpy_has_not_become_float32(model):
    model.head.register_forward_hook(lambda *given: {name: value.bfloat16() for name, value in given[2].items()})
    with watch(model.eval()) as seen:
        model(*batch())
    assert seen.logits.dtype == np.float32
