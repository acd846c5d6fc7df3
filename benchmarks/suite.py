"""The tables of docs/performance.md: each function measures one of them and returns its rows."""

import contextlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

import ssd_mining as sm
from benchmarks import data, peers
from benchmarks.measure import assert_equal, interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = dict[str, Any]
POSITIVES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


# A timing is a pass over as many distinct batches as no cache holds together, so that each is read from memory, and
# meets a branch predictor that has not learnt it.
FRESH_BYTES = 48 << 20
# Of logits a timing is one call, with the batch that was used longest ago: twice the largest cache lies between.
FRESH_LOGITS = 640 << 20


def case(
    num_anchors: int,
    positives: float,
    *,
    num_samples: int = 128,
    kind: str = "gamma",
    labels: str = "int64",
    draw: int = 0,
) -> tuple[Any, Any, Any, dict[str, int]]:
    """Draw one case: losses, classes, labels and the keywords that go with them."""
    rng = np.random.default_rng([num_samples, num_anchors, int(positives * 1000), data.KINDS.index(kind), draw])
    conf_loss = data.losses(kind, (num_samples, num_anchors), rng)
    drawn = data.classes(conf_loss.shape, positives, rng)
    return conf_loss, drawn, *data.labels(labels, drawn)


def num_fresh(num_anchors: int, num_samples: int, fresh: int) -> int:
    """Say how many batches of float32 losses and int64 labels have so many bytes together, at least one."""
    return -(-fresh // (num_samples * num_anchors * 12))


def sums(
    num_anchors: int,
    positives: float,
    *,
    kind: str = "gamma",
    num_samples: int = 128,
    rounds: int = 15,
    fresh: int = FRESH_BYTES,
) -> Row:
    """Time the sums of fresh batches on one thread, beside the NumPy loops and the read floor; and of one, alone."""
    num_batches = num_fresh(num_anchors, num_samples, fresh)
    drawn = [
        case(num_anchors, positives, kind=kind, num_samples=num_samples, draw=draw)[:2] for draw in range(num_batches)
    ]
    each: dict[str, Callable[..., Any]] = {
        "ours": lambda x, y: sm.confidence_loss(x, y, background=0, num_threads=1).confidence_loss,
        "floor": peers.read_floor,
        **{name: peers.NUMPY[name] for name in ("best", "checked", "boolean")},
    }
    functions = {name: lambda one=one: [one(*pair) for pair in drawn] for name, one in each.items()}
    for name in ("best", "checked", "boolean"):
        assert_equal(functions["ours"](), functions[name]())
    seconds = interleaved(functions, rounds=rounds)
    alone = interleaved(
        {name: lambda one=each[name]: one(*drawn[0]) for name in ("ours", "floor", "best")}, rounds=rounds
    )
    return {
        "anchors": num_anchors,
        "losses": kind,
        "positives": positives,
        "samples": num_samples,
        "us_per_sample": seconds["ours"] / num_samples / num_batches * 1e6,
        "over_floor": seconds["ours"] / seconds["floor"],
        "alone_over_floor": alone["ours"] / alone["floor"],
        "best_over_ours": seconds["best"] / seconds["ours"],
        "checked_over_ours": seconds["checked"] / seconds["ours"],
        "boolean_over_ours": seconds["boolean"] / seconds["ours"],
    }


def densities(sizes: tuple[int, ...] = (1917, 8732, 24564, 100000), **options: Any) -> list[Row]:
    """Sums over every density of positives."""
    return [
        sums(num_anchors, positives, num_samples=128 if num_anchors < 10**5 else 32, **options)
        for num_anchors, positives in itertools.product(sizes, POSITIVES)
    ]


def distributions(sizes: tuple[int, ...] = (8732, 24564), **options: Any) -> list[Row]:
    """Sums over every distribution of losses, hostile ones too."""
    return [
        sums(num_anchors, positives, kind=kind, **options)
        for num_anchors, kind, positives in itertools.product(sizes, data.KINDS, (0.003, 0.03, 0.1, 0.3))
    ]


def label_types(num_anchors: int = 8732, num_samples: int = 128, rounds: int = 15) -> list[Row]:
    """Sums from every kind of labels, as a ratio to class numbers of 8 bytes, and to one read of losses and labels."""
    functions: dict[str, Callable[[], Any]] = {}
    for kind in data.LABELS:
        conf_loss, drawn, labels, keywords = case(num_anchors, 0.003, num_samples=num_samples, labels=kind)
        functions[kind] = lambda loss=conf_loss, labels=labels, keywords=keywords: (
            sm.confidence_loss(loss, labels, num_threads=1, **keywords).confidence_loss
        )
        functions[f"read {kind}"] = lambda loss=conf_loss, labels=labels: peers.read_wide(loss, labels)
        assert_equal(functions[kind](), peers.numpy_sort(conf_loss, drawn))
    seconds = interleaved(functions, rounds=rounds)
    return [
        {
            "labels": kind,
            "us_per_sample": seconds[kind] / num_samples * 1e6,
            "over_int64": seconds[kind] / seconds["int64"],
            "over_reading": seconds[kind] / seconds[f"read {kind}"],
        }
        for kind in data.LABELS
    ]


def outputs(
    num_anchors: int = 8732,
    sizes: tuple[int, ...] = (1, 32, 128, 1024),
    rounds: int = 15,
    fresh: int = FRESH_BYTES,
) -> list[Row]:
    """Sums, mask, whole result and indices, for batches of every size."""
    rows, one = [], {"num_threads": 1}
    for num_samples in sizes:
        distinct = num_samples * num_fresh(num_anchors, num_samples, fresh)
        conf_loss, drawn, labels, keywords = case(num_anchors, 0.003, num_samples=distinct)
        parts = [slice(i, i + num_samples) for i in range(0, distinct, num_samples)]
        calls = [{"conf_loss": conf_loss[part], "labels": labels[part], **keywords} for part in parts]
        pairs = [(conf_loss[part], drawn[part]) for part in parts]
        functions: dict[str, Callable[[], Any]] = {
            "sums": lambda calls=calls: [sm.confidence_loss(**call, **one).confidence_loss for call in calls],
            "mask": lambda calls=calls: [sm.hard_negative_mask(**call, **one) for call in calls],
            "indices": lambda calls=calls: [sm.mine_hard_negatives(**call, **one).indices() for call in calls],
            "best": lambda pairs=pairs: [peers.numpy_best_loop(*pair) for pair in pairs],
            "boolean": lambda pairs=pairs: [peers.numpy_boolean_partition(*pair) for pair in pairs],
        }
        assert_equal(functions["sums"](), functions["best"]())
        seconds = interleaved(functions, rounds=rounds)
        rows.append(
            {
                "samples": num_samples,
                "us_per_sample": seconds["sums"] / distinct * 1e6,
                "mask_over_sums": seconds["mask"] / seconds["sums"],
                "indices_over_sums": seconds["indices"] / seconds["sums"],
                "best_over_ours": seconds["best"] / seconds["sums"],
                "boolean_over_ours": seconds["boolean"] / seconds["sums"],
            }
        )
    return rows


def threads(
    num_anchors: int = 8732, sizes: tuple[int, ...] = (32, 64, 128, 1024), rounds: int = 15, fresh: int = FRESH_BYTES
) -> list[Row]:
    """Sums on one thread and on two, on an idle machine and beside a busy loop on every processor."""
    rows = []
    for num_samples, is_busy in itertools.product(sizes, (False, True)):
        distinct = num_samples * num_fresh(num_anchors, num_samples, fresh)
        conf_loss, drawn, _, _ = case(num_anchors, 0.003, num_samples=distinct)
        parts = [slice(i, i + num_samples) for i in range(0, distinct, num_samples)]
        functions: dict[str, Callable[[], Any]] = {
            name: lambda parts=parts, x=conf_loss, y=drawn, number=number: [
                sm.confidence_loss(x[part], y[part], background=0, num_threads=number).confidence_loss
                for part in parts
            ]
            for name, number in (("one", 1), ("two", 2))
        }
        assert_equal(functions["one"](), functions["two"]())
        with contextlib.ExitStack() as beside:
            readers = beside.enter_context(ThreadPoolExecutor(2))
            functions["reading one"] = lambda x=conf_loss, y=drawn: peers.read_floor(x, y)
            functions["reading two"] = lambda x=conf_loss, y=drawn, readers=readers: peers.read_by_two(x, y, readers)
            if is_busy:
                beside.enter_context(busy_processors())
            seconds = interleaved(functions, rounds=rounds)
        rows.append(
            {
                "samples": num_samples,
                "beside": "a busy loop on each" if is_busy else "nothing",
                "us_per_sample": seconds["one"] / distinct * 1e6,
                "one_over_two": seconds["one"] / seconds["two"],
                "reading_one_over_two": seconds["reading one"] / seconds["reading two"],
            }
        )
    return rows


@contextlib.contextmanager
def busy_processors() -> "Iterator[None]":
    """Keep every processor busy with a loop of another process."""
    loop = "import os; os.sched_setaffinity(0, [{}]); print(flush=True)\nwhile True: pass"
    with contextlib.ExitStack() as loops:
        for processor in os.sched_getaffinity(0):
            words = [sys.executable, "-c", loop.format(processor)]
            process = loops.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            loops.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


def kept(
    num_anchors: int = 8732, sizes: tuple[int, ...] = (32, 256), rounds: int = 15, fresh: int = FRESH_BYTES
) -> list[Row]:
    """Time the whole result beside the mask alone, and its indices beside one sort, on one thread."""
    rows = []
    for num_samples, positives in itertools.product(sizes, (0.003, 0.03)):
        calls = [
            {"conf_loss": loss, "labels": y, "background": 0, "num_threads": 1}
            for loss, y in (
                case(num_anchors, positives, num_samples=num_samples, draw=draw)[:2]
                for draw in range(num_fresh(num_anchors, num_samples, fresh))
            )
        ]
        results = [sm.mine_hard_negatives(**call) for call in calls]
        masks = [res.hard_negative_mask for res in results]
        lists = [
            (res.num_kept, call["conf_loss"][mask], np.nonzero(mask)[1])
            for call, res, mask in zip(calls, results, masks, strict=True)
        ]
        for call, res, mask, listed in zip(calls, results, masks, lists, strict=True):
            np.testing.assert_array_equal(mask, sm.hard_negative_mask(**call))
            np.testing.assert_array_equal(res.indices()[1], peers.sorted_keys(*listed))
        functions: dict[str, Callable[[], Any]] = {
            "mask": lambda calls=calls: _each(sm.hard_negative_mask, calls),
            "result": lambda calls=calls: _each(sm.mine_hard_negatives, calls),
            "indices": lambda results=results: [res.indices() for res in results],
            "sort": lambda lists=lists: [peers.sorted_keys(*listed) for listed in lists],
        }
        seconds = interleaved(functions, rounds=rounds)
        unit = 1e6 / num_samples / len(calls)
        rows.append(
            {
                "samples": num_samples,
                "positives": positives,
                **{name: took * unit for name, took in seconds.items()},
                "result_over_mask": seconds["result"] / seconds["mask"],
                "indices_over_sort": seconds["indices"] / seconds["sort"],
            }
        )
    return rows


def analyses(
    num_anchors: int = 8732, sizes: tuple[int, ...] = (229, 687), rounds: int = 15, fresh: int = FRESH_BYTES
) -> list[Row]:
    """Time `LossAnalysis.update` beside one sum of the losses, and beside the confidence losses, on one thread."""
    rows = []
    for num_samples, positives in itertools.product(sizes, (0.003, 0.03)):
        calls = [
            case(num_anchors, positives, num_samples=num_samples, labels="uint8", draw=draw)
            for draw in range(num_fresh(num_anchors, num_samples, fresh))
        ]
        analysis = sm.LossAnalysis(background=0, num_threads=1)
        functions: dict[str, Callable[[], Any]] = {
            "sum": lambda calls=calls: [loss.sum() for loss, _, _, _ in calls],
            "confidence_loss": lambda calls=calls: [
                sm.confidence_loss(loss, y, background=0, num_threads=1) for loss, _, y, _ in calls
            ],
            "update": lambda calls=calls, analysis=analysis: [analysis.update(loss, y) for loss, _, y, _ in calls],
        }
        for loss, drawn, y, _ in calls:
            got = sm.LossAnalysis(background=0, num_threads=1).update(loss, y)["confidence_loss"]
            assert_equal(got, peers.numpy_best_loop(loss, drawn))
        seconds = interleaved(functions, rounds=rounds)
        rows.append(
            {
                "samples": num_samples,
                "positives": positives,
                "us_per_sample": seconds["update"] / num_samples / len(calls) * 1e6,
                "over_sum": seconds["update"] / seconds["sum"],
                "over_confidence_loss": seconds["update"] / seconds["confidence_loss"],
            }
        )
    return rows


def _each(function: "Callable[..., Any]", calls: list[dict[str, Any]]) -> None:
    """Call a function and drop what it returns, as a loop over batches does."""
    for call in calls:
        function(**call)


def logits(num_anchors: int = 8732, num_samples: int = 32, rounds: int = 15, fresh: int = FRESH_LOGITS) -> list[Row]:
    """Losses from logits, with and without mining, beside torch where it is installed, NumPy and one read of them."""
    rows = []
    for num_classes in (2, 21, 81, 91):
        rng = np.random.default_rng(num_classes)
        drawn = data.classes((num_samples, num_anchors), 0.003, rng) % num_classes
        x = rng.normal(0, 2, (*drawn.shape, num_classes)).astype(np.float32)
        x[..., 0] += 6
        each: dict[str, Callable[..., Any]] = {
            "softmax": lambda x, y: sm.softmax_cross_entropy(x, y, num_threads=1),
            "mined": lambda x, y: sm.multibox_loss(x, y, background=0, num_threads=1).confidence_loss,
            "sigmoid": lambda x, y: sm.sigmoid_cross_entropy(x, y, num_threads=1),
            "focal": lambda x, y: sm.focal_loss(x, y, num_threads=1),
            "reading": peers.read_wide,
            "NumPy": peers.numpy_cross_entropy,
        }
        softmax, mined = each["softmax"](x, drawn), each["mined"](x, drawn)
        np.testing.assert_allclose(softmax, each["NumPy"](x, drawn), rtol=1e-5, atol=1e-5)
        with contextlib.suppress(ImportError):
            import torch

            torch.set_num_threads(1)
            each["torch"] = peers.torch_cross_entropy
            each["torch topk"] = lambda x, y: peers.torch_topk(peers.torch_cross_entropy(x, y), y)
            np.testing.assert_allclose(softmax, each["torch"](x, drawn), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(mined, each["torch topk"](x, drawn), rtol=1e-5)
        batches = itertools.cycle([(x.copy(), drawn.copy()) for _ in range(-(-fresh // x.nbytes))])
        functions = {name: lambda one=one, next_of=batches: one(*next(next_of)) for name, one in each.items()}
        seconds = interleaved(functions, rounds=rounds)
        nowhere = float("nan")
        rows.append(
            {
                "classes": num_classes,
                **{name: seconds[name] / num_samples * 1e6 for name in ("softmax", "mined", "sigmoid", "focal")},
                "reading": seconds["reading"] / num_samples * 1e6,
                "mined_over_reading": seconds["mined"] / seconds["reading"],
                "numpy_over_softmax": seconds["NumPy"] / seconds["softmax"],
                "torch_over_softmax": seconds.get("torch", nowhere) / seconds["softmax"],
                "topk_over_mined": seconds.get("torch topk", nowhere) / seconds["mined"],
            }
        )
    return rows


def gradients(num_anchors: int = 8732, rounds: int = 15) -> list[Row]:
    """Time the whole loss with and without gradients, whole ones and rows, beside clearing arrays for them."""
    rows = []
    for num_samples, num_classes in ((32, 21), (8, 81)):
        rng = np.random.default_rng(num_classes)
        drawn = data.classes((num_samples, num_anchors), 0.003, rng)
        x = rng.normal(0, 2, (*drawn.shape, num_classes)).astype(np.float32)
        x[..., 0] += 6
        boxes = rng.normal(size=(2, *drawn.shape, 4)).astype(np.float32)
        functions: dict[str, Callable[[], Any]] = {
            name: lambda x=x, y=drawn, boxes=boxes, how=how: sm.multibox_loss(
                x, y, *boxes, background=0, num_threads=1, with_gradients=how
            )
            for name, how in (("loss", False), ("whole", True), ("rows", "rows"))
        }
        functions["zeros"] = lambda x=x, boxes=boxes: (np.zeros_like(x), np.zeros_like(boxes[0]))
        whole, chosen = functions["whole"]().logits_gradient, functions["rows"]().logits_gradient
        np.testing.assert_array_equal(whole.reshape(-1, num_classes)[chosen.anchors], chosen.values)
        seconds = interleaved(functions, rounds=rounds)
        rows.append(
            {
                "classes": num_classes,
                **{name: took / num_samples * 1e6 for name, took in seconds.items()},
                "whole_over_zeros": (seconds["whole"] - seconds["loss"]) / seconds["zeros"],
                "rows_over_loss": (seconds["rows"] - seconds["loss"]) / seconds["loss"],
            }
        )
    return rows


def growth(rounds: int = 15) -> list[Row]:
    """Fit the cost against the samples and against the anchors: the exponents of two power laws."""
    rows = []
    for name, shapes in (
        ("samples", [(b, 8732) for b in (32, 64, 128, 256, 512)]),
        ("anchors", [(64, a) for a in (8732, 17464, 34928, 69856, 139712)]),
    ):
        functions = {}
        for num_samples, num_anchors in shapes:
            conf_loss, _, labels, keywords = case(num_anchors, 0.003, num_samples=num_samples, labels="uint8")
            functions[f"{num_samples} x {num_anchors}"] = lambda loss=conf_loss, y=labels, k=keywords: (
                sm.confidence_loss(loss, y, num_threads=1, **k)
            )
        seconds = list(interleaved(functions, rounds=rounds).values())
        sizes = [b * a for b, a in shapes]
        slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        rows.append(
            {"in": name, "from": next(iter(functions)), "to": next(reversed(functions)), "exponent": float(slope)}
        )
    return rows


def frameworks(num_anchors: int = 8732, num_samples: int = 128, rounds: int = 9) -> list[Row]:
    """Beside a whole sort, and beside torch and TensorFlow where they are installed: one thread each."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
    conf_loss, drawn, labels, keywords = case(num_anchors, 0.003, num_samples=num_samples)
    functions: dict[str, Callable[[], Any]] = {
        "ours": lambda: sm.confidence_loss(conf_loss, labels, num_threads=1, **keywords).confidence_loss
    }
    for name, peer in ({"NumPy sort": peers.numpy_sort} | peers.installed()).items():
        functions[name] = lambda peer=peer: peer(conf_loss, drawn)
        assert_equal(functions["ours"](), functions[name]())
    seconds = interleaved(functions, rounds=rounds)
    return [{"peer": name, "over_ours": seconds[name] / seconds["ours"]} for name in functions if name != "ours"]


FIRST_CALL = """
import sys, time
start = time.perf_counter()
import numpy as np
rng = np.random.default_rng(0)
conf_loss, labels = rng.gamma(0.3, 1.0, (2, 8732)).astype(np.float32), (rng.random((2, 8732)) < 0.01).astype(np.int64)
numpy = time.perf_counter()
import ssd_mining as sm
imported = time.perf_counter()
sm.confidence_loss(conf_loss, labels, background=0)
first = time.perf_counter()
sm.confidence_loss(conf_loss, labels, background=0)
print(imported - numpy, first - imported, time.perf_counter() - first)
"""


def first_call(runs: int = 5) -> list[Row]:
    """The seconds of an import, a first and a second call: without the cache, and from it."""
    import tempfile

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in (("cold", {"SSD_MINING_CACHE": "0"}), ("cached", {"SSD_MINING_CACHE_DIR": folder})):
            measured = []
            for _ in range(runs + 1):  # the first run fills the cache, and is not counted
                done = subprocess.run(
                    [sys.executable, "-c", FIRST_CALL],
                    env=os.environ | changes,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                measured.append([float(word) for word in done.stdout.split()])
            imported, first, steady = np.median(measured[1:], axis=0)
            rows.append({"run": name, "import_s": imported, "first_call_s": first, "steady_us": steady * 1e6})
    return rows


AVX2_ONLY = {
    "NUMBA_CPU_NAME": "haswell",
    # Without a list of features Numba adds those of the host, AVX-512 among them, to any name.
    "NUMBA_CPU_FEATURES": "+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+lzcnt,+f16c,+movbe",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}


def without_avx512() -> list[Row]:
    """Sums again in a process in which neither Numba nor NumPy uses AVX-512."""
    code = "import json; from benchmarks import suite; print(json.dumps(suite.densities((8732, 24564))))"
    environment = os.environ | AVX2_ONLY | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    import json

    rows: list[Row] = json.loads(done.stdout)
    return rows
