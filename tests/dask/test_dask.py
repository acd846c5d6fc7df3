"""Dask arrays: chunk by chunk on a cluster of processes, over a zarr store, with a worker killed; and xarray's."""

import importlib.util
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

import ssd_mining as sm
from tests.support.batches import losses

if importlib.util.find_spec("dask"):
    import dask.array as da

    import ssd_mining.dask as ours

pytestmark = pytest.mark.extra("dask")

SHAPE, LEVELS = (40, 900), [600, 300]


def data(num_samples=SHAPE[0]):
    rng = np.random.default_rng(0)
    shape = (num_samples, SHAPE[1])
    labels = np.where(rng.random(shape) < 0.02, rng.integers(1, 5, shape), 0).astype(np.uint8)
    return losses("gamma", shape, rng), labels


def local(conf_loss, labels, **settings):
    analysis = sm.LossAnalysis(background=0, **settings)
    analysis.update(conf_loss, labels)
    return json.dumps(analysis.result().to_dict())


def check(mined, conf_loss, labels):
    expected = sm.mine_hard_negatives(conf_loss, labels, background=0)
    for name, column in zip(mined._fields, mined, strict=True):
        np.testing.assert_array_equal(column.compute(), getattr(expected, name))


@pytest.mark.parametrize("chunks", [(7, -1), (40, -1), ((0, 1, 39), -1)])
def test_mining_by_chunks_equals_mining_in_memory(chunks):
    conf_loss, labels = data()
    mined = ours.mine_hard_negatives(da.from_array(conf_loss, chunks), da.from_array(labels, (9, -1)), background=0)
    check(mined, conf_loss, labels)


@pytest.mark.parametrize("labels_of", [lambda y: y, lambda y: np.eye(5, dtype=np.float32)[y]])
def test_logits_and_one_hot_labels(labels_of):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (6, 100, 5)).astype(np.float32), labels_of(rng.integers(0, 5, (6, 100)))
    call = {"classification": sm.Softmax(), "background": 0}
    lazy = da.from_array(logits, (2, -1, -1)), da.from_array(labels, (4, *labels.shape[1:]))
    got = ours.mine_hard_negatives(*lazy, **call).hard_negative_mask.compute()
    np.testing.assert_array_equal(got, sm.mine_logits(logits, labels, **call).hard_negative_mask)
    analysis = ours.analyse(*lazy, **call).compute()
    whole = sm.LossAnalysis(**call)
    whole.update(logits, labels)
    assert json.dumps(analysis.result().to_dict()) == json.dumps(whole.result().to_dict())


def test_losses_with_one_hot_labels():
    conf_loss, labels = data()
    one_hot = np.eye(5, dtype=np.float32)[labels]
    lazy = da.from_array(conf_loss, (7, -1)), da.from_array(one_hot, (7, -1, -1))
    check(ours.mine_hard_negatives(*lazy, background=0), conf_loss, labels)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_the_analysis_of_chunks_has_the_bytes_of_the_local_one(rows):
    conf_loss, labels = data()
    lazy = da.from_array(conf_loss, (rows, -1)), da.from_array(labels, (11, -1))
    analysis = ours.analyse(*lazy, background=0, levels=LEVELS, top=7).compute()
    assert json.dumps(analysis.result().to_dict()) == local(conf_loss, labels, levels=LEVELS, top=7)


def test_no_samples_at_all():
    conf_loss, labels = data(0)
    analysis = ours.analyse(da.from_array(conf_loss), da.from_array(labels), background=0).compute()
    assert analysis.result().num_samples == 0


@pytest.mark.extra("xarray")
def test_xarray_calls_it_unchanged():
    import xarray as xr

    conf_loss, labels = data()
    lazy = [
        xr.DataArray(da.from_array(array, (7, -1)), dims=("sample", "anchor"), coords={"sample": np.arange(40) * 2})
        for array in (conf_loss, labels)
    ]
    per_anchor, per_sample = [["anchor"]] * 2, [[]] * 6
    found = xr.apply_ufunc(
        ours.mine_hard_negatives,
        *lazy,
        input_core_dims=[["anchor"], ["anchor"]],
        output_core_dims=[*per_anchor, *per_sample],
        dask="allowed",
        kwargs={"background": 0},
    )
    expected = sm.mine_hard_negatives(conf_loss, labels, background=0)
    assert found[0].dims == ("sample", "anchor")
    np.testing.assert_array_equal(found[0].compute(), expected.hard_negative_mask)
    np.testing.assert_array_equal(found[4].sel(sample=6).compute(), expected.num_kept[3])


