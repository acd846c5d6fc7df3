"""``report``: what its files say, of data of every kind and in blocks of any size."""

import json
import re
import threading
import time

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.files.names import read_class_names
from ssd_mining.files.sources import ArraySource, open_array
from ssd_mining.report import parts
from tests.support.batches import REAL_FILES, load_real
from tests.support.commands import content, run
from tests.support.formats import FORMATS
from tests.support.reports import LEVELS, LISTS, TABLES, refused, report, table, words


def test_the_files_say_what_the_library_says(data):
    folder, arrays = data
    got = report(
        folder, "out", "--levels", "20,15,5", "--ids", folder / "ids.txt", "--top", 7, "--ratio-sweep", "1,2.5"
    )
    assert set(got) == TABLES
    analysis = sm.LossAnalysis(background=0, levels=LEVELS, top=7, ratios=(1, 2.5))
    columns = analysis.update(arrays["losses"], arrays["labels"], ids=arrays["ids"])
    expected = json.loads(json.dumps(analysis.result().to_dict()))
    summary = json.loads(got["summary.json"])
    assert {name: summary[name] for name in expected} == expected
    assert summary["schema"] == 1
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["arguments"] == {
        "values": f"{folder}/losses.npy",
        "labels": f"{folder}/labels.npy",
        "ids": f"{folder}/ids.txt",
        "boxes": None,
        "beside": {},
        "class_names": None,
        "values_shape": [60, 40],
        "values_dtype": "<f4",
        "labels_shape": [60, 40],
        "labels_dtype": "|u1",
    }
    rows = table(got["per_sample.csv"])
    assert [row["id"] for row in rows] == arrays["ids"]
    for name in set(columns) - {"id"}:
        np.testing.assert_array_equal([float(row[name]) for row in rows], columns[name])
    out = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0)
    np.testing.assert_array_equal([float(row["confidence_loss"]) for row in rows], out.confidence_loss)
    worst = np.argsort(-out.confidence_loss, kind="stable")[:7]
    assert [row["id"] for row in table(got["top_samples.csv"])] == [arrays["ids"][i] for i in worst]
    for name in LISTS:
        assert len(table(got[f"top_{name}.csv"])) == 7


def test_the_table_on_stdout_and_the_json_name_the_worst(data):
    folder, arrays = data
    worst = int(sm.confidence_loss(arrays["losses"], arrays["labels"], background=0).confidence_loss.argmax())
    code, out, err = run(*words(folder), "--no-page", "--ids", folder / "ids.txt", "--out", folder / "out")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["samples", "60"]
    assert out.splitlines()[-5].split()[:2] == ["image", f"{worst:03}.jpg"]
    code, out, err = run(*words(folder), "--no-page", "--out", folder / "json", "--json")
    assert json.loads(out) == json.loads((folder / "json" / "summary.json").read_text())


@pytest.mark.parametrize("block", [1, 7, 60])
def test_the_sizes_of_the_blocks_change_no_byte(data, monkeypatch, block):
    folder, _ = data
    expected = report(folder, "whole", "--levels", "20,15,5")
    monkeypatch.setattr(parts, "block_rows", lambda *_: block)
    assert report(folder, "blocks", "--levels", "20,15,5") == expected


def test_logits_give_what_their_losses_give_and_the_classes_they_are_taken_for(data):
    folder, _ = data
    of_logits = json.loads(report(folder, "logits", values="logits.npy")["summary.json"])
    of_losses = json.loads(report(folder, "losses")["summary.json"])
    for name in ("num_pos", "num_kept", "loss", "distributions", "ratio_sweep"):
        assert of_logits[name] == of_losses[name]
    assert sum(of_logits["classes"]["num_kept"]) == of_logits["num_kept"]
    assert sum(of_losses["classes"]["num_kept"]) == 0
    sigmoid = json.loads(report(folder, "s", "--classification", "sigmoid", values="logits.npy")["summary.json"])
    assert sigmoid["spec"]["classification"]["kind"] == "Sigmoid"
    assert sigmoid["loss"] != of_logits["loss"]


