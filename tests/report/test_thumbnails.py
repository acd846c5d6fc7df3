"""The pictures of samples: images of every kind, and what is drawn on them."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.report.thumbnails import COLOURS, SIDE, Mark, thumbnail
from tests.support.commands import run

try:
    from PIL import Image
except ImportError:
    Image = None

pytestmark = pytest.mark.extra("PIL")

WIDTH, HEIGHT = 600, 300


def picture(mode="RGB"):
    """Return an image whose left half is dark."""
    values = np.full((HEIGHT, WIDTH), 200, np.uint8)
    values[:, : WIDTH // 2] = 30
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 200)
    return Image.fromarray(values).convert(mode)


def pixels(drawn):
    data = base64.b64decode(drawn.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.jpg", "RGB"),
        ("a.png", "L"),
        ("a.png", "RGBA"),
        ("a.png", "I;16"),
        ("a.png", "1"),
        ("a.gif", "P"),
        ("a.tif", "F"),
    ],
)
def test_an_image_of_any_mode_is_seen_as_it_is(tmp_path, name, mode):
    picture(mode).save(tmp_path / name)
    drawn = thumbnail(name, tmp_path, [])
    seen = pixels(drawn)
    assert seen.shape == (SIDE * HEIGHT // WIDTH, SIDE, 3)
    assert seen[:, :150].mean() + 60 < seen[:, 210:].mean()
    assert (drawn.note, drawn.alt) == ("", f"{name} with no boxes")


def test_an_image_is_turned_as_its_camera_was(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    picture().save(tmp_path / "a.jpg", exif=exif)
    seen = pixels(thumbnail("a.jpg", tmp_path, []))
    assert seen.shape == (SIDE, SIDE * HEIGHT // WIDTH, 3)
    assert seen[:150].mean() + 60 < seen[210:].mean()


@pytest.mark.parametrize("in_pixels", [False, True])
def test_boxes_lie_where_they_are_said_to_be(tmp_path, in_pixels):
    picture().save(tmp_path / "a.png")
    corners = np.array([0.25, 0.25, 0.75, 0.75]) * ([WIDTH, HEIGHT] * 2 if in_pixels else 1)
    drawn = thumbnail("a.png", tmp_path, [Mark(corners, "alarm", "cat 0.91")], in_pixels=in_pixels)
    colour = np.array([int(COLOURS["alarm"][i : i + 2], 16) for i in (1, 3, 5)])
    rows, columns = np.nonzero(np.abs(pixels(drawn) - colour).sum(axis=2) < 60)
    assert (abs(columns.min() - 90), abs(columns.max() - 270)) <= (4, 4)
    assert (abs(rows.min() - 45), abs(rows.max() - 135)) <= (4, 4)
    assert drawn.alt == "a.png with 1 false alarm: cat 0.91"


def test_what_cannot_be_read_is_said_in_a_line(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    assert thumbnail("none.jpg", tmp_path, []).note == "none.jpg: not found"
    assert thumbnail("broken.jpg", tmp_path, []).note.startswith("broken.jpg: not readable: ")
    assert pixels(thumbnail("none.jpg", tmp_path, [])).shape == (SIDE, SIDE, 3)
    assert pixels(thumbnail("none.jpg", tmp_path, [], size=(WIDTH, HEIGHT))).shape == (
        SIDE * HEIGHT // WIDTH,
        SIDE,
        3,
    )


def test_places_in_the_files_are_in_pixels_of_the_images(tmp_path):
    """Two images are there, one of them turned; the size of the third is told, that of the fourth nobody knows."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "0.jpg")
    picture().save(tmp_path / "1.jpg", exif=exif)
    rng = np.random.default_rng(0)
    anchors = np.array([[0.1, 0.2, 0.5, 0.9], [0.3, 0.0, 1.0, 0.5], [0.0, 0.0, 0.25, 0.125]])
    shape, names = (4, 3, 4), [f"{i}.jpg" for i in range(4)]
    report = sm.LossReport(background=0)
    report.update(
        rng.gamma(1, 1, (4, 3)), [[1, 0, 0]] * 4, ids=names, matched=[[0, -1, -1]] * 4, anchors=anchors,
        boxes=[[[0.1, 0.1, 0.4, 0.8]]] * 4, loc_pred=rng.normal(size=shape), loc_target=rng.normal(size=shape),
    )  # fmt: skip
    report.sizes[2] = 40, 80
    report.write(tmp_path / "out", images=tmp_path, page=False)
    size_of = {"0.jpg": (WIDTH, HEIGHT), "1.jpg": (HEIGHT, WIDTH), "2.jpg": (40, 80), "3.jpg": (np.nan, np.nan)}
    for name in ("top_objects", "top_boxes", "top_negatives", "top_alarms"):
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) > 3
        for row in rows:
            shares = [0.1, 0.1, 0.4, 0.8] if "object" in row else anchors[int(row["anchor"])]
            corners = [float(row[key]) for key in ("x1", "y1", "x2", "y2")]
            np.testing.assert_allclose(corners, np.multiply(shares, size_of[row["id"]] * 2))


def test_a_name_without_its_ending_is_found(tmp_path):
    picture().save(tmp_path / "img_1.png")
    assert thumbnail("img_1", tmp_path, []).note == ""


