"""Boxes in files: what COCO, YOLO and arrays say, and the entry that an error names."""

import json
import tracemalloc

import numpy as np
import pytest

from ssd_mining.files import annotations
from ssd_mining.files.annotations import read_annotations
from ssd_mining.files.sources import DataError

IMAGES = [
    {"id": 7, "width": 100, "height": 50},
    {"id": 3, "width": 10, "height": 10},
    {"id": 9, "width": 4, "height": 4},
]
CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 3}]


def box(image, category, *numbers, **others):
    return {"image_id": image, "category_id": category, "bbox": list(numbers), **others}


BOXES = [
    box(3, 90, 1, 2, 3, 4, segmentation=[[1, 2, 3]]),
    box(7, 3, 10, 10, 50.5, 20, iscrowd=1),
    box(3, 1, 0, 0, 0, 5, iscrowd=0),
]


def write(path, **changes):
    whole = {
        "info": {"x": [1, {"y": "]}"}]},
        "annotations": BOXES,
        "images": IMAGES,
        "categories": CATEGORIES,
        **changes,
    }
    path.write_text(json.dumps({key: value for key, value in whole.items() if value is not None}))
    return str(path)


@pytest.fixture(params=[1, 7, 1 << 20])
def piece(request, monkeypatch):
    """Read the file in pieces of so many characters."""
    monkeypatch.setattr(annotations, "_PIECE", request.param)


