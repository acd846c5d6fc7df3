"""``ssd-mining match``, and ``mine`` and ``report`` from boxes."""

import json

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.commands import content, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write images, boxes in three formats, anchors, and losses."""
    path, rng = tmp_path_factory.mktemp("match"), np.random.default_rng(3)
    offsets, boxes, classes = [0], [], []
    (path / "yolo").mkdir()
    images, entries = [], []
    for number in range(6):
        count = 0 if number == 2 else int(rng.integers(1, 5))
        low = np.round(rng.uniform(0, 0.7, (count, 2)) * 128) / 128
        own = np.concatenate([low, low + np.round(rng.uniform(0.01, 0.3, (count, 2)) * 128) / 128], axis=1)
        labels = rng.integers(1, 4, count)
        images.append({"id": 10 - number, "width": 512, "height": 256})
        lines = []
        for each, label in zip(own.tolist(), labels.tolist(), strict=True):
            x1, y1, x2, y2 = each
            pixels = [x1 * 512, y1 * 256, (x2 - x1) * 512, (y2 - y1) * 256]
            entries.append({"image_id": 10 - number, "category_id": label * 10, "bbox": pixels})
            lines.append(f"{label - 1} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}")
        (path / "yolo" / f"{number}.txt").write_text("\n".join(lines))
        boxes.append(own)
        classes.append(labels)
        offsets.append(offsets[-1] + count)
    categories = [{"id": number * 10, "name": name} for number, name in enumerate(["cat", "dog", "owl", "emu"], 1)]
    whole = {"images": images, "annotations": entries, "categories": categories}
    (path / "instances.json").write_text(json.dumps(whole))
    arrays = {"boxes": np.concatenate(boxes), "classes": np.concatenate(classes), "box_offsets": offsets}
    np.savez(path / "boxes.npz", **arrays)
    np.save(path / "anchors.npy", sm.default_boxes("ssdlite320", box_format="cxcywh"))
    np.save(path / "losses.npy", rng.gamma(0.3, 1, (6, 3234)).astype(np.float32))
    (path / "ids.txt").write_text("8\n10\n")
    return path, boxes, classes


def expected(boxes, classes, **keywords):
    boxes = [np.float32(each) for each in boxes]
    return sm.match_anchors(boxes, classes, sm.default_boxes("ssdlite320"), **keywords)


def good(*words):
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("source", ["instances.json", "yolo", "boxes.npz"])
def test_three_formats_give_the_same_labels(folder, source, tmp_path):
    path, boxes, classes = folder
    out = tmp_path / "labels.npy"
    shown = good("match", path / source, "ssdlite320", "--rule", "torchvision", "--out", out)
    assert shown.endswith(f"written to {out}\n")
    res = expected(boxes, classes, rule="torchvision")
    np.testing.assert_array_equal(np.load(out), res.labels)
    assert np.load(out).dtype == np.int8
    summary = json.loads(good("match", path / source, "ssdlite320", "--rule", "torchvision", "--json"))
    assert summary["objects"] == len(res.num_anchors_of)
    assert summary["samples_without_objects"] == 1
    assert summary["positives"] == (res.labels > 0).sum()
    whole = summary["by_size"][-1]
    assert whole["none"] + whole["one"] + whole["two_to_four"] + whole["more"] == summary["objects"]
    assert sum(row["objects"] for row in summary["by_size"][:-1]) == summary["objects"]
    np.testing.assert_allclose(whole["best_iou"][2], np.median(res.best_iou))


def test_a_directory_keeps_everything_and_options_change_the_rule(folder, tmp_path):
    path, boxes, classes = folder
    words = ("--rule", "torchvision_retinanet", "--force", "none", "--pos-iou", "0.6", "--neg-iou", "0.1,0.3")
    good("match", path / "instances.json", path / "anchors.npy", "--anchor-format", "cxcywh", *words,
         "--out", tmp_path / "out", "--max-memory", "1", "--background", "9", "--ignore-index", "200")  # fmt: skip
    res = expected(boxes, classes, force="none", pos_iou=0.6, neg_iou=(0.1, 0.3), background=9, ignore_index=200)
    for name in ("labels", "matched", "overlaps"):
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"{name}.npy"), getattr(res, name), atol=1e-6)
    assert np.load(tmp_path / "out" / "labels.npy").dtype == np.int16
    assert content(tmp_path / "out")["ids.txt"] == b"10\n9\n8\n7\n6\n5\n"
    assert content(tmp_path / "out")["class_names.txt"] == b"background\ncat\ndog\nowl\nemu\n"


def test_ids_choose_the_samples_and_their_order(folder, tmp_path):
    path, boxes, classes = folder
    out = tmp_path / "labels.npy"
    good("match", path / "instances.json", "ssdlite320", "--ids", path / "ids.txt", "--out", out)
    res = expected([boxes[2], boxes[0]], [classes[2], classes[0]])
    np.testing.assert_array_equal(np.load(out), res.labels)


def test_anchors_in_pixels_of_an_image_size(folder, tmp_path):
    path, boxes, classes = folder
    np.save(tmp_path / "pixels.npy", sm.default_boxes("ssdlite320", image_size=(256, 512)))
    good("match", path / "yolo", tmp_path / "pixels.npy", "--image-size", "256,512", "--out", tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected(boxes, classes).labels)
    good("match", path / "yolo", "retinanet", "--image-size", "256", "--out", tmp_path / "b.npy")
    grid = sm.default_boxes("retinanet", image_size=256) / np.float32(256)
    res = sm.match_anchors([np.float32(each) for each in boxes], classes, grid)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), res.labels)


def test_unmatched_objects_are_listed(folder):
    path, boxes, classes = folder
    res = expected(boxes, classes, force="none", pos_iou=0.9)
    shown = good("match", path / "instances.json", "ssdlite320", "--force", "none", "--pos-iou", "0.9", "--top", "2")
    assert f"{len(res.unmatched)} objects without an anchor" in shown
    lines = shown.splitlines()
    assert len(lines) - lines.index(f"{len(res.unmatched)} objects without an anchor") == 4
    assert lines[-2].split()[:3] == ["10", "0", str(classes[0][0])]


def test_mine_and_report_take_boxes_in_place_of_labels(folder, tmp_path):
    path, _, _ = folder
    matching = ("--boxes", path / "instances.json", "--anchors", "ssdlite320", "--rule", "torchvision_retinanet")
    out = tmp_path / "labels.npy"
    good("match", path / "instances.json", "ssdlite320", "--rule", "torchvision_retinanet", "--out", out)
    labels = (out, "--background", "0", "--ignore-index", "-1")
    from_boxes, from_labels = (
        json.loads(good("mine", path / "losses.npy", *words, "--json")) for words in (matching, labels)
    )
    assert from_boxes.pop("labels").startswith(f"{path / 'instances.json'} matched with ssdlite320 by Matching(")
    assert from_labels.pop("labels") == str(out)
    assert from_boxes == from_labels
    assert from_boxes["num_pos"] + from_boxes["num_neg"] < from_boxes["num_anchors"]
    reports = []
    for name, words in (("boxes", matching), ("labels", labels)):
        good("report", path / "losses.npy", *words, "--no-page", "--out", tmp_path / name)
        reports.append(json.loads((tmp_path / name / "summary.json").read_text()))
    for name in ("loss", "num_pos", "num_neg", "num_kept"):
        assert reports[0][name] == reports[1][name]
    table = (tmp_path / "boxes" / "per_sample.csv").read_text().splitlines()
    assert table[1].startswith("0,10,")  # the ids of the images


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("match", "instances.json", "ssd300", "--pos-iou", "2"),
            2,
            "--pos-iou: expected a number above 0 and at most 1",
        ),
        (
            ("match", "instances.json", "ssd300", "--neg-iou", "0.9"),
            2,
            "--neg-iou: expected a number from 0 to --pos-iou",
        ),
        (
            ("match", "instances.json", "ssd300", "--background", "2"),
            3,
            "instances.json: expected classes other than backgr",
        ),
        (
            ("match", "boxes.npz", "ssd300", "--ids", "ids.txt"),
            3,
            "boxes.npz: expected samples with names, for --ids",
        ),
        (
            ("match", "anchors.npy", "ssd300"),
            3,
            "anchors.npy: expected instances.json, a directory of YOLO's text files",
        ),
        (
            ("match", "instances.json", "losses.npy"),
            3,
            "losses.npy: expected anchors, numbers (A, 4), or one of ssd300",
        ),
        (("match", "instances.json", "retinanet"), 2, "--image-size: expected the size of the images of a RetinaNet"),
        (
            ("match", "yolo", "ssd300", "--image-size", "0"),
            2,
            "--image-size: expected a height and a width of at least 1",
        ),
        (
            ("match", "yolo", "ssd300", "--anchor-format", "xywh"),
            2,
            "--anchor-format: expected none beside ssd300, got xyw",
        ),
        (("match", "yolo", "ssd512_coc"), 3, "retinanet, got neither; did you mean ssd512_coco?"),
        (("match", "yolo", "anchors.npy"), 3, "anchors.npy: expected boxes with x1 <= x2 and y1 <= y2, got"),
        (("match", "yolo", "ssd300", "--out", "ids.txt"), 2, "ids.txt: expected a new name or an empty directory"),
        (
            ("match", "yolo", "ssd300", "--out", "losses.npy"),
            2,
            "losses.npy: expected a new name, got one that is in use",
        ),
        (
            ("mine", "losses.npy", "--boxes", "yolo"),
            2,
            "--anchors: expected LABELS, or both, got --boxes without the other",
        ),
        (
            ("mine", "losses.npy", "x.npy", "--boxes=yolo"),
            2,
            "--anchors: expected LABELS, or both, got --boxes beside LABELS",
        ),
        (("mine", "losses.npy"), 2, "the following arguments are required: LABELS"),
        (
            ("mine", "losses.npy", "--boxes", "yolo", "--anchors", "ssd300"),
            3,
            "yolo: expected the shape of losses.npy (6, 3234",
        ),
    ],
)
def test_one_line_says_what_is_wrong(folder, monkeypatch, words, code, message):
    monkeypatch.chdir(folder[0])
    got, out, err = run(*words)
    assert (got, out) == (code, "")
    assert message in err
    assert err.strip().splitlines()[-1].startswith(("ssd-mining: error: ", f"ssd-mining {words[0]}: error: "))
