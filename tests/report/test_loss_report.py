"""`LossReport`: the files of the command from Python, in batches, in shards, and in a notebook."""

import json
import pickle
from importlib.util import find_spec

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.commands import content, run
from tests.support.reports import NO_PAGE, draw

NAMES = ["background", "cat & dog", "<b>bold</b>", "fish"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a report by the command; return its files and the arrays."""
    folder = tmp_path_factory.mktemp("command")
    arrays = draw()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "names.txt").write_text("\n".join(NAMES))
    (folder / "ids.txt").write_text("\n".join(f"{i:03}.jpg" for i in range(60)))
    words = ["report", folder / "logits.npy", folder / "labels.npy", "--background", 0, "--levels", "20,15,5"]
    options = ["--class-names", folder / "names.txt", "--ids", folder / "ids.txt", *NO_PAGE]
    assert run(*words, *options, "--out", folder / "out")[0] == 0
    return content(folder / "out"), arrays


def reported(files, arrays, blocks):
    """Return the report of some blocks of the same arrays."""
    arguments = json.loads(files["summary.json"])["arguments"]
    how = {"background": 0, "levels": (20, 15, 5), "classification": sm.Softmax()}
    report = sm.LossReport(class_names=NAMES, arguments=arguments, **how)
    for start, stop in blocks:
        part = arrays["logits"][start:stop], arrays["labels"][start:stop]
        report.update(*part, ids=[f"{i:03}.jpg" for i in range(start, stop)], first_sample=start)
    return report


def test_the_files_are_those_of_the_command_byte_for_byte(written, tmp_path):
    files, arrays = written
    first, second = (reported(files, arrays, blocks) for blocks in ([(40, 60), (0, 7)], [(7, 40)]))
    report = pickle.loads(pickle.dumps(second)).merge(first)  # noqa: S301 - our own
    report.write(tmp_path / "out", page=not NO_PAGE)
    assert content(tmp_path / "out") == files


def test_a_notebook_shows_the_page_in_a_frame(written):
    if NO_PAGE:
        pytest.skip("jinja2 and matplotlib are not installed")
    files, arrays = written
    shown = reported(files, arrays, [(0, 60)])._repr_html_()
    assert shown.startswith("<iframe ")
    assert "Look at these samples first" in shown
    assert "No overlaps were given" in shown
    assert "<b>bold</b>" not in shown


def test_without_batches_there_is_a_report_of_nothing(tmp_path):
    report = sm.LossReport(background=0)
    report.write(tmp_path / "out", page=False)
    assert content(tmp_path / "out")["per_sample.csv"].startswith(b"sample,num_pos,")
    assert report.result().num_samples == 0
    assert repr(report).startswith("<LossReport of <LossAnalysis: 0 samples")


def test_an_earlier_report_is_replaced_only_when_that_is_said(tmp_path):
    report = sm.LossReport(background=0)
    report.update([[9.0, 0.5, 0.25]], [[1, 0, 0]])
    report.write(tmp_path / "out", page=False)
    with pytest.raises(FileExistsError):
        report.write(tmp_path / "out", page=False)
    report.update([[9.0, 0.5, 0.25]], [[1, 0, 0]])
    report.write(tmp_path / "out", page=False, overwrite=True)
    assert content(tmp_path / "out")["per_sample.csv"].count(b"\n") == 3


def test_a_report_that_names_no_files_can_be_compared(tmp_path):
    for name in "ab":
        report = sm.LossReport(background=0)
        report.update([[9.0, 0.5, 0.25]], [[1, 0, 0]])
        report.write(tmp_path / name, page=False)
    code, said, _ = run("compare", tmp_path / "a", tmp_path / "b", "--no-churn", "--json")
    assert (code, json.loads(said)["totals"]["num_pos"]["a"]) == (0, 1)
    code, _, err = run("compare", tmp_path / "a", tmp_path / "b")
    assert code == 3
    assert "got a report that names none" in err


def test_names_are_of_all_samples_or_of_none():
    report = sm.LossReport(background=0)
    report.update([[9.0, 0.5]], [[1, 0]], ids=["a"])
    with pytest.raises(ValueError, match="ids: expected names of all samples, or of none, got None this time"):
        report.update([[9.0, 0.5]], [[1, 0]])
    other = sm.LossReport(background=0)
    other.update([[9.0, 0.5]], [[1, 0]], first_sample=1)
    with pytest.raises(ValueError, match="other: expected a report that has names"):
        report.merge(other)
    with pytest.raises(TypeError, match="other: expected a LossReport, got LossAnalysis"):
        report.merge(sm.LossAnalysis(background=0))


@pytest.mark.skipif(bool(find_spec("jinja2")), reason="jinja2 is installed")
def test_a_page_that_cannot_be_made_says_what_to_install():
    with pytest.raises(ImportError, match=r"a page needs jinja2.*pip install 'ssd_mining\[report\]'"):
        sm.LossReport(background=0).html()
