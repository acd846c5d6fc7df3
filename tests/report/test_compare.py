"""``compare``: two reports of the same samples, matched by name, and the negatives that both mine."""

import csv
import json
import re

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.report import comparison
from tests.support.browser import visit
from tests.support.commands import content, run
from tests.support.reports import LOOK, NO_PAGE, draw, numbers

NAMES = [f"image {i:03}.jpg" for i in range(60)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Write reports of two checkpoints, and of the second one in other orders and shapes; return their folder."""
    folder = tmp_path_factory.mktemp("compare")
    arrays = draw()
    rng = np.random.default_rng(8)
    arrays["later"] = (arrays["losses"] * rng.lognormal(-0.2, 0.6, arrays["losses"].shape)).astype(np.float32)
    arrays["later"][50] = arrays["losses"][50]
    arrays["later_logits"] = arrays["logits"] + rng.normal(0, 1, arrays["logits"].shape).astype(np.float32)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
        np.save(folder / f"{name}_back.npy", array[::-1][:50])
    (folder / "ids.txt").write_text("\n".join(NAMES))
    (folder / "ids_back.txt").write_text("\n".join(NAMES[::-1][:50]))
    for name, values, labels, ids in [
        ("a", "losses", "labels", None),
        ("b", "later", "labels", None),
        ("named_a", "losses", "labels", "ids"),
        ("named_b", "later", "labels", "ids"),
        ("back", "later_back", "labels_back", "ids_back"),
        ("short", "later_back", "labels_back", None),
        ("logits_a", "logits", "labels", None),
        ("logits_b", "later_logits", "labels", None),
    ]:
        words = ["report", folder / f"{values}.npy", folder / f"{labels}.npy", "--background", 0, "--no-page"]
        words += ["--ids", folder / f"{ids}.txt"] if ids else []
        assert run(*words, "--out", folder / name)[0] == 0
    return folder, arrays


def compared(folder, a, b, *options):
    code, out, err = run("compare", folder / a, folder / b, "--json", *options)
    assert (code, err) == (0, "")
    return json.loads(out)


def losses_of(folder, name):
    with (folder / name / "per_sample.csv").open() as table:
        return np.array([float(row["confidence_loss"]) for row in csv.DictReader(table)])


def test_the_change_of_every_number_is_said(reports):
    folder, arrays = reports
    got = compared(folder, "a", "b", "--top", 5)
    a, b = (sm.confidence_loss(arrays[name], arrays["labels"], background=0) for name in ("losses", "later"))
    assert got["totals"]["loss"] == {"a": a.loss, "b": b.loss, "change": b.loss - a.loss}
    assert got["totals"]["num_kept"] == {"a": a.num_kept.sum(), "b": b.num_kept.sum(), "change": 0}
    change = b.confidence_loss - a.confidence_loss
    assert got["samples"] == {
        "both": 60,
        "worse": (change > 0).sum(),
        "better": (change < 0).sum(),
        "equal": (change == 0).sum(),
        "only_a": 0,
        "only_b": 0,
    }
    assert got["samples"]["equal"] >= 4  # three without positives, and one that was left alone
    order = np.argsort(-change, kind="stable")
    assert got["worse"]["id"] == order[:5].tolist()
    assert got["better"]["id"] == order[::-1][:5].tolist()
    np.testing.assert_array_equal(got["worse"]["change"], change[order[:5]])
    np.testing.assert_array_equal(got["worse"]["loss_b"], b.confidence_loss[order[:5]])
    for which, name in (("a", "a"), ("b", "b")):
        summary = json.loads((folder / name / "summary.json").read_text())
        for kind in ("positives", "negatives", "kept", "samples"):
            assert got["quantiles"][kind][which] == summary["distributions"][kind]["quantiles"]


@pytest.mark.parametrize("max_memory", [1, 256])
@pytest.mark.parametrize(("a", "b"), [("a", "b"), ("logits_a", "logits_b"), ("logits_a", "a")])
def test_the_negatives_that_both_mine_are_counted(reports, a, b, max_memory):
    folder, arrays = reports
    masks = []
    for name in (a, b):
        labels = arrays["labels"]
        if name.startswith("logits"):
            values = arrays["logits" if name.endswith("a") else "later_logits"]
            masks.append(sm.mine_logits(values, labels, background=0).hard_negative_mask)
        else:
            values = arrays["losses" if name == "a" else "later"]
            masks.append(sm.hard_negative_mask(values, labels, background=0))
    both, either = masks[0] & masks[1], masks[0] | masks[1]
    got = compared(folder, a, b, "--max-memory", max_memory)["churn"]
    assert got == {
        "kept_a": masks[0].sum(),
        "kept_b": masks[1].sum(),
        "kept_both": both.sum(),
        "overlap": both.sum() / either.sum(),
        "changed_samples": (masks[0] != masks[1]).any(axis=1).sum(),
    }
    assert (got["overlap"] < 1) == (a[-1] != b[-1])


def test_a_report_equals_itself(reports):
    folder, _ = reports
    got = compared(folder, "a", "a")
    assert got["samples"]["equal"] == 60
    assert got["churn"]["overlap"] == 1
    assert got["worse"]["id"] == got["better"]["id"] == []


def test_samples_are_matched_by_their_names(reports):
    folder, _ = reports
    got = compared(folder, "named_a", "back", "--no-churn", "--top", 60)
    expected = compared(folder, "a", "b", "--top", 60)
    assert got["samples"]["both"] == 50
    assert (got["samples"]["only_a"], got["samples"]["only_b"]) == (10, 0)
    kept = [i for i, sample in enumerate(expected["worse"]["id"]) if sample >= 10]
    assert got["worse"]["id"] == [NAMES[expected["worse"]["id"][i]] for i in kept]
    assert got["worse"]["change"] == [expected["worse"]["change"][i] for i in kept]


def test_changes_stand_in_the_order_of_a(reports, tmp_path):
    folder, _ = reports
    words = ("compare", folder / "back", folder / "named_a", "--no-churn", "--no-page", "--out", tmp_path / "out")
    assert run(*words)[0] == 0
    rows = list(csv.DictReader((tmp_path / "out" / "changes.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == NAMES[::-1][:50]
    np.testing.assert_array_equal([float(row["loss_a"]) for row in rows], losses_of(folder, "back"))


def test_the_table_names_what_got_worse(reports):
    folder, _ = reports
    code, out, err = run("compare", folder / "named_a", folder / "named_b")
    worst = compared(folder, "named_a", "named_b")["worse"]
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["A", "B", "change"]
    assert lines[-5].split()[:2] == worst["id"][0].split()
    assert lines[-5].split()[-1] == f"{worst['change'][0]:+,.4f}"
    assert any(line.startswith("mined in both") and line.endswith("% of either") for line in lines)


def test_the_files_hold_what_is_printed(reports, tmp_path):
    folder, _ = reports
    code, out, err = run("compare", folder / "a", folder / "b", "--json", "--out", tmp_path / "out", *NO_PAGE)
    assert (code, err) == (0, "")
    got = content(tmp_path / "out")
    assert set(got) - {"comparison.html"} == {"comparison.json", "changes.csv"}
    assert got["comparison.json"].decode() == out
    rows = list(csv.DictReader(got["changes.csv"].decode().splitlines()))
    np.testing.assert_array_equal([float(row["loss_a"]) for row in rows], losses_of(folder, "a"))
    np.testing.assert_array_equal([float(row["loss_b"]) for row in rows], losses_of(folder, "b"))
    again = run("compare", folder / "a", folder / "b", "--out", tmp_path / "out", *NO_PAGE)
    assert again[0] == 2
    assert "one that is in use" in again[2]


def test_nan_is_the_worst_that_a_loss_can_become():
    nan, inf = np.nan, np.inf
    before = np.array([1.0, 1.0, nan, nan, inf, inf, 1.0, 2.0, nan])
    after = np.array([2.0, nan, 1.0, nan, inf, 1.0, inf, 2.0, inf])
    np.testing.assert_array_equal(comparison.change(before, after), [1, inf, -inf, 0, 0, -inf, inf, 0, -inf])


def test_arrays_that_moved_can_be_named(reports, tmp_path):
    folder, _ = reports
    np.savez(tmp_path / "moved.npz", losses=np.load(folder / "later.npy"), labels=np.load(folder / "labels.npy"))
    moved = (f"{tmp_path}/moved.npz:losses", f"{tmp_path}/moved.npz:labels")
    assert compared(folder, "a", "b", "--inputs-b", *moved)["churn"] == compared(folder, "a", "b")["churn"]


def test_what_cannot_be_compared_is_refused(reports, tmp_path):
    folder, arrays = reports
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "summary.json").write_text("[1, 2]")
    summary = json.loads((folder / "a" / "summary.json").read_text())
    for name, text in {"old": json.dumps(summary | {"schema": 9}), "bare": json.dumps(summary), "cut": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "torn" / "per_sample.csv").write_text("sample,confidence_loss\n0,1.5\n1\n")
    np.save(tmp_path / "narrow.npy", arrays["labels"][:, 1:])
    labels = folder / "labels.npy"
    for b, options, code, expected in [
        (folder / "none", (), 3, "none/summary.json: expected a readable file, got No such file or directory"),
        (tmp_path / "foreign", (), 3, "foreign/summary.json: expected the summary of a report, got this: TypeError"),
        (tmp_path / "cut", (), 3, "cut/summary.json: expected the summary of a report, got this: JSONDecodeError"),
        (tmp_path / "old", (), 3, "old/summary.json: expected schema 1, got 9"),
        (tmp_path / "bare", (), 3, "bare/per_sample.csv: expected a readable file, got No such file or directory"),
        (tmp_path / "torn", (), 3, "torn/per_sample.csv: expected the table of a report, got this: ValueError"),
        (folder / "named_a", (), 3, "named_a: expected samples without names, as in A, got samples with names"),
        (folder / "short", (), 3, "short: expected the 60 samples of A, for they have no names, got 50; name them"),
        (folder / "b", ("--inputs-b", "none.npy", labels), 3, "none.npy: expected a readable file, got No such file"),
        (
            folder / "b",
            ("--inputs-b", folder / "later.npy", tmp_path / "narrow.npy"),
            3,
            "narrow.npy: expected shape",
        ),
    ]:
        got, out, err = run("compare", folder / "a", b, *options)
        assert (got, out, err.count("\n")) == (code, "", 1)
        line = err.replace(f"{folder}/a,", "A,").replace(f"{folder}/", "").replace(f"{tmp_path}/", "")
        assert line.startswith(f"ssd-mining: error: {expected}")
    code, _, err = run("compare", folder / "named_a", folder / "back")
    assert (code, "not in the same order" in err, "--no-churn" in err) == (2, True, True)


@pytest.mark.extra("jinja2", "matplotlib")
def test_the_page_shows_the_numbers_of_the_json(reports, tmp_path):
    folder, _ = reports
    assert run("compare", folder / "a", folder / "b", "--out", tmp_path / "out")[0] == 0
    expected = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for width in (1280, 400):
        visited = visit(tmp_path / "out" / "comparison.html", tmp_path / f"visit{width}", width, LOOK)
        assert (visited.console, visited.requests, visited.wrong) == ([], [], [])
        seen = visited.seen
        assert (len(seen["pictures"]), seen["missing"], seen["overflow"]) == (5, [], 0)
        for key, total in expected["totals"].items():
            if key in seen["facts"]:
                assert numbers([seen["facts"][key]]) == [total["b"]]
        assert numbers([seen["facts"]["kept_both"]]) == [expected["churn"]["kept_both"]]
        for table in ("worse", "better"):
            for key in ("loss_a", "loss_b", "change"):
                assert numbers(row[key] for row in seen["tables"][table]) == expected[table][key]
        for kind in ("positives", "kept", "samples"):
            got = numbers(row[f"{kind}_b"] for row in seen["tables"]["quantiles"])
            assert got == list(expected["quantiles"][kind]["b"].values())
    html = (tmp_path / "out" / "comparison.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:,|#)[^"]*"', html)


def test_a_shard_is_no_report(reports, tmp_path):
    folder, _ = reports
    words = ("report", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--shard", "1/1")
    assert run(*words, "--out", tmp_path / "s")[0] == 0
    expected = f"{tmp_path}/s: expected a report, got a shard of one; see ssd-mining merge --help"
    assert run("compare", folder / "a", tmp_path / "s") == (3, "", f"ssd-mining: error: {expected}\n")
