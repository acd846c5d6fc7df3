"""Help, the version and the session of the docs: what is said without any data."""

import dataclasses
import os
import shlex
from importlib import metadata

import pytest

import ssd_mining as sm
from ssd_mining import cli, mining_rule
from ssd_mining.cli import options
from tests.support.batches import ROOT
from tests.support.commands import run, shell

USAGES = {
    "demo": "demo",
    "mine": "mine LOSSES LABELS",
    "report": "report LOSSES-or-LOGITS LABELS",
    "merge": "merge DIR [DIR ...]",
    "compare": "compare A B",
    "recipes": "recipes LOGITS LABELS",
    "doctor": "doctor",
}


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in USAGES)])
def test_help_loads_neither_numpy_nor_numba(words):
    script = "import sys; from ssd_mining import cli\ntry: cli.main(sys.argv[1:])\nfinally: print(*sys.modules)"
    out, err = shell(*words, script=script).communicate()
    assert out.startswith(f"usage: ssd-mining {USAGES.get(words[0], '')}")
    assert err == ""
    assert not {"numpy", "numba"} & set(out.split("\n")[-2].split())


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not tell what a process has used")
def test_help_answers_after_150_milliseconds_of_computing():
    def seconds(**options):
        with shell("--help", **options) as process:
            assert process.stderr.read() == ""
            process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime  # of the processors: what else the machine does takes none of them

    empty, ours = zip(*((seconds(script="pass"), seconds()) for _ in range(7)), strict=True)
    assert min(ours) - min(empty) < 0.150


NEED_MORE = {"rank_by", "neg_overlap"}  # than losses and labels


def test_help_gives_the_defaults_of_the_library():
    text = " ".join(run("mine", "--help")[1].split())
    for field in dataclasses.fields(sm.Mining):
        if field.name in NEED_MORE:
            continue
        option = f"--{field.name.replace('_', '-')} "
        described = text[text.index(option) :].split(" --")[0]
        expected = {"background": "the last", "max_negatives": "no limit", "neg_pos_ratio": "3", "pool_size": "1"}
        default = expected.get(field.name, str(field.default).lower())
        assert default in described
        if field.name in mining_rule.CHOICES:
            assert f"{option}{{{','.join(mining_rule.CHOICES[field.name])}}}" in text


def test_the_version_is_that_of_the_installed_package():
    try:
        expected = metadata.version("ssd_mining")
    except metadata.PackageNotFoundError:
        pytest.skip("ssd_mining is not installed, so it has no version")
    assert run("--version") == (0, f"ssd-mining {expected}\n", "")


def test_the_session_in_the_docs_is_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "cli.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```console\n$ ")[1:]]
    assert len(blocks) >= 3
    for block in blocks:
        command, expected = block.split("\n", 1)
        _, out, err = run(*shlex.split(command)[1:])
        assert out + err == expected


def test_warmup_says_what_was_compiled(monkeypatch, capsys):
    from ssd_mining import Warmup

    asked = []

    def compiled(**what):
        asked.append(what)
        return Warmup(compiled=12, loaded=4, seconds=1.25)

    monkeypatch.setattr("ssd_mining.warmup", compiled)
    assert cli.main(["warmup", "matching", "logits"]) == 0
    assert capsys.readouterr().out == "compiled 36 kernels, found 12 in the cache, in 3.8 s\n"
    no_losses = {"loss_dtypes": (), "label_dtypes": ()}
    of_logits = [no_losses | {"logit_dtypes": [dtype]} for dtype in ("float32", "float64")]
    assert asked == [no_losses | {"matching": True}, *of_logits]


def test_warmup_compiles_all_parts_unless_some_are_named(monkeypatch):
    from ssd_mining import Warmup
    from ssd_mining.cli.warmup import STEPS

    asked = []
    monkeypatch.setattr("ssd_mining.warmup", lambda **what: asked.append(what) or Warmup(0, 0, 0.0))
    assert run("warmup") == (0, "compiled 0 kernels, found 0 in the cache, in 0.0 s\n", "")
    assert tuple(STEPS) == options.PARTS
    assert asked == [step for steps in STEPS.values() for step in steps]


def test_warmup_for_a_gpu_compiles_what_a_gpu_has(monkeypatch):
    from ssd_mining import Warmup
    from ssd_mining.cli.warmup import GPU_STEPS

    asked = []
    monkeypatch.setattr("ssd_mining.warmup", lambda **what: asked.append(what) or Warmup(1, 0, 0.0))
    steps = [step for steps in GPU_STEPS.values() for step in steps]
    assert run("warmup", "--backend", "cuda")[0] == 0
    assert asked == [step | {"backend": "cuda", "num_anchors": 8732} for step in steps]
    asked.clear()
    assert run("warmup", "logits", "--backend", "cuda", "--anchors", "99")[0] == 0
    assert {step["num_anchors"] for step in asked} == {99}
    assert not any(step["loss_dtypes"] for step in asked)
    code, out, err = run("warmup", "matching", "--backend", "cuda")
    assert (code, out) == (2, "")
    assert err == "ssd-mining: error: PART: expected mining or logits with --backend cuda, got matching\n"

    def lacking(**_):
        raise RuntimeError("backend: 'cuda' needs an NVIDIA GPU")

    monkeypatch.setattr("ssd_mining.warmup", lacking)
    assert run("warmup", "--backend", "cuda") == (2, "", "ssd-mining: error: --backend: 'cuda' needs an NVIDIA GPU\n")


def test_an_interrupted_warmup_says_that_what_is_compiled_is_kept(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd_mining.warmup", interrupted)
    said = "ssd-mining: interrupted; what is compiled is kept in the cache\n"
    assert run("warmup", "mining") == (130, "", said)