@pytest.mark.parametrize(
    "kind",
    [
        "npz",
        "safetensors",
        pytest.param("zarr", marks=pytest.mark.extra("zarr")),
        pytest.param("h5", marks=pytest.mark.extra("h5py")),
        "half",
    ],
)
def test_files_of_every_format_give_the_same_numbers(data, kind):
    folder, arrays = data
    if kind == "half":
        losses = arrays["losses"].astype(np.float16)
        np.save(folder / "half.npy", losses)
        np.save(folder / "single.npy", losses.astype(np.float32))
        pair = [report(folder, name, values=f"{name}.npy") for name in ("half", "single")]
    else:
        path = folder / f"a.{kind}"
        if kind == "npz":
            np.savez_compressed(path, losses=arrays["losses"], labels=arrays["labels"])
        else:
            FORMATS[path.name](path, {name: arrays[name] for name in ("losses", "labels")})
        code, _, err = run(
            *words(folder, f"a.{kind}:losses", f"a.{kind}:labels"), "--no-page", "--out", folder / "out"
        )
        assert (code, err) == (0, "")
        of_it = content(folder / "out")
        pair = [of_it, report(folder, "npy")]
    for name in TABLES - {"summary.json"}:
        assert pair[0][name] == pair[1][name]


def test_blocks_are_read_one_after_the_other_and_in_their_order(data, monkeypatch):
    reading, firsts = threading.Lock(), []
    real = ArraySource.__getitem__

    def read(self, rows):
        assert reading.acquire(blocking=False), "two blocks are read at once"
        try:
            time.sleep(0.002)  # long enough for another worker to come
            firsts.append(rows.start)
            return real(self, rows)
        finally:
            reading.release()

    monkeypatch.setattr(ArraySource, "__getitem__", read)
    monkeypatch.setattr(parts, "block_rows", lambda *_: 2)
    monkeypatch.setattr(parts, "num_workers", lambda *_: 4)
    report(data[0], "out")
    assert len(firsts) > 8
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("num_workers", [1, 2, 16])
@pytest.mark.parametrize("num_anchors", [1, 40, 8732, 3_000_000])
def test_blocks_keep_to_their_memory_and_are_whole_blocks_of_the_analysis_or_chunks(
    tmp_path, num_anchors, num_workers
):
    np.save(tmp_path / "a.npy", np.zeros((1, num_anchors), np.uint8))
    inner = max(1, 2_000_000 // max(64, num_anchors))
    with open_array(tmp_path / "a.npy") as values:
        row_bytes = 2 * values.row_bytes
        assert row_bytes == 2 * values.outline[:1].nbytes
        per_sample = num_workers * (num_anchors + 1) * parts.ANALYSIS_BYTES
        for memory in (1, 16, 256, 1000, 10_000):
            step = parts.block_rows([values, values], num_workers, memory)
            taken = num_workers * step * row_bytes + min(step, inner) * per_sample
            assert step == 1 or taken <= memory << 20
            assert step < inner or step % inner == 0
            assert step <= inner or step * row_bytes <= parts.MOST_BYTES
        values.chunks = (7, num_anchors)
        step = parts.block_rows([values, values], num_workers, 256)
        assert step % 7 == 0 or step < 7
        values.chunks = (10**9, num_anchors)
        assert parts.block_rows([values, values], num_workers, 256) < 10**9


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_give_the_numbers_of_their_readme(tmp_path, name):
    real = load_real(name)
    for kind in ("losses", "labels", "logits"):
        np.save(tmp_path / f"{kind}.npy", real[kind])
    summary = json.loads(report(tmp_path, "losses")["summary.json"])
    assert f"{summary['loss']:.6f}" == REAL_FILES[name]
    assert summary["num_kept"] == real["exp_k"].sum()
    of_logits = json.loads(report(tmp_path, "logits", values="logits.npy")["summary.json"])
    assert of_logits["loss"] == pytest.approx(summary["loss"], rel=1e-5)


def test_whole_numbers_may_be_names(data):
    folder, _ = data
    np.save(folder / "ids.npy", np.arange(60)[::-1] + 1000)
    rows = table(report(folder, "out", "--ids", folder / "ids.npy")["per_sample.csv"])
    assert [int(row["id"]) for row in rows] == list(range(1059, 999, -1))


def test_strings_of_an_array_may_be_names(data):
    folder, _ = data
    names = [f'image, "{i}"' if i % 2 else f"ö{i}" for i in range(60)]
    np.savez(folder / "ids.npz", ids=np.array(names), one=np.array(["x"] * 60).reshape(60, 1))
    expected = "ids.npz:one: expected whole numbers or strings, one for each sample, got dtype <U1 of shape (60, 1)"
    assert refused(folder, "--ids", folder / "ids.npz:one").startswith(expected)
    expected = "ids.npz:ids: expected bools, integers or floats, got dtype <U"
    assert refused(folder, values="ids.npz:ids").startswith(expected)
    rows = table(report(folder, "out", "--ids", folder / "ids.npz:ids")["per_sample.csv"])
    assert [row["id"] for row in rows] == names


def test_strings_of_an_array_may_name_the_classes(data):
    folder, _ = data
    names = ["none", "cat", "dog", "ox"]
    np.save(folder / "names.npy", np.array(names))
    assert read_class_names(folder / "names.npy") == names
    np.save(folder / "numbers.npy", np.arange(4))
    expected = "numbers.npy: expected strings, one for each class, got dtype int64 of shape (4,)"
    assert refused(folder, "--class-names", folder / "numbers.npy", values="logits.npy") == expected
    report(folder, "out", "--class-names", folder / "names.npy", values="logits.npy")


def test_nan_is_treated_as_the_policy_says(data, monkeypatch):
    folder, arrays = data
    arrays["losses"][33, 7] = np.nan
    arrays["labels"][33, 7] = 1
    for name in ("losses", "labels"):
        np.save(folder / f"{name}.npy", arrays[name])
    monkeypatch.setattr(parts, "block_rows", lambda *_: 8)
    nan = 'no NaN (--nan-policy raise; "omit" and "propagate" allow it), got NaN'
    assert refused(folder) == f"losses.npy: expected {nan} at (sample 33, anchor 7)"
    omit = json.loads(report(folder, "omit", "--nan-policy", "omit")["summary.json"])
    expected = sm.confidence_loss(arrays["losses"], arrays["labels"], background=0, nan_policy="omit")
    assert omit["loss"] == pytest.approx(expected.loss, rel=1e-14)
    got = report(folder, "propagate", "--nan-policy", "propagate", with_page=True)
    propagate = json.loads(got["summary.json"])
    assert (propagate["loss"], propagate["distributions"]["positives"]["num_nan"]) == (None, 1)
    assert propagate["top_samples"]["sample"][0] == 33
    assert table(got["top_samples.csv"])[0]["confidence_loss"] == "nan"


@pytest.mark.parametrize(("num_samples", "positives"), [(0, 0.1), (1, 0.1), (1, 0), (6, 0), (6, 1)])
@pytest.mark.parametrize("values", ["losses.npy", "logits.npy"])
def test_small_and_one_sided_data_sets_have_reports(tmp_path, num_samples, positives, values):
    rng = np.random.default_rng(0)
    labels = (rng.random((num_samples, 8)) < positives).astype(np.int64)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "losses.npy", rng.random((num_samples, 8)))
    np.save(tmp_path / "logits.npy", rng.normal(size=(num_samples, 8, 3)))
    told = "ssd-mining: warning: background 0 labels none of the 48 anchors: all of them are positives\n"
    warning = told if positives == 1 else ""
    got = report(tmp_path, "out", "--levels", "5,3", values=values, with_page=True, warning=warning)
    summary = json.loads(got["summary.json"])
    assert (summary["num_samples"], summary["num_pos"]) == (num_samples, labels.sum())
    assert len(table(got["per_sample.csv"])) == num_samples
    if "report.html" in got:
        assert b"NaN" not in re.sub(rb"<script>.*</script>", b"", got["report.html"], flags=re.DOTALL).replace(
            b'data-value="NaN">NaN', b""
        )


def test_without_out_the_summary_is_printed_and_nothing_is_written(data, monkeypatch):
    folder, _ = data
    monkeypatch.setattr(parts, "PART_BYTES", 2000)
    expected = json.loads(report(folder, "out", "--json")["summary.json"])
    shown = run(*words(folder), "--no-page", "--out", folder / "table")[1]
    report(folder, "shard", "--shard", "1/1")
    before = sorted(folder.rglob("*"))
    for command in (words(folder), ["merge", folder / "shard"]):
        code, out, err = run(*command, "--json")
        assert (code, json.loads(out), err) == (0, expected, "")
        assert run(*command) == (0, shown.partition("\nwritten to")[0], "")
    assert sorted(folder.rglob("*")) == before