@pytest.mark.extra("jinja2", "matplotlib")
def test_a_page_shows_the_worst_with_their_boxes(tmp_path):
    rng = np.random.default_rng(0)
    anchors = sm.anchor_grid(10, [[0.2, 0.2]])
    boxes = np.concatenate([low := rng.uniform(0, 0.7, (12, 2)), low + 0.25], axis=1).astype(np.float32)
    np.save(tmp_path / "logits.npy", rng.normal(0, 2, (6, len(anchors), 3)).astype(np.float32))
    np.save(tmp_path / "anchors.npy", anchors)
    offsets = np.arange(7) * 2
    np.savez(tmp_path / "boxes.npz", boxes=boxes, classes=rng.integers(1, 3, 12), box_offsets=offsets)
    (tmp_path / "names.txt").write_text("background\ncat\n<i>dog</i>\n")
    images = tmp_path / "images"
    images.mkdir()
    for i in range(5):  # the last is missing
        picture().save(images / f"{i}.png")
    words = [
        "report",
        tmp_path / "logits.npy",
        "--boxes",
        tmp_path / "boxes.npz",
        "--anchors",
        tmp_path / "anchors.npy",
    ]
    words += ["--class-names", tmp_path / "names.txt", "--images", images, "--out", tmp_path / "out"]
    assert run(*words)[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img ") == 12  # all samples by two causes
    assert page.count("5: not found") == 2
    assert "overlap no object by 0.1 or more" in page
    alts = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]*)"', page)
    assert len(alts) == 12
    assert all("2 labelled boxes" in alt for alt in alts)
    assert any("&lt;i&gt;dog&lt;/i&gt; 0." in alt for alt in alts)
    assert len(page) < 5_000_000
    refused = run(
        "report", tmp_path / "logits.npy", tmp_path / "logits.npy", "--images", images, "--out", tmp_path / "no"
    )
    assert refused[0] == 2
    assert "--images: expected --boxes and --anchors beside it, got none" in refused[2]


def test_coco_tells_the_files_of_the_images_and_the_sizes_of_missing_ones(tmp_path):
    images = [
        {"id": 7, "width": 400, "height": 100, "file_name": "val/000000000007.png"},
        {"id": 9, "width": 50, "height": 60, "file_name": "val/000000000009.png"},
    ]
    boxes = [{"image_id": 9, "category_id": 3, "bbox": [5, 6, 20, 30]}]
    (tmp_path / "boxes.json").write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "cat"}]})
    )
    np.save(tmp_path / "losses.npy", np.random.default_rng(0).gamma(1, 1, (2, 3)))
    np.save(tmp_path / "anchors.npy", [[0.1, 0.1, 0.5, 0.6], [0.5, 0.5, 1, 1], [0, 0, 0.1, 0.1]])
    given = [tmp_path / "losses.npy", "--boxes", tmp_path / "boxes.json", "--anchors", tmp_path / "anchors.npy"]
    (tmp_path / "images" / "val").mkdir(parents=True)
    given += ["--images", tmp_path / "images"]
    assert run("report", *given, "--out", tmp_path / "out", "--no-page")[0] == 0
    with (tmp_path / "out" / "top_objects.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert [row["id"], *(float(row[key]) for key in ("x1", "y1", "x2", "y2"))] == ["9", 5, 6, 25, 36]
    picture().save(tmp_path / "images" / "val" / "000000000009.png")  # now its size is that of the file
    assert run("report", *given, "--out", tmp_path / "out", "--no-page", "--overwrite")[0] == 0
    with (tmp_path / "out" / "top_objects.csv").open() as file:
        (row,) = csv.DictReader(file)
    np.testing.assert_allclose([float(row[key]) for key in ("x1", "y1", "x2", "y2")], [60, 30, 300, 180])


def test_every_object_in_a_list_has_its_own_box_whatever_other_lists_hold(tmp_path):
    """The box that is placed worst lies in a sample that no other list has: its other box lies well."""
    anchors = np.array([[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9], [0.0, 0.6, 0.3, 0.9]])
    boxes = anchors[[0, 0, 0, 1]] + 0.01
    offsets = np.array([0, 1, 2, 4])
    labels = sm.match_anchors(boxes, [1, 1, 1, 1], anchors, box_offsets=offsets)
    target = sm.encode_boxes(boxes, anchors, labels.matched, box_offsets=offsets)
    shift = np.zeros_like(target)
    shift[1, 0, 0], shift[2, 1, 0] = 6, 9  # 5.5 of one box, and 8.5 and 0 of two
    np.savez(tmp_path / "boxes.npz", boxes=boxes, classes=[1, 1, 1, 1], box_offsets=offsets)
    np.save(tmp_path / "loc.npy", target + shift)
    np.save(tmp_path / "anchors.npy", anchors)
    np.save(tmp_path / "losses.npy", [[5, 0.2, 0.3], [1, 0.1, 0.2], [0.1, 0.1, 0]])
    (tmp_path / "images").mkdir()
    for i in range(3):
        picture().save(tmp_path / "images" / f"{i}.png")
    words = [
        "report",
        tmp_path / "losses.npy",
        "--boxes",
        tmp_path / "boxes.npz",
        "--anchors",
        tmp_path / "anchors.npy",
    ]
    words += ["--loc-pred", tmp_path / "loc.npy", "--images", tmp_path / "images", "--top", "1", "--no-page"]
    assert run(*words, "--out", tmp_path / "out")[0] == 0
    seen = {}
    for name in ("unrecognised", "false_alarm", "misplaced", "samples", "objects", "boxes"):
        with (tmp_path / "out" / f"top_{name}.csv").open() as file:
            (seen[name],) = csv.DictReader(file)
    assert [seen[name]["sample"] for name in seen] == ["0", "0", "1", "0", "0", "2"]
    corners = [float(seen["boxes"][key]) for key in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(corners, boxes[3] * np.tile([WIDTH, HEIGHT], 2))
