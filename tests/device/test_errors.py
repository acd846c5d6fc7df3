"""Without a GPU: ``backend="cuda"`` says in one sentence what is missing, and nothing else is harmed."""

import subprocess
import sys
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import ssd_mining as sm
import ssd_mining.device.multibox  # loaded before anything is missing
from ssd_mining.engine import run
from ssd_mining.kernels.cuda import runtime
from tests.support.batches import ROOT
from tests.support.device import to_device

pytestmark = pytest.mark.no_gpu

LOSSES, LABELS = np.ones((1, 4), np.float32), np.array([[1, 0, 0, 0]])
OF_LOSSES = [sm.confidence_loss, sm.mine_hard_negatives, sm.hard_negative_mask]
OF_LOGITS = [
    sm.softmax_cross_entropy,
    sm.sigmoid_cross_entropy,
    sm.focal_loss,
    sm.mine_logits,
    sm.multibox_loss,
]


class Memory:
    """An array of some library that is on a device."""

    @property
    def __cuda_array_interface__(self):
        return {"shape": (1, 4), "strides": None, "typestr": "<f4", "data": (0, False), "version": 3}


DRIVERLESS = SimpleNamespace(cuda_error=lambda: "\nCUDA driver library\ncannot be found.\n")
MISSING = {
    "the package": (False, None, r"the package numba-cuda, .*; pip install ssd_mining\[cuda13\], or \[cuda12\]"),
    "the driver": (
        True,
        DRIVERLESS,
        r"an NVIDIA driver, which was not found \(CUDA driver library cannot be found.\)$",
    ),
    "the device": (
        True,
        SimpleNamespace(cuda_error=lambda: None, gpus=[]),
        "an NVIDIA GPU, and the driver sees none$",
    ),
    "a device that is shy": (
        True,
        SimpleNamespace(cuda_error=lambda: None),
        "an NVIDIA GPU, and the driver sees none$",
    ),
}


@pytest.mark.parametrize("what", MISSING)
@pytest.mark.parametrize("call", [*OF_LOSSES, *OF_LOGITS], ids=lambda call: call.__name__)
def test_what_is_missing_is_said_in_one_sentence(call, what, monkeypatch):
    compiles, module, message = MISSING[what]
    monkeypatch.setattr(runtime, "COMPILES", compiles)
    monkeypatch.setattr(runtime, "cuda", module)
    runtime.check.cache_clear()
    run._remembered.cache_clear()
    with pytest.raises(RuntimeError, match=f"^backend: 'cuda' needs {message}") as caught:
        call(LOSSES[..., None] if call in OF_LOGITS else LOSSES, LABELS, background=0, backend="cuda")
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match=f"^backend: 'cuda' needs {message}"):
        call(Memory(), Memory(), background=0)  # device arrays choose the backend by themselves


def works():
    try:
        runtime.check()
    except RuntimeError:
        return False
    return True


def test_nothing_falls_back_silently():
    if works():
        pytest.skip("there is a GPU, or the simulator")
    with pytest.raises(RuntimeError, match=r"^backend: 'cuda' needs "):
        sm.confidence_loss(LOSSES, LABELS, background=0, backend="cuda")


BROKEN = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda":
            raise {error}("broken by half an upgrade")
sys.meta_path.insert(0, Broken())
import numpy as np, ssd_mining as sm
losses, labels = np.ones((1, 4), np.float32), np.array([[1, 0, 0, 0]])
print(sm.confidence_loss(losses, labels, background=0).loss)
try:
    sm.confidence_loss(losses, labels, background=0, backend="cuda")
except RuntimeError as error:
    print(error)
"""

ERRORS = ("ImportError", "OSError")


@pytest.mark.parametrize("error", ["AttributeError", *(pytest.param(n, marks=pytest.mark.slow) for n in ERRORS)])
def test_a_broken_cuda_package_breaks_nothing_else(error):
    command = [sys.executable, "-c", BROKEN.format(error=error)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loss, message = done.stdout.splitlines()
    assert loss == "4.0"
    beside = f"numba {numba.__version__}, numpy {np.__version__}"
    reason = f"does not work beside {beside} ({error}: broken by half an upgrade)"
    advice = "for packages that do, pip install ssd_mining[cuda13], or [cuda12] for an older driver"
    assert message == f"backend: 'cuda' needs the package numba-cuda, which {reason}; {advice}"


def test_a_call_on_the_cpu_does_not_load_the_cuda_packages():
    code = "import sys; before = set(sys.modules); "  # numba-cuda has a module that Python loads when it starts
    code += "import numpy as np, ssd_mining as sm; sm.confidence_loss(np.ones((1, 70)), np.ones((1, 70), bool)); "
    code += "print([m for m in sys.modules if 'cuda' in m and m not in before])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_other_backends_refuse_device_arrays():
    for backend in ("cpu", "reference"):
        for call, name in [(sm.confidence_loss, "conf_loss"), (sm.multibox_loss, "logits")]:
            with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
                call(Memory(), LABELS, background=0, backend=backend)


def test_analyses_say_that_they_are_not_there():
    with pytest.raises(NotImplementedError, match=r"^backend: 'cuda' does not do analyses in this version"):
        sm.LossAnalysis(background=0, backend="cuda").update(LOSSES, LABELS)


@pytest.mark.cuda
def test_what_is_remembered_of_a_call_lets_no_other_one_through():
    logits, labels = to_device(np.zeros((2, 3, 4), np.float32)), to_device(np.zeros((2, 4), np.int64))
    loss = to_device(np.zeros((2, 4), np.float32))
    for _ in range(2):
        sm.softmax_cross_entropy(logits, labels, class_axis=1)
        sm.mine_logits(logits, labels, class_axis=1, background=0)
        sm.hard_negative_mask(loss, labels, background=0)
        for call in (sm.softmax_cross_entropy, sm.mine_logits):
            with pytest.raises(ValueError, match=r"^class_axis: expected -1, 2 or 1, got True"):
                call(logits, labels, class_axis=True, background=0)
        with pytest.raises(ValueError, match=r"^background: expected"):
            sm.hard_negative_mask(loss, labels)
        with pytest.raises(ValueError, match=r"^labels: expected"):
            sm.hard_negative_mask(loss, to_device(np.zeros((2, 5), np.int64)), background=0)
        with pytest.raises(ValueError, match=r"^num_negatives: expected"):
            sm.hard_negative_mask(loss, labels, background=0, num_negatives=[1, 2, 3])
        with pytest.raises(TypeError, match=r"^classification: expected"):
            sm.mine_logits(logits, labels, class_axis=1, background=0, classification=[])
