"""A tiny case of every benchmark, so that none can rot; and the page is what the results say."""

import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import ROOT
from tests.support.benchmarks import (
    PAGE,
    RESULTS,
    SECTIONS,
    TABLES,
    assert_equal,
    causes,
    cuda,
    distributed,
    first_calls,
    matching,
    on_gpu,
    peers,
    render,
    report,
    suite,
)

TINY = {
    "densities": lambda: suite.densities((200,), rounds=1, fresh=1 << 20),
    "distributions": lambda: suite.distributions((200,), rounds=1, fresh=1 << 20),
    "label_types": lambda: suite.label_types(200, 4, rounds=1),
    "outputs": lambda: suite.outputs(200, (1, 3), rounds=1, fresh=1 << 16),
    "threads": lambda: suite.threads(200, (1, 3), rounds=1, fresh=1 << 16),
    "kept": lambda: suite.kept(200, (3,), rounds=1, fresh=1 << 16),
    "analyses": lambda: suite.analyses(200, (3,), rounds=1, fresh=1 << 16),
    "logits": lambda: suite.logits(200, 2, rounds=1, fresh=1),
    "gradients": lambda: suite.gradients(200, rounds=1),
}


@pytest.mark.parametrize("table", TINY)
def test_a_tiny_case_of_the_table_runs(table):
    rows = TINY[table]()
    columns = next(columns for _, _, key, columns in SECTIONS if key == table)
    assert rows
    for row in rows:
        assert set(columns) <= set(row)


def test_a_tiny_report_is_measured(tmp_path):
    got = report.measured(tmp_path, 200_000, rounds=1)
    assert got["share_of_numpy_sum"] == got["seconds"]["numpy.sum"] / got["seconds"]["report"] > 0
    assert json.loads((tmp_path / "large_report0" / "summary.json").read_text())["num_samples"] == 5


def test_a_tiny_case_of_matching_runs():
    row = matching.measured(3, "ssdlite320", num_images=2, rounds=1)
    assert row["anchors"] == 3234
    assert row["numpy / ours"] > 0


def test_the_readme_says_what_was_measured_on_the_first_processor():
    measured = json.loads(RESULTS.read_text())["densities"]
    rows = [row for row in measured if row["anchors"] in (8732, 24564) and 0.001 <= row["positives"] <= 0.03]
    assert len(rows) == 8
    ranges = [[row[key] for row in rows] for key in ("over_floor", "best_over_ours")]
    cells = [f"{min(values):.1f} to {max(values):.1f}" for values in ranges]
    assert f"| AMD family 25, as above | AVX2 | {cells[0]} | {cells[1]} |" in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.process
def test_the_first_call_of_a_function_and_of_a_command_are_timed():
    name, command = "`ohem`", "`ssd-mining mine`"
    table = first_calls.rows({name: first_calls.CALLS[name], command: first_calls.COMMANDS[command]})
    assert [line.split("|")[1].strip() for line in table[2:]] == [name, command]
    assert all(float(cell) > 0 for line in table[2:] for cell in line.split("|")[2:4])


def test_the_page_of_the_cache_lists_every_first_call_that_is_timed():
    page = first_calls.PAGE.read_text().partition(first_calls.START)[2].partition(first_calls.END)[0]
    listed = [line.split("|")[1].strip() for line in page.splitlines()[2:]]
    assert listed == [*first_calls.CALLS, *first_calls.COMMANDS]