BAD = {
    "a NumPy array": (lambda x, y: (np.asarray(x), y), {}, TypeError, "values: expected a Dask array, got ndarray"),
    "split anchors": (
        lambda x, y: (x.rechunk((7, 300)), y),
        {},
        ValueError,
        r"values: expected chunks of whole samples, got \(3,\) chunks .*; pass values.rechunk\({1: -1}\)",
    ),
    "split classes": (
        lambda x, _: (x, da.zeros((40, 900, 4), chunks=(40, 900, 2))),
        {},
        ValueError,
        r"labels: expected chunks of whole samples, got \(1, 2\) chunks .*labels.rechunk\({1: -1, 2: -1}\)",
    ),
    "other samples": (
        lambda x, y: (x, y[:10]),
        {},
        ValueError,
        r"labels: expected labels of \(40, 900\) anchors, got shape \(10, 900\)",
    ),
    "losses as logits": (
        lambda x, y: (x, y),
        {"classification": sm.Softmax()},
        ValueError,
        r"values: expected an array of \(B, A, C\) logits, got shape \(40, 900\)",
    ),
    "a batch as one": (
        lambda x, y: (x, y),
        {"scope": "batch"},
        ValueError,
        'scope: expected "sample", for other scop',
    ),
    "draws": (lambda x, y: (x, y), {"pool_size": 2}, ValueError, "pool_size: expected 1, for draws depend"),
    "masks": (lambda x, y: (x, y), {"valid": True}, TypeError, "valid: expected none for Dask arrays, got one"),
}


@pytest.mark.parametrize("function", ["mine_hard_negatives", "analyse"])
@pytest.mark.parametrize(("given", "keywords", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_before_anything_is_computed(function, given, keywords, error, message):
    lazy = [da.from_array(array, (7, -1)) for array in data()]
    with pytest.raises(error, match=message):
        getattr(ours, function)(*given(*lazy), background=0, **keywords)


def test_bad_values_are_raised_when_they_are_computed():
    conf_loss, labels = data()
    conf_loss[20, 3] = np.nan
    lazy = da.from_array(conf_loss, (7, -1)), da.from_array(labels, (7, -1))
    mined = ours.mine_hard_negatives(*lazy, background=0)
    with pytest.raises(ValueError, match=r"conf_loss: .*NaN at \(sample 6, anchor 3\)"):
        mined.num_kept.compute(scheduler="synchronous")


@pytest.fixture(scope="module")
def cluster():
    import distributed

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as made,
        distributed.Client(made) as client,
    ):
        yield client


@pytest.fixture
def store(tmp_path):
    import zarr

    conf_loss, labels = data()
    for name, array in (("losses", conf_loss), ("labels", labels)):
        made = zarr.create_array(str(tmp_path / name), shape=array.shape, chunks=(4, 900), dtype=array.dtype)
        made[:] = array
    return conf_loss, labels, [da.from_zarr(str(tmp_path / name)) for name in ("losses", "labels")]


@pytest.mark.extra("distributed", "zarr")
@pytest.mark.process
@pytest.mark.full_size
def test_processes_over_a_zarr_store_give_the_local_results(cluster, store):
    conf_loss, labels, lazy = store
    analysis = cluster.compute(ours.analyse(*lazy, background=0, levels=LEVELS)).result(timeout=120)
    assert json.dumps(analysis.result().to_dict()) == local(conf_loss, labels, levels=LEVELS)
    mined = ours.mine_hard_negatives(*lazy, background=0)
    check(mined, conf_loss, labels)


@pytest.mark.extra("distributed", "zarr")
@pytest.mark.process
@pytest.mark.full_size
def test_a_worker_that_is_killed_changes_no_result(cluster, store):
    conf_loss, labels, lazy = store

    def slowly(block):
        time.sleep(0.3)
        return block

    slow = lazy[0].map_blocks(slowly, dtype=lazy[0].dtype)
    future = cluster.compute(ours.analyse(slow, lazy[1], background=0, levels=LEVELS))
    workers = cluster.run(os.getpid)
    killed = threading.Timer(0.8, os.kill, (next(iter(workers.values())), signal.SIGKILL))
    killed.start()
    analysis = future.result(timeout=120)
    killed.join()
    assert json.dumps(analysis.result().to_dict()) == local(conf_loss, labels, levels=LEVELS)
    assert set(cluster.run(os.getpid).values()) != set(workers.values())  # it did die
