"""Nothing is read or written outside the arrays: every input and output ends at a page that cannot be touched."""

import ctypes
import mmap
import subprocess
import sys

import numpy as np
import pytest

from tests.support.batches import ROOT

pytestmark = pytest.mark.process

PAGE = mmap.PAGESIZE


class Guarded:
    """A pool of memory between two protected pages; arrays are laid against either end of it."""

    def __init__(self, size):
        self.pages = -(-size // PAGE)
        self.map = mmap.mmap(-1, (self.pages + 2) * PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for page in (0, self.pages + 1):
            assert protect(address + page * PAGE, PAGE, 0) == 0
        self.inside = np.frombuffer(self.map, np.uint8)[PAGE:-PAGE]

    def put(self, array, *, at_end):
        start = self.inside.size - array.nbytes if at_end else 0
        raw = self.inside[start : start + array.nbytes]
        guarded = raw.view(array.dtype).reshape(array.shape)
        guarded[...] = array
        return guarded


def run_cases(number):
    """Mine generated rows whose arrays, workspace and results all lie against protected pages."""
    from ssd_mining.engine import run as _backends
    from ssd_mining.kernels.cpu import mining as cpu
    from ssd_mining.kernels.records import KeptLists, Rows
    from ssd_mining.mining_rule import Mining
    from tests.support.batches import LOSSES, losses

    names = ("loss", "labels", "rank", "pos_mask", "hard_negative_mask")
    pools = {name: Guarded(64 * 1024) for name in (*names, *KeptLists._fields)}
    rng = np.random.default_rng(0)
    for case in range(number):
        at_end = bool(case % 2)
        shape = int(rng.integers(1, 4)), int(rng.integers(1, 700))
        conf_loss = losses(LOSSES[case % len(LOSSES)], shape, rng).astype((np.float32, np.float64)[case % 3 == 0])
        labels = (rng.random(shape) < rng.choice([0.01, 0.1, 0.5])).astype((np.uint8, np.uint16, np.uint64)[case % 3])
        ranked = case % 5 == 0
        size = shape[0] * shape[1]
        num_masked = size if case // 2 % 4 else 0  # 0: no masks are asked for, at either end
        # Every third batch is ragged; its first sample may be empty.
        lengths = np.full(shape[0], shape[1])
        if case % 3 == 0:
            lengths = np.diff([0, *np.sort(rng.integers(0, size + 1, shape[0] - 1)), size])
        rows = Rows(
            loss=pools["loss"].put(conf_loss.ravel(), at_end=at_end),
            rank=pools["rank"].put(conf_loss[::-1].ravel()[: size * ranked], at_end=at_end),
            labels=pools["labels"].put(labels.ravel(), at_end=at_end),
            codes=np.array([0, 0, 100], labels.dtype),
            quotas=rng.integers(0, shape[1] + 1, shape[0] if case % 7 else 0),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            shortest=int(lengths.min()),
            longest=int(lengths.max()),
        )
        plain = Rows(*(np.array(each) if isinstance(each, np.ndarray) else each for each in rows))
        for array in (each for each in (*rows, *plain) if isinstance(each, np.ndarray)):
            array.flags.writeable = False
        got, expected = (_backends.empty_mined(shape[0], num_masked) for _ in range(2))
        masks = {name: pools[name].put(np.zeros(num_masked, np.bool_), at_end=at_end) for name in names[3:5]}
        got = got._replace(**masks)
        if num_masked and case % 4:
            places = np.zeros(1, np.int64), np.zeros(shape[0], np.int64)
            lists = KeptLists(*places, np.zeros(size, np.int64), np.zeros(size, conf_loss.dtype))
            guarded = (pools[name].put(array, at_end=at_end) for name, array in lists._asdict().items())
            expected, got = expected._replace(kept=lists), got._replace(kept=KeptLists(*guarded))
        rule = Mining(nan_policy="propagate").rule
        cpu.mine(rows, rule, got, 1)
        cpu.mine(plain, rule, expected, 1)
        for name in got._fields[:4]:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=f"{case} {name}")
        for one, other in zip(got.kept or (), expected.kept or (), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{case} kept")
    print("in bounds", number)


def run_one_hot_cases(number):
    """Read one-hot labels that lie against protected pages."""
    from ssd_mining.kernels.cpu.one_hot import one_hot_roles
    from ssd_mining.kernels.records import NEGATIVE, POSITIVE

    pool, rng = Guarded(512 * 1024), np.random.default_rng(0)
    for case in range(number):
        num_rows, num_classes = int(rng.integers(1, 300)), int(rng.integers(2, 80))
        dtype = (np.float32, np.float64, np.uint8)[case % 3]
        classes = np.where(rng.random(num_rows) < 0.1, rng.integers(1, num_classes, num_rows), 0)
        scores = pool.put(np.eye(num_classes, dtype=dtype)[classes], at_end=bool(case % 2))
        roles, _ = one_hot_roles(scores, 0, 0, 1) or (np.where(classes == 0, NEGATIVE, POSITIVE), 0)
        np.testing.assert_array_equal(roles, np.where(classes == 0, NEGATIVE, POSITIVE), err_msg=f"{case}")
    print("in bounds", number)


def run_logit_cases(number):
    """Compute losses and gradients whose arrays, workspace and results all lie against protected pages."""
    from ssd_mining.classification import Focal, Sigmoid, Softmax
    from ssd_mining.kernels.cpu import logits as cpu
    from ssd_mining.kernels.records import Computed, LogitRows
    from tests.support.logits import KINDS, logits, targets

    names = ("logits", "labels", "scores", "weights", "factors", "values", "tiles", "tails")
    pools = {name: Guarded(512 * 1024) for name in names}
    allocate, rng = cpu.workspace, np.random.default_rng(0)
    for case in range(number):
        at_end, dtype = bool(case % 2), (np.float32, np.float64)[case % 3 == 0]
        shape = int(rng.integers(1, 4)), int(rng.integers(1, 200)), int(rng.integers(1, 40))
        scored, ranked = case % 5 == 0, case % 7 == 0
        plain = LogitRows(
            logits=logits(KINDS[case % len(KINDS)], shape, rng).astype(dtype),
            labels=rng.integers(-1, shape[2] + 1, shape[:2]).astype(np.int64),
            scores=targets("soft", shape, rng).astype(dtype) if scored else np.empty((0, 0, 0), dtype),
            weights=rng.random(shape[2]).astype(dtype),
        )
        rows = LogitRows(*(pools[name].put(array, at_end=at_end) for name, array in plain._asdict().items()))
        factors = pools["factors"].put(np.where(rng.random(shape[:2]) < 0.2, 1.0, 0.0), at_end=at_end)
        for array in (*rows, *plain, factors):
            array.flags.writeable = False
        spec = (Softmax(label_smoothing=0.1 * (case % 2), prob_floor=1e-9), Sigmoid(), Focal(), Focal(gamma=0.5))[
            case % 4
        ]
        rule = spec.rule._replace(excluded=shape[2] - 1 if ranked and not scored else -1)
        for what, size in (("losses", shape[:2]), ("gradients", shape)):
            results = []
            for given, guarded in ((plain, False), (rows, True)):
                values = np.zeros(size, dtype)
                values = pools["values"].put(values, at_end=at_end) if guarded else values
                computed = Computed(values, np.zeros(shape[0], np.int64))

                def workspace(rows, workers, guarded=guarded):
                    arrays = zip(("tiles", "tails"), allocate(rows, workers), strict=True)
                    return tuple(pools[n].put(a, at_end=at_end) if guarded else a for n, a in arrays)  # noqa: B023

                cpu.workspace = workspace
                arguments = (given, rule, computed) if what == "losses" else (given, rule, factors, computed)
                getattr(cpu, what)(*arguments, 1)
                assert computed.done.all()
                results.append(values)
            np.testing.assert_array_equal(*results, err_msg=f"{case} {what}")
    cpu.workspace = allocate
    print("in bounds", number)


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with mprotect of libc")
def test_500_losses_and_gradients_stay_inside_protected_pages():
    code = "from tests.kernels.cpu.test_bounds import run_logit_cases; run_logit_cases(500)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "in bounds 500\n", (done.returncode, done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with mprotect of libc")
def test_1000_arrays_of_one_hot_labels_are_read_inside_protected_pages():
    code = "from tests.kernels.cpu.test_bounds import run_one_hot_cases; run_one_hot_cases(1000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "in bounds 1000\n", (done.returncode, done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages with mprotect of libc")
def test_3000_generated_cases_stay_inside_protected_pages():
    # In a process of its own: what reaches a protected page dies of SIGSEGV.
    code = "from tests.kernels.cpu.test_bounds import run_cases; run_cases(3000)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "in bounds 3000\n", (done.returncode, done.stderr)
