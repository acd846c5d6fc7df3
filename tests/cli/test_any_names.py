"""Names of any text and any integer of 64 bits, through the whole command line: report, merge, compare."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.batches import examples
from tests.support.commands import run

LABELS = np.zeros((5, 30), np.uint8)
LABELS[:, ::9] = 1
LOSSES = np.random.default_rng(0).gamma(0.3, 1.0, LABELS.shape)

ODD = [
    "a\u2028b",
    "a\x85b",
    "a\x0cb",
    "a\rb",
    "a\nb",
    "a\r\nb",
    '"',
    'a""b',
    ",",
    "a\0b",
    "\ufeffa",
    "",
    "caf\udce9",
    "$x$",
    "\x1b[2J",
]
ANY = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=6).filter(
    lambda text: not text.endswith("\0")
)
TEXTS = st.lists(ANY | st.sampled_from(ODD), min_size=5, max_size=5, unique=True)
# A line of a text file ends with a line feed, and NumPy's strings cannot end with a zero.
LINES = TEXTS.filter(lambda names: not any("\n" in name or name.endswith("\r") for name in names))
INT64 = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=5, max_size=5, unique=True)
UINT64 = st.lists(st.integers(0, 2**64 - 1), min_size=5, max_size=5, unique=True)


def save(folder, kind, names):
    if kind == "text":
        (folder / "ids.txt").write_bytes(
            "".join(f"{name}\n" for name in ["\ufeff" + names[0], *names[1:]]).encode("utf-8", "surrogatepass")
        )
        return folder / "ids.txt"
    np.save(folder / "ids.npy", np.array(names, {"array": np.str_}.get(kind, kind)))
    return folder / "ids.npy"


def report(folder, out, kind, names, values, *options):
    for name, array in (("values", values), ("labels", LABELS)):
        np.save(folder / f"{name}.npy", array)
    words = ("report", folder / "values.npy", folder / "labels.npy", "--background", 0, "--no-page")
    got = run(*words, "--ids", save(folder, kind, names), "--out", folder / out, *options)
    assert got[0] == 0, got[2]


def ids_in(table):
    text = table.read_bytes().decode("utf-8", "surrogatepass")
    return [row["id"] for row in csv.DictReader(io.StringIO(text, newline=""))]


@pytest.mark.generated
@pytest.mark.parametrize(
    ("kind", "drawn"),
    [("array", TEXTS), ("text", LINES), ("int64", INT64), ("uint64", UINT64)],
)
def test_any_names_survive_report_merge_and_compare(tmp_path_factory, kind, drawn):
    @settings(max_examples=max(1, examples(20)))
    @given(drawn, st.permutations(range(5)))
    def check(names, order):
        folder = tmp_path_factory.mktemp("names")
        texts = list(map(str, names))
        report(folder, "a", kind, names, LOSSES)
        assert ids_in(folder / "a" / "per_sample.csv") == texts
        summary = json.loads((folder / "a" / "summary.json").read_text())
        worst = np.argsort(
            [-row for row in np.add(summary["top_samples"]["positive_sum"], summary["top_samples"]["negative_sum"])],
            kind="stable",
        )
        assert worst.tolist() == list(range(5))
        assert ids_in(folder / "a" / "top_samples.csv") == [texts[i] for i in summary["top_samples"]["sample"]]

        for shard in (1, 2):
            report(folder, f"s{shard}", kind, names, LOSSES, "--shard", f"{shard}/2")
        assert run("merge", folder / "s2", folder / "s1", "--no-page", "--out", folder / "merged")[0] == 0
        for name in ("per_sample.csv", "top_samples.csv", "top_objects.csv", "summary.json"):
            assert (folder / "merged" / name).read_bytes() == (folder / "a" / name).read_bytes()

        turned = [names[i] for i in order]
        report(folder, "b", kind, turned, LOSSES[order] * 2)
        words = (
            "compare",
            folder / "a",
            folder / "b",
            "--no-churn",
            "--no-page",
            "--out",
            folder / "changes",
            "--json",
        )
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        compared = json.loads(out)
        assert (compared["samples"]["both"], compared["samples"]["worse"]) == (5, 5)
        assert ids_in(folder / "changes" / "changes.csv") == texts
        changes = (folder / "changes" / "changes.csv").read_bytes().decode("utf-8", "surrogatepass")
        for row in csv.DictReader(io.StringIO(changes, newline="")):
            assert float(row["loss_b"]) == pytest.approx(2 * float(row["loss_a"]), rel=1e-14)

    check()


def test_a_zero_at_the_end_of_a_line_tells_names_apart(tmp_path):
    report(tmp_path, "a", "text", ["a", "a\0", "a\0\0", "b", "c"], LOSSES)
    assert ids_in(tmp_path / "a" / "per_sample.csv") == ["a", "a\0", "a\0\0", "b", "c"]
    assert sorted(ids_in(tmp_path / "a" / "top_samples.csv")) == ["a", "a\0", "a\0\0", "b", "c"]


def test_a_report_whose_names_do_not_tell_its_samples_apart_is_not_compared(tmp_path):
    report(tmp_path, "a", "text", ["a", "b", "c", "d", "e"], LOSSES)
    table = tmp_path / "a" / "per_sample.csv"
    table.write_text(table.read_text().replace(",b,", ",a,"))
    code, out, err = run("compare", tmp_path / "a", tmp_path / "a", "--no-churn")
    expected = "expected another name for every sample, got 'a' for samples 0 and 1\n"
    assert (code, out, err) == (3, "", f"ssd-mining: error: {table}: {expected}")