@pytest.mark.usefixtures("piece")
def test_coco_s_images_categories_and_crowds(tmp_path):
    found = read_annotations(write(tmp_path / "instances.json"))
    assert found.ids == [7, 3, 9]
    assert found.class_names == ["background", "person", "3", "brush"]
    assert found.offsets.tolist() == [0, 1, 3, 3]
    assert found.classes.tolist() == [2, 3, 1]
    assert found.crowd.tolist() == [True, False, False]
    np.testing.assert_allclose(
        found.boxes, [[0.1, 0.2, 0.605, 0.6], [0.1, 0.2, 0.4, 0.6], [0, 0, 0, 0.5]], rtol=1e-12
    )
    chosen = read_annotations(str(tmp_path / "instances.json"), ["9", "3"])
    assert chosen.ids == [9, 3]
    assert chosen.offsets.tolist() == [0, 0, 2]
    assert chosen.classes.tolist() == [3, 1]


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "expected a list 'annotations' in it, got none"),
        ({"images": 5}, "expected a list 'images' in it, got none"),
        ({"annotations": [*BOXES, 5]}, "annotations[3]: expected a whole number as its 'image_id', got 5"),
        (
            {"annotations": [box("a", 1, 1, 1, 1, 1)]},
            "annotations[0]: expected a whole number as its 'image_id', got \"a\"",
        ),
        (
            {"annotations": [box(7, 1, 1, 1, 1)]},
            "annotations[0]: expected a bbox of x, y, width and height, got [1, 1, 1]",
        ),
        (
            {"annotations": [box(7, 1, 1, 1, -1, 1)]},
            "annotations[0]: expected a bbox of x, y, width and height, got [1, 1",
        ),
        (
            {"annotations": [box(7, 1, 1, float("nan"), 1, 1)]},
            "annotations[0]: expected a bbox of x, y, width and height,",
        ),
        (
            {"annotations": [*BOXES, box(8, 1, 1, 1, 1, 1)]},
            "annotations[3]: expected the id of a known image, got image_id 8",
        ),
        (
            {"annotations": [box(7, 4, 1, 1, 1, 1)]},
            "annotations[0]: expected the id of a known category, got category_id 4",
        ),
        ({"images": [*IMAGES, IMAGES[0]]}, "images[3]: expected another id for every image, got 7 again"),
        ({"images": [{"id": 7, "width": 5}]}, "images[0]: expected a whole number as its 'height', got null"),
        (
            {"images": [{"id": 7, "width": 5, "height": 0}]},
            "images[0]: expected a width and a height of at least 1, got 5",
        ),
        (
            {"categories": [*CATEGORIES, CATEGORIES[0]]},
            "categories[3]: expected another id for every category, got 90 again",
        ),
    ],
)
def test_a_wrong_entry_of_coco_is_named(tmp_path, changes, message):
    name = write(tmp_path / "instances.json", **changes)
    with pytest.raises(DataError) as error:
        read_annotations(name)
    assert str(error.value).replace(f"{name}: ", "").startswith(message)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected more JSON, got the end of the file"),
        ("1", "expected '{' at character 0, got '1'"),
        ('[{"image_id": 1}]', "expected an object with the lists 'images', 'categories', 'annotations', got a list"),
        ('{"images": [{"id": 1,', "expected sound JSON at character 12"),
        ('{"images": [] "a": 1}', "expected ',' at character 14, got '\"'"),
        ('{"a": tru}', "expected sound JSON at character 6"),
        ('{"a": 12', "expected more JSON, got the end of the file"),
        ('{"a": ' + "[" * 100_000, "expected sound JSON at character 6"),
    ],
)
def test_broken_json_is_placed(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: ") as error:
        read_annotations(str(tmp_path / "a.json"))
    assert message in str(error.value)


@pytest.mark.slow
def test_a_large_file_is_read_without_holding_it(tmp_path):
    entries = [box(7, 1, 1, 1, 1, 1, segmentation=[[0.5] * 500]) for _ in range(5000)]
    name = write(tmp_path / "instances.json", annotations=entries)
    assert (tmp_path / "instances.json").stat().st_size > 12e6
    tracemalloc.start()
    read_annotations(name)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8e6


def test_yolo_s_text_files(tmp_path):
    (tmp_path / "b.txt").write_text("0 0.5 0.5 0.2 0.4\n\n2 0.1 0.1 0 0\n")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    found = read_annotations(str(tmp_path))
    assert found.ids == ["a", "b"]
    assert found.offsets.tolist() == [0, 0, 2]
    assert found.classes.tolist() == [1, 3]
    assert found.class_names == ["background", "cat", "dog", "owl"]
    np.testing.assert_allclose(found.boxes, [[0.4, 0.3, 0.6, 0.7], [0.1, 0.1, 0.1, 0.1]])
    chosen = read_annotations(str(tmp_path), ["b.jpg", "none.jpg"])
    assert chosen.offsets.tolist() == [0, 2, 2]
    assert chosen.ids == ["b.jpg", "none.jpg"]
    with pytest.raises(DataError, match="expected a text file for each sample, got none"):
        read_annotations(str(tmp_path), ["none"])
    for line in ("1 2 3", "x 0 0 1 1", "-1 0 0 1 1", "1.5 0 0 1 1", "0 nan 0 1 1", "0 0 0 -1 1"):
        (tmp_path / "b.txt").write_text(f"0 0.5 0.5 0.2 0.4\n{line}\n")
        with pytest.raises(DataError, match=r"b\.txt: line 2: expected a class and cx, cy, w and h, got"):
            read_annotations(str(tmp_path))


def test_arrays(tmp_path):
    name = str(tmp_path / "boxes.npz")
    good = {"boxes": np.ones((3, 4)), "classes": np.ones(3, int), "box_offsets": np.array([0, 1, 3])}
    np.savez(name, **good)
    found = read_annotations(name)
    assert found.offsets.tolist() == [0, 1, 3]
    assert not found.crowd.any()
    assert found.ids is None
    with pytest.raises(DataError, match="expected samples with names, for --ids, got 2 without"):
        read_annotations(name, [1, 2])
    for change, message in (
        ({"boxes": np.ones((3, 3))}, r":boxes: expected numbers \(N, 4\), got dtype float64 of shape \(3, 3\)"),
        ({"box_offsets": np.array([0, 2])}, ":box_offsets: expected numbers that never fall, from 0 to the 3 boxes"),
        ({"classes": np.ones(3)}, r":classes: expected one for each of 3 boxes, got dtype float64 of shape \(3,\)"),
        ({"crowd": np.ones(2, bool)}, r":crowd: expected one for each of 3 boxes, got dtype bool of shape \(2,\)"),
    ):
        np.savez(name, **{**good, **change})
        with pytest.raises(DataError, match=message):
            read_annotations(name)


def test_other_names_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"boxes.xml: expected instances.json, a directory of YOLO's text files, or arra"
    ):
        read_annotations(str(tmp_path / "boxes.xml"))
    with pytest.raises(DataError, match=r"no.json: expected a readable file, got No such file"):
        read_annotations(str(tmp_path / "no.json"))
    name = write(tmp_path / "instances.json")
    with pytest.raises(DataError, match="expected the sample 4 of --ids, got none of this name"):
        read_annotations(name, [7, 4])
