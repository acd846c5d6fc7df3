"""The page of a report, in a browser: quiet, complete, legible, sortable, and of the numbers of `summary.json`."""

import json
import math
import re

import numpy as np
import pytest

from tests.support.batches import load_real
from tests.support.browser import visit
from tests.support.commands import run
from tests.support.reports import LOOK, draw, numbers

pytestmark = pytest.mark.extra("jinja2", "matplotlib")

WIDTHS = (1280, 400)

NOTHING = [
    "There is no finite loss above zero to draw.",
    "No sample has both positives and kept negatives.",
    "There is no finite loss above zero to draw.",
    "No sample has a loss.",
    "No class has a loss.",
]


SORT = """() => {
  const column = (place) =>
    [...document.querySelectorAll("#top_samples tbody tr")].map((row) => row.cells[place].textContent);
  const heads = [...document.querySelectorAll("#top_samples th")];
  const seen = [];
  for (const place of [2, 2, 0, 0, 1]) {
    heads[place].querySelector("button").click();
    seen.push({place, order: heads.map((head) => head.getAttribute("aria-sort")), cells: column(place)});
  }
  return seen;
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Write reports of several kinds of data; return their folder."""
    folder = tmp_path_factory.mktemp("pages")
    arrays = draw()
    arrays["nan"] = arrays["losses"].copy()
    arrays["nan"][30, :3] = np.nan
    arrays["none"] = np.zeros_like(arrays["labels"])
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "one_losses.npy", arrays["losses"][4:5])
    np.save(folder / "one_labels.npy", arrays["labels"][4:5])
    np.save(folder / "no_losses.npy", arrays["losses"][:0])
    np.save(folder / "no_labels.npy", arrays["labels"][:0])
    (folder / "names.txt").write_text("background\n<b>bold</b>\ncat & dog\nGänse\n", encoding="utf-8")
    (folder / "ids.txt").write_text("\n".join(f"<i>{i}</i>.jpg" for i in range(60)))
    everything = ("--levels", "20,15,5", "--class-names", folder / "names.txt", "--ids", folder / "ids.txt")
    for name, values, labels, options in [
        ("logits", "logits", "labels", everything),
        ("losses", "losses", "labels", ("--levels", "20,15,5")),
        ("nan", "nan", "labels", ("--nan-policy", "propagate")),
        ("none", "losses", "none", ()),
        ("one", "one_losses", "one_labels", ()),
        ("empty", "no_losses", "no_labels", ()),
    ]:
        words = ("report", folder / f"{values}.npy", folder / f"{labels}.npy", "--background", 0)
        code, _, err = run(*words, *options, "--out", folder / name)
        warning = "none of the 60 samples has a positive: all anchors are background or ignored"
        assert (code, err) == (0, f"ssd-mining: warning: {warning}\n" if name == "none" else "")
    return folder


def check_numbers(seen, summary):
    """Compare every number of the page that `summary.json` has, too."""
    for key, text in seen["facts"].items():
        assert numbers([text]) == [summary[key]], key
    quantiles = {name: list(d["quantiles"].values()) for name, d in summary["distributions"].items()}
    for name in ("positives", "negatives", "kept", "samples"):
        assert numbers(row[name] for row in seen["tables"]["quantiles"]) == quantiles[name]
    compared = 0
    lists = ("top_samples", "top_objects", "top_negatives", "top_false_alarms", "positions", "confusions")
    for table in ("ratio_sweep", "classes", "levels", *lists, *summary["causes"]):
        expected = summary["causes"].get(table, summary.get(table))
        if expected and table in (*lists, *summary["causes"]) and not expected.get("id", expected.get("anchor")):
            continue  # an empty list is a sentence
        if expected is None or (table == "classes" and not expected["label"]):
            assert table not in seen["tables"]
            continue
        rows = seen["tables"][table]
        order = list(range(len(rows)))
        if table == "classes":
            order = [expected["label"].index(int(row["label"])) for row in rows]
            assert sorted(order) == list(range(len(expected["label"])))
            costs = [expected["positive_sum"][i] + expected["negative_sum"][i] for i in order]
            assert costs == sorted(costs, reverse=True)  # what costs most comes first
        for key in set(rows[0] if rows else ()) & set(expected) - {"id"}:
            assert numbers(row[key] for row in rows) == [expected[key][i] for i in order], (table, key)
            compared += len(rows)
        if "id" in expected:
            assert [row["id"] for row in rows] == [str(name) for name in expected["id"]][: len(rows)]
            assert len(rows) == min(len(expected["id"]), 20 if table in summary["causes"] else 50)
    return compared


