"""What is printed and written: any name, any path, any encoding of stdout; nothing of a name is obeyed."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.support.batches import ROOT
from tests.support.commands import run

STREAMS = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii, strict": {"PYTHONIOENCODING": "ascii:strict"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
}
NAMES = [
    "写真 $5-$10.jpg",
    os.fsdecode(b"caf\xe9.jpg"),
    "red \x1b[31m\r\n\u202e.jpg",
    "$$",
    "x_$_{a}$\\frac{.jpg",
    "-->",
]
LABELS = np.zeros((6, 30), np.uint8)
LABELS[:, ::9] = np.arange(4) % 3 + 1


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "labels.npy", LABELS)
    np.save(tmp_path / "losses.npy", rng.gamma(0.3, 1.0, LABELS.shape))
    np.save(tmp_path / "logits.npy", rng.normal(size=(*LABELS.shape, 4)))
    np.save(tmp_path / "names.npy", np.array(NAMES))
    np.save(tmp_path / "classes.npy", np.array(["background", *NAMES[:3]]))
    return tmp_path


def process(*words, **environment):
    command = [sys.executable, "-m", "ssd_mining", *words]
    ours = {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, env=os.environ | ours, check=False)


@pytest.mark.parametrize("stream", STREAMS)
def test_every_command_speaks_on_every_stream(folder, stream):
    strange = os.fsencode(folder) + b"/caf\xe9"
    Path(os.fsdecode(strange)).mkdir()
    for name in ("losses.npy", "labels.npy"):
        os.link(folder / name, strange + b"/" + os.fsencode(name))
    files = (strange + b"/losses.npy", strange + b"/labels.npy", "--background", "0")
    ids = ("--no-page", "--ids", folder / "names.npy")
    for words in (
        ("report", *files, *ids, "--out", strange + b"/a"),
        ("mine", *files, "--out", strange + b"/mined"),
        ("report", *files, *ids, "--shard", "1/1", "--out", strange + b"/s"),
        ("merge", strange + b"/s", "--no-page", "--out", strange + b"/m"),
        ("compare", strange + b"/a", strange + b"/m", "--no-page", "--out", strange + b"/c"),
    ):
        done = process(*words, **STREAMS[stream])
        assert (done.returncode, done.stderr) == (0, b"")
        said = done.stdout.decode("utf-16" if stream == "utf-16" else "ascii")
        assert re.search(r"written to .*caf\\xe9/", said)
        assert Path(os.fsdecode(words[-1])).exists()
        if stream != "C":
            break
    done = process("mine", strange + b"/none.npy", strange + b"/labels.npy", **STREAMS[stream])
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"Traceback" not in done.stderr


def test_nothing_of_a_name_is_obeyed_by_a_terminal(folder):
    words = ("report", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--no-page")
    code, out, err = run(*words, "--ids", folder / "names.npy", "--out", folder / "\x1b[2J")
    assert (code, err) == (0, "")
    assert r"red \x1b[31m\r\n\u202e.jpg"[-21:] in out
    assert out.endswith("/\\x1b[2J\n")
    for options in (("--ids", folder / "\x1b[2J.txt"), ("--out", folder / "\x1b[2J"), ("--\x1b[2J",)):
        code, out, err = run(*words, "--out", folder / "out", *options)
        assert (code > 0, out, "\x1b" in err, r"\x1b[2J" in err) == (True, "", False, True)


def test_json_is_plain_whatever_the_names(folder):
    np.save(folder / "names.npy", np.array([*NAMES[:5], "\x7f\x9b"]))
    words = ("report", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--no-page", "--json")
    code, out, err = run(*words, "--ids", folder / "names.npy", "--out", folder / "out")
    assert (code, err, out.isascii()) == (0, "", True)
    assert set(json.loads(out)["top_samples"]["id"]) == {*NAMES[:5], "\x7f\x9b"}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)


@pytest.mark.extra("jinja2", "matplotlib")
@pytest.mark.parametrize("option", ["ids", "class-names"])
def test_a_name_stands_on_the_page_and_in_the_pictures_as_it_is(folder, option):
    names, values = {"ids": ("names", "losses"), "class-names": ("classes", "logits")}[option]
    words = ("report", folder / f"{values}.npy", folder / "labels.npy", "--background", 0, f"--{option}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code, out, err = run(*words, folder / f"{names}.npy", "--out", folder / "out")
    assert (code, err, caught) == (0, "", [])
    assert out
    page = (folder / "out" / "report.html").read_bytes().decode()  # UTF-8, strictly
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    pictures = re.sub("<!--.*?-->", "", "".join(re.findall("<svg.*?</svg>", page, re.DOTALL)), flags=re.DOTALL)
    shown = ["写真 $5-$10.jpg", r"caf\xe9.jpg"]
    shown += ["$$", "--&gt;"] if option == "ids" else []
    for name in shown:
        assert f">{name}</text>" in pictures
        assert f"<td>{name}</td>" in page
    assert r"<td>red \x1b[31m\r\n\u202e.jpg</td>" in page


@pytest.mark.extra("jinja2", "matplotlib")
def test_a_comparison_of_odd_names_has_a_page(folder):
    words = ("report", folder / "losses.npy", folder / "labels.npy", "--background", 0, "--no-page")
    for out in "ab":
        np.save(folder / "losses.npy", np.load(folder / "losses.npy") * 2)
        assert run(*words, "--ids", folder / "names.npy", "--out", folder / out)[0] == 0
    code, _, err = run("compare", folder / "a", folder / "b", "--no-churn", "--out", folder / "out")
    assert (code, err) == (0, "")
    assert "<td>写真 $5-$10.jpg</td>" in (folder / "out" / "comparison.html").read_text(encoding="utf-8")
