"""Reports on a small data set, and what their pages show in a browser."""

import numpy as np

import ssd_mining as sm


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