def check_quiet(visited):
    assert (visited.console, visited.requests, visited.wrong) == ([], [], [])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["logits", "losses", "nan"])
def test_a_page_is_quiet_complete_legible_and_of_the_numbers_of_the_summary(reports, tmp_path, name, width):
    visited = visit(reports / name / "report.html", tmp_path / "visit", width, LOOK)
    seen, summary = visited.seen, json.loads((reports / name / "summary.json").read_text())
    check_quiet(visited)
    assert visited.width == width
    assert check_numbers(seen, summary) > 300
    assert len(seen["pictures"]) == len(seen["names"]) == {"logits": 6, "losses": 6, "nan": 4}[name]
    assert all(w > (300 if width == 400 else 400) and h > 100 for w, h in seen["pictures"])
    assert seen["letters"] >= 9  # pixels, of the smallest letters of a picture
    assert (seen["overflow"], seen["cut"]) == (0, 0)  # only tables may be wider than the page, and those scroll
    assert seen["missing"] == (NOTHING[2:3] if name == "nan" else [])  # one NaN is enough for the loss of all
    if name == "logits":
        assert "<b>bold</b>" in [row["name"] for row in seen["tables"]["classes"]]
        assert {"cat & dog", "Gänse"} <= {row["name"] for row in seen["tables"]["classes"]}
        assert re.fullmatch(r"<i>\d+</i>\.jpg", seen["tables"]["top_samples"][0]["id"])


@pytest.mark.parametrize(
    ("name", "pictures", "missing"),
    [
        ("none", 1, NOTHING[1:]),
        ("one", 5, []),
        ("empty", 0, NOTHING),
    ],
)
def test_what_cannot_be_drawn_is_said(reports, tmp_path, name, pictures, missing):
    visited = visit(reports / name / "report.html", tmp_path / "visit", 1280, LOOK)
    check_quiet(visited)
    assert (len(visited.seen["pictures"]), visited.seen["missing"]) == (pictures, missing)
    check_numbers(visited.seen, json.loads((reports / name / "summary.json").read_text()))
    assert "NaN" not in visited.seen["text"].replace("\tNaN", "")  # but in the quantiles of nothing


def test_a_click_on_a_head_sorts_by_its_column_and_another_turns_it_round(reports, tmp_path):
    visited = visit(reports / "nan" / "report.html", tmp_path / "visit", 1280, SORT)
    check_quiet(visited)
    for step, (place, order) in zip(
        visited.seen,
        [(2, "descending"), (2, "ascending"), (0, "ascending"), (0, "descending"), (1, "descending")],
        strict=True,
    ):
        assert step["order"] == [order if i == place else None for i in range(9)]
        values = [math.inf if cell == "NaN" else float(cell.replace(",", "")) for cell in step["cells"]]
        assert len(values) == 50
        assert values == sorted(values, reverse=order == "descending")
    assert visited.seen[-1]["cells"][0] == "NaN"  # the worst there is


@pytest.mark.parametrize("width", WIDTHS)
def test_a_real_file_has_a_page(tmp_path, width):
    real = load_real("coco91_float.npz")
    for kind in ("logits", "labels"):
        np.save(tmp_path / f"{kind}.npy", real[kind])
    words = ("report", tmp_path / "logits.npy", tmp_path / "labels.npy", "--background", 0, "--out", tmp_path / "out")
    assert run(*words)[0] == 0
    visited = visit(tmp_path / "out" / "report.html", tmp_path / "visit", width, LOOK)
    check_quiet(visited)
    assert check_numbers(visited.seen, json.loads((tmp_path / "out" / "summary.json").read_text())) > 100
    assert (len(visited.seen["pictures"]), visited.seen["overflow"]) == (5, 0)


def test_a_page_names_nothing_outside_itself(reports):
    html = (reports / "logits" / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:,|#)[^"]*"', html) == []
    assert set(re.findall(r"https?://[^\"' <]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert re.findall(r"url\((?!#)", html) == []


def test_the_same_data_give_the_same_bytes(reports, tmp_path):
    words = ("report", reports / "losses.npy", reports / "labels.npy", "--background", 0, "--levels", "20,15,5")
    assert run(*words, "--out", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "report.html").read_bytes() == (reports / "losses" / "report.html").read_bytes()
