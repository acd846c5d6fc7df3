"""CUDA packages that do not work together: one sentence names them and what to install, whenever it comes out."""

import importlib.util
import inspect
import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from ssd_mining.cli import main
from ssd_mining.kernels.cuda import cubins, runtime
from tests.support import simulator
from tests.support.batches import ROOT

VERSIONS = f"numba {numba.__version__}, numpy {np.__version__}"
ADVICE = "for packages that do, pip install ssd_mining[cuda13], or [cuda12] for an older driver"

# A package that looks like numba-cuda, but for what is said in `{jit}` and in `{cudaimpl}`.
FAKE = """
import sys, types
import numpy as np
import ssd_mining as sm

def jit(*arguments, **options):
    {jit}
    return lambda function: function

def fake(name, **names):
    sys.modules[name] = module = types.ModuleType(name)
    module.__dict__.update(names)
    return module

fake("numba.cuda.np").__path__ = []
fake("numba.cuda.np.numpy_support", carray=None)
cuda = fake("numba.cuda", implementation="NVIDIA", jit=jit, cuda_error=lambda: None, gpus=[0])
cuda.__path__ = []
import numba
numba.cuda = cuda

class Import:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda.cudaimpl":
            {cudaimpl}
            fake(name)
            from importlib.machinery import ModuleSpec
            return ModuleSpec(name, self)
    def create_module(self, spec):
        return sys.modules[spec.name]
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Import())
print(sm.confidence_loss([[1.0, 0.5]], [[1, 0]], background=0).loss)
try:
    sm.confidence_loss([[1.0, 0.5]], [[1, 0]], background=0, backend="cuda")
except RuntimeError as error:
    print(error)
"""
MISSING = "module 'numpy' has no attribute 'row_stack'"
WAYS = {
    "an import of the compiler that NumPy lacks a name for": (
        {"jit": "pass", "cudaimpl": "np.row_stack_that_is_gone"},
        "AttributeError: module 'numpy' has no attribute 'row_stack_that_is_gone'",
    ),
    "a compiler that does not know an option": (
        {"jit": "raise TypeError('unknown option forceinline')", "cudaimpl": "pass"},
        "TypeError: unknown option forceinline",
    ),
}


@pytest.mark.skipif(bool(numba.config.ENABLE_CUDASIM), reason="the simulator has no packages")
@pytest.mark.parametrize("way", WAYS)
def test_an_import_that_fails_is_one_sentence(way):
    broken, said = WAYS[way]
    command = [sys.executable, "-c", FAKE.format(**broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    loss, message = done.stdout.splitlines()
    assert loss == "1.5"
    expected = (
        f"backend: 'cuda' needs the package numba-cuda, which does not work beside {VERSIONS} ({said}); {ADVICE}"
    )
    assert message == expected


load = inspect.unwrap(runtime.load)  # not that of the simulator


@pytest.fixture
def let_compilation_raise(monkeypatch):
    """Return a function that lets every compilation raise an error."""

    def let(error):
        def compile_(*_, **__):
            raise error

        gpus = [SimpleNamespace(compute_capability=(9, 0))]
        monkeypatch.setattr(runtime, "cuda", SimpleNamespace(compile=compile_, gpus=gpus))
        monkeypatch.setattr(cubins, "toolchain", lambda: ("a toolchain",))

    return let


@pytest.mark.parametrize("part", ["cuda.bindings", "cuda.core"])
def test_a_part_of_the_toolchain_that_is_missing_is_one_sentence(let_compilation_raise, monkeypatch, part):
    toolchain = cubins.toolchain
    let_compilation_raise(AssertionError)
    monkeypatch.setitem(sys.modules, part, None)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    if part == "cuda.bindings":
        monkeypatch.setattr(cubins, "toolchain", toolchain)
    else:
        monkeypatch.setattr(runtime.cuda, "compile", lambda *_, **__: (b"", None))
    said = rf"^backend: 'cuda' needs the package numba-cuda, which does not work beside .*{part}.* pip install"
    with pytest.raises(RuntimeError, match=said):
        load(runtime.Kernel(lambda: None), 0)


@pytest.mark.parametrize("error", [AttributeError(MISSING), TypingError("no type\nfor it"), ImportError("no nvvm")])
def test_a_compilation_that_fails_is_one_sentence(let_compilation_raise, error):
    let_compilation_raise(error)
    kernel = runtime.Kernel(lambda: None)
    with pytest.raises(
        RuntimeError, match=r"^backend: 'cuda' needs the package numba-cuda, which does not"
    ) as caught:
        load(kernel, 0)
    assert str(caught.value).endswith(f"({type(error).__name__}: {' '.join(str(error).split())}); {ADVICE}")


def test_an_error_of_the_driver_stays_itself(let_compilation_raise):
    class OutOfMemoryError(Exception):
        pass

    let_compilation_raise(OutOfMemoryError)
    with pytest.raises(OutOfMemoryError):
        load(runtime.Kernel(lambda: None), 0)


def test_the_doctor_names_what_does_not_work_together(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "COMPILES", False)
    monkeypatch.setattr(runtime, "_problem", runtime._misfit(AttributeError(MISSING)))
    runtime.check.cache_clear()
    assert main(["doctor"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("numba-cuda"))
    said = f"numba-cuda, which does not work beside {VERSIONS} (AttributeError: {MISSING}); {ADVICE}"
    assert line.endswith(said)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cuda"]
    assert found["problem"].endswith(said)
    assert found["devices"] == []


@pytest.mark.toolchain
@pytest.mark.skipif(bool(numba.config.ENABLE_CUDASIM), reason="the simulator has no packages")
@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
def test_the_stand_in_of_the_simulator_offers_nothing_that_numba_has_not():
    from numba import cuda

    def public(value):
        return {name for name in dir(value) if not name.startswith("_")}

    assert public(simulator.Array(np.zeros(3))) <= public(cuda.devicearray.DeviceNDArray) | {
        *("shape", "strides", "dtype", "size", "ndim", "nbytes"),  # its instances have them
    }
    assert public(simulator.StandIn()) - {"array", "implementation"} <= public(cuda)