def test_the_study_of_causes_finds_what_a_perfect_detector_shows(tmp_path, capsys):
    # Every object is recognised and nothing else is, so that each fault stands out in the score that is meant for it.
    rng = np.random.default_rng(0)
    anchors = sm.anchor_grid((8, 8), [[0.2, 0.2]])
    counts = rng.integers(2, 6, 20)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    chosen = [rng.choice(len(anchors), n, replace=False) for n in counts]
    classes = rng.integers(1, 5, offsets[-1])
    boxes = anchors[np.concatenate(chosen)]
    logits = np.zeros((20, len(anchors), 5), np.float32)
    res = sm.match_anchors(boxes, classes, anchors, box_offsets=offsets, rule="caffe")
    logits[np.arange(20)[:, None], np.arange(len(anchors)), res.labels] = 9 + rng.random(res.labels.shape)
    loc_pred = sm.encode_boxes(boxes, anchors, res.matched, box_offsets=offsets) + rng.normal(0, 0.01, (20, 1, 4))
    columns = {"logits": logits, "anchors": anchors, "boxes": boxes, "classes": classes, "box_offsets": offsets}
    np.savez(tmp_path / "arrays.npz", **columns, loc_pred=loc_pred)
    with np.load(tmp_path / "arrays.npz") as arrays:
        rows = causes.studied(causes.images_of(arrays), causes.Study(anchors, "caffe", is_sigmoid=False))
    assert rows["false alarm"]["all boxes missing"] == (1, 1)
    assert rows["unrecognised object"]["one swapped"] == (1, 1)
    assert rows["localization / positives"]["all shifted"] == (1, 1)
    assert rows["total"]["all boxes missing"] == (0, 0)
    causes.main([str(tmp_path / "arrays.npz"), "--sigmoid"])
    assert capsys.readouterr().out.count("\n") == 9


def test_a_fault_is_compared_with_all_other_images():
    untouched = np.array([1.0, 2.0, 3.0, 4.0])
    one = causes.separation(np.array([2.5]), np.array([0]), untouched)
    assert one == pytest.approx((1 / 3, 0))  # above 2, not above 3 and 4
    two = causes.separation(np.array([9.0, 4.0]), np.array([1, 0]), untouched)
    assert two == pytest.approx((11 / 12, 1))  # a tie is half
    assert causes.rank_correlation(np.array([1, 2, 2, 5]), np.array([8, 4, 4, 1])) == pytest.approx(-1)


@pytest.mark.extra("zarr", "distributed")
def test_a_tiny_store_is_analysed_with_dask_and_without(tmp_path):
    got = distributed.measured(tmp_path, 200_000, rounds=1)
    assert len(got["seconds"]) == 4


