"""Reports on a small data set, and what their pages show in a browser."""

import csv
from importlib.util import find_spec

import numpy as np

import ssd_mining as sm
from tests.support.commands import content, run


def draw(num_samples=60, num_anchors=40, num_classes=4):
    """Draw logits, their losses, labels of which the first samples have no positives, and names."""
    rng = np.random.default_rng(5)
    shape = (num_samples, num_anchors)
    labels = np.where(rng.random(shape) < 0.08, rng.integers(1, num_classes, shape), 0).astype(np.uint8)
    labels[:3] = 0
    logits = rng.normal(0, 3, (*shape, num_classes)).astype(np.float32)
    losses = sm.softmax_cross_entropy(logits, labels, background=0)
    return {"logits": logits, "losses": losses, "labels": labels}


LOOK = """() => {
  const box = (element) => { const {width, height} = element.getBoundingClientRect(); return [width, height]; };
  const tables = {};
  for (const table of document.querySelectorAll("table")) {
    const keys = [...table.tHead.rows[0].cells].map((head) => head.dataset.key);
    tables[table.id] = [...table.tBodies[0].rows].map((row) => Object.fromEntries(
      [...row.cells].map((cell, i) => [keys[i], cell.dataset.value ?? cell.textContent])));
  }
  const letters = [...document.querySelectorAll("svg text")].map((text) => box(text)[1]).filter((high) => high > 0);
  return {
    title: document.title,
    facts: Object.fromEntries(
      [...document.querySelectorAll(".facts dd")].map((fact) => [fact.dataset.key, fact.dataset.value])),
    pictures: [...document.querySelectorAll(".picture svg")].map(box),
    names: [...document.querySelectorAll(".picture")].map((picture) => picture.getAttribute("aria-label")),
    missing: [...document.querySelectorAll(".missing")].map((line) => line.textContent),
    letters: Math.min(...letters, 99),
    tables,
    cut: [...document.querySelectorAll(".scroll")].filter(
      (sheet) => sheet.scrollWidth > sheet.clientWidth && getComputedStyle(sheet).overflowX !== "auto").length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    text: document.body.innerText,
  };
}"""


def numbers(texts):
    return [None if text in ("NaN", "Infinity", "-Infinity") else float(text) for text in texts]


NO_PAGE = [] if find_spec("matplotlib") and find_spec("jinja2") else ["--no-page"]


LISTS = ("samples", "unrecognised", "false_alarm", "objects", "negatives", "alarms")
TABLES = {"per_sample.csv", "positions.csv", "summary.json", *(f"top_{name}.csv" for name in LISTS)}


LEVELS = (20, 15, 5)


def words(folder, values="losses.npy", labels="labels.npy"):
    return ["report", folder / values, folder / labels, "--background", 0]


def report(folder, out, *options, values="losses.npy", with_page=False, warning=""):
    """Write a report, by default without its page, which takes the most time; return what is in its files."""
    page_or_not = NO_PAGE if with_page else ["--no-page"]
    code, said, err = run(*words(folder, values), *options, *page_or_not, "--out", folder / out)
    assert (code, err) == (0, warning)
    assert f"\nwritten to {folder / out}" in said or "see ssd-mining merge" in said or "--json" in options
    return content(folder / out)


def refused(folder, *options, values="losses.npy", labels="labels.npy", code=3):
    """Return the one line that a report ends with; nothing may be left of it."""
    before = sorted(folder.iterdir())
    got, out, err = run(*words(folder, values, labels), "--no-page", "--out", folder / "out", *options)
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert sorted(folder.iterdir()) == before
    return err.removeprefix("ssd-mining: error: ").rstrip("\n").replace(f"{folder}/", "")


def table(blob):
    return list(csv.DictReader(blob.decode().splitlines()))