def test_a_table_is_written_between_its_marks(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- python -m benchmarks.report -->\nold\n<!-- end -->\nb\n")
    monkeypatch.setattr(report, "PAGE", page)
    report.write_table(
        "report", {"losses_gib": 2.0, "seconds": {"x": 1.0, "y": 4.0}, "cpu_seconds": {"x": 1, "y": 3}}
    )
    assert page.read_text().splitlines()[2:-2] == [
        "| per GiB of losses, of 2 | seconds | seconds of processors | speed, of `x` |",
        "|---|---|---|---|",
        "| `x` | 0.5 | 0.5 | 1.00 |",
        "| `y` | 2 | 1.5 | 0.25 |",
    ]
    with pytest.raises(ValueError, match="expected the marks of other, got none"):
        report.write_table("other", {})


@pytest.mark.parametrize("peer", peers.NUMPY)
@pytest.mark.parametrize("kind", ["gamma", "all equal", "mostly zeros"])
def test_the_peers_compute_the_same_sums(peer, kind):
    for positives in (0.0, 0.01, 0.3, 1.0):
        conf_loss, drawn, _, _ = suite.case(300, positives, kind=kind, num_samples=4)
        assert_equal(peers.NUMPY[peer](conf_loss, drawn), peers.numpy_sort(conf_loss, drawn))


def test_a_wrong_sum_is_not_timed():
    with pytest.raises(AssertionError):
        assert_equal([1.0, 2.0], [1.0, 2.00001])


def test_the_page_is_what_the_results_say():
    results = json.loads(RESULTS.read_text())
    assert PAGE == ROOT / "docs" / "performance.md"
    assert PAGE.read_text() == render(results | on_gpu())
    assert {key for _, _, key, _ in SECTIONS} == {*TABLES, "cuda", "cuda_losses", "cuda_from_host"}


def test_the_page_has_room_for_a_gpu():
    tables = {key: [dict.fromkeys(columns, 0.5)] for _, _, key, columns in SECTIONS if key.startswith("cuda")}
    page = render({"machine": "this one", "gpu": "a card", **tables})
    assert "## On a GPU" in page
    assert "a card. Kernel" in page
    assert "## Losses from logits, on a GPU" in page


def test_without_a_gpu_the_benchmark_of_one_says_so(capsys):
    if not cuda.missing():
        pytest.skip("there is a GPU")
    for words in ([], ["--check"]):
        assert cuda.main(words) == 1
        assert capsys.readouterr().err.startswith("no GPU to measure on: torch ")


@pytest.mark.process
@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_without_a_driver_the_script_for_a_gpu_stops_and_keeps_why(tmp_path):
    command = ["bash", ROOT / "benchmarks" / "gpu.sh", tmp_path / "kept"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "== driver: FAILED (127)"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["driver.txt"]


def test_what_the_host_and_the_device_take_is_told_apart(monkeypatch):
    seconds, waiting = [0.0], [0.0]

    def call():  # the host is busy for 1 us, the device for 7
        seconds[0] += 1e-6
        waiting[0] += 7e-6

    def synchronize():
        seconds[0], waiting[0] = seconds[0] + waiting[0], 0.0

    monkeypatch.setattr(cuda.time, "perf_counter", lambda: seconds[0])
    torch = SimpleNamespace(cuda=SimpleNamespace(synchronize=synchronize))
    assert cuda.enqueued(torch, call, rounds=3) == pytest.approx(1)
    assert cuda.eager(torch, call, rounds=3) == pytest.approx(8)


def test_a_call_that_cannot_be_captured_is_no_number(monkeypatch, capsys):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda, "graphed", refuse)
    assert np.isnan(cuda.graphed_if_possible(None, None))
    assert "not captured: operation not permitted" in capsys.readouterr().out


def test_the_whole_loss_from_the_host_is_compared_with_that_of_the_cpu():
    row = cuda.host_row((3, 700, 21), backend="reference", rounds=1)
    columns = next(columns for _, _, key, columns in SECTIONS if key == "cuda_from_host")
    assert set(row) == set(columns)
    assert row["cpu_over_device"] == pytest.approx(row["cpu_ms"] / row["device_ms"])


@pytest.mark.framework("torch")
@pytest.mark.parametrize("kind", cuda.WAYS)
def test_the_losses_of_torch_are_ours(kind, monkeypatch):
    import torch

    monkeypatch.setattr(torch, "compile", lambda function: function)
    for name in ("enqueued", "eager", "graphed"):
        monkeypatch.setattr(cuda, name, lambda _, way: float(len(way())))
    row = cuda.loss_row(torch, kind, (3, 700, 21), device="cpu")
    columns = next(columns for _, _, key, columns in SECTIONS if key == "cuda_losses")
    assert set(row) == set(columns)
    assert row["ours_call_us"] == row["compiled_graph_us"] == (1 if kind == "losses" else 3)
    ways = cuda.WAYS[kind](torch, tuple(map(torch.from_numpy, cuda.detection((3, 700, 21)))))
    wrong = [each + 1 for each in ways["torch"]()]
    with pytest.raises(AssertionError, match="differ"):
        cuda.assert_alike(wrong, ways["ours"]())


@pytest.mark.framework("torch")
def test_the_peers_on_a_gpu_mine_what_we_mine():
    import torch

    conf_loss, drawn, _, _ = suite.case(300, 0.03, num_samples=4)
    expected = sm.hard_negative_mask(conf_loss, drawn, background=0)
    loss, labels = torch.from_numpy(conf_loss), torch.from_numpy(drawn)
    foreground, kept = cuda.double_sort(torch, loss, labels)
    assert np.array_equal((kept & ~foreground).numpy(), expected)
    _, values, _, inside = cuda.top_k(torch, loss, labels)
    assert_equal(torch.where(inside, values, 0).sum(1).numpy(), np.where(expected, conf_loss, 0).sum(1))
