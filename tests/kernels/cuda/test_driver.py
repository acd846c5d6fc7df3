"""Kernels under the real numba-cuda, on a driver that records what it is asked: kept on disk, loaded, launched."""

from importlib import metadata

import pytest

from tests.support.driver import driver, on_driver, result, start

__all__ = ["driver", "on_driver", "start"]  # fixtures
pytestmark = [pytest.mark.toolchain, pytest.mark.process]

# Two kernels that are soon compiled.
LAUNCH = """
from ssd_mining.kernels.cuda import pack, runtime
from ssd_mining.kernels.cuda.runtime import DeviceArray, Stream
FLOAT32 = np.dtype(np.float32)
source = pack.Strided(DeviceArray(64, (9,), FLOAT32), 9, 9, 1, 0, 1)
def launch(device=0, handle=77):
    with runtime.cuda.gpus[device]:
        pack.enqueue_packed(source, DeviceArray(128, (300,), FLOAT32), Stream(device, handle))
        pack.enqueue_counts(*[DeviceArray(8 * i, (2,), FLOAT32) for i in (1, 2, 3)], Stream(device, handle))
"""
COUNTED = LAUNCH, "launch()\ncounts()"


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "ssd_mining").glob("*/*.bin"))


def test_a_second_process_compiles_nothing(on_driver, tmp_path):
    assert on_driver(*COUNTED) == [2, 0]
    assert [path.name.partition("-")[0] for path in kept(tmp_path)] == ["count", "pack"]
    never = """
    def compile_(*_, **__): raise AssertionError
    runtime.cuda = SimpleNamespace(compile=compile_, gpus=runtime.cuda.gpus)
    """
    assert on_driver(LAUNCH, never, "launch()\n[*counts(), last().size]") == [0, 2, 24]


def test_what_decides_code_has_files_of_its_own(on_driver, tmp_path):
    assert on_driver(*COUNTED) == [2, 0]
    assert on_driver(*COUNTED, DRIVER_CAPABILITY="80") == [2, 0]
    other = "from ssd_mining.kernels.cuda import cubins\ncubins.versions = lambda: {'cuda-core': 'another'}\n"
    assert on_driver(other, *COUNTED) == [2, 0]
    threads = "from ssd_mining.kernels.cuda import pack\npack.THREADS = 128\n"
    assert on_driver(threads, *COUNTED) == [2, 0]
    assert len(kept(tmp_path)) == 8
    assert on_driver(*COUNTED, SSD_MINING_CACHE="0") == [2, 0]


def test_damaged_and_foreign_files_are_compiled_again_and_replaced(on_driver, tmp_path):
    on_driver(*COUNTED)
    first, second = kept(tmp_path)
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[0][:-1] + b"!")
    second.write_bytes(content[0])  # a whole file, of another kernel
    assert on_driver(*COUNTED) == [2, 0]
    assert on_driver(*COUNTED) == [0, 2]


def test_processes_that_start_at_once_compile_once(start, tmp_path):
    found = [result(process) for process in [start(*COUNTED) for _ in range(3)]]
    assert all(sum(counts) == 2 for counts in found)
    assert sum(compiled for compiled, _ in found) == 2
    assert len(kept(tmp_path)) == 2


def test_threads_that_start_at_once_compile_once(on_driver):
    threads = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as pool: list(pool.map(lambda _: launch(), range(4)))
    counts()
    """
    assert on_driver(LAUNCH, threads, SSD_MINING_CACHE="0") == [2, 0]


def test_a_cache_that_cannot_be_used_costs_a_warning(on_driver, tmp_path):
    (tmp_path / "cache").write_text("a file")
    code = """
    import warnings
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        launch()
    [*counts(), [str(each.message)[:43] for each in caught]]
    """
    assert on_driver(LAUNCH, code) == [2, 0, ["ssd_mining compiles without its cache: NotA"]]


def test_a_launch_hands_over_what_it_is_given(on_driver):
    code = """
    with runtime.cuda.gpus[0]:
        pack.enqueue_packed(source, DeviceArray(128, (300,), FLOAT32), Stream(0, 77))
    launch = last()
    numbers = np.frombuffer(ctypes.string_at(ctypes.addressof(launch) + Launch.arguments.offset, launch.size), np.int64)
    [numbers.tolist(), list(launch.grid), launch.stream, "pack" in launch.name.decode()]
    """
    expected = [[64, 9, 9, 1, 0, 1, 128, 300], [2, 1, 256, 0], 77, True]
    assert on_driver(LAUNCH, code) == expected


def test_a_kernel_that_takes_something_else_is_never_launched(on_driver):
    code = """
    try:
        launch()
    except RuntimeError as error:
        message = str(error)
    [message, last().size]
    """
    message, size = on_driver(LAUNCH, code, DRIVER_SHIFTS="8")
    taken, packed = ([(place + i, 8) for i in range(0, 64, 8)] for place in (8, 0))
    assert message.endswith(f" takes arguments at {taken} (place, bytes), not at {packed}")
    assert size == 0


def test_an_old_driver_is_not_asked_what_a_kernel_takes(on_driver):
    code = "launch()\n[last().size, 'cuKernelGetParamInfo' in calls()]"
    old = {"DRIVER_VERSION": "12000", "CUDA_PYTHON_DISABLE_MAJOR_VERSION_WARNING": "1"}
    assert on_driver(LAUNCH, code, **old) == [24, False]
    assert on_driver(LAUNCH, code) == [24, True]


@pytest.mark.parametrize(("code", "is_sticky"), [(700, True), (1, False)])
def test_an_error_of_the_driver_is_told_as_its_own(code, is_sticky, on_driver):
    provoked = f"""
    driver.driver_fail({code})
    try:
        launch()
    except RuntimeError as error:
        message = str(error)
    message
    """
    said = on_driver(LAUNCH, provoked)
    name = "CUDA_ERROR_ILLEGAL_ADDRESS" if is_sticky else "CUDA_ERROR_INVALID_VALUE"
    hint = "; work that this process gave the GPU before, perhaps by another library, has failed" if is_sticky else ""
    assert said == f"backend: 'cuda' was refused by the driver ({name}: what the driver says{hint})"


def test_the_doctor_shows_driver_devices_and_toolchain(on_driver):
    code = """
    import contextlib, io
    from ssd_mining.cli import main
    def consult(*words):
        with contextlib.redirect_stdout(io.StringIO()) as page:
            assert main(["doctor", *words]) == 0
        return page.getvalue()
    [json.loads(consult("--json"))["cuda"], consult().splitlines()]
    """
    found, page = on_driver(code, DRIVER_CAPABILITY="121")
    assert found["problem"] is None
    assert found["driver"] == "13.0"
    assert found["devices"] == [{"name": "Stand-in", "compute_capability": "12.1"}]
    toolchain = {name: metadata.version(name) for name in ("numba-cuda", "cuda-core", "cuda-bindings", "nvidia-nvvm")}
    assert toolchain.items() <= found["toolchain"].items()
    assert {
        f"numba-cuda    {toolchain['numba-cuda']}",
        "NVIDIA driver for CUDA up to 13.0",
        "NVIDIA GPU 0  Stand-in, compute capability 12.1",
    } <= set(page)
    assert any(line.startswith(f"compiled by   cuda-core {toolchain['cuda-core']}, cuda-bindings") for line in page)


def test_a_numpy_without_what_numba_cuda_needs_is_one_sentence(on_driver):
    code = """
    del np.row_stack  # as NumPy 2.5 did
    def compute():
        try:
            sm.confidence_loss([[1.0, 0.5]], [[1, 0]], background=0, backend="cuda")
        except RuntimeError as error:
            return str(error)
    [compute(), compute()]
    """
    first, again = on_driver(code)
    assert first.startswith("backend: 'cuda' needs the package numba-cuda, which does not work beside numba ")
    assert "(AttributeError: " in first
    assert "row_stack" in first
    assert first.endswith("for packages that do, pip install ssd_mining[cuda13], or [cuda12] for an older driver")
    assert again == first


def test_large_arrays_cross_in_pieces_of_page_locked_memory(on_driver):
    code = """
    from ssd_mining.kernels.cuda import copies, runtime
    library, passed, allocated = runtime.numba_library(), [], 0
    for num_workers in (1, 3, 9):
        for size in (copies.LARGE, copies.PIECE, copies.PIECE + 8, 11 * copies.PIECE - 8):
            array = np.random.default_rng(size).random(size // 8)
            calls()
            with library.current():
                there = library.upload(array, num_workers)
                back = library.download(there._replace(shape=(1, size // 8)), num_workers)
            pieces = -(-size // copies.PIECE)
            asked = calls()
            assert asked.count("cuMemcpyHtoDAsync_v2") == asked.count("cuMemcpyDtoHAsync_v2") == pieces
            allocated += asked.count("cuMemHostAlloc")
            passed.append(bool((back.reshape(-1) == array).all()))
            array[:] = 0.0
            passed.append(not bool((library.download(there) == array).all()))
        passed.append(allocated)
    passed
    """
    assert on_driver(code) == [*[True] * 8, 2, *[True] * 8, 6, *[True] * 8, 8]


def test_memory_that_is_not_there_is_asked_for_by_name_and_all_goes_on(on_driver):
    code = """
    from ssd_mining.kernels.cuda import runtime
    with runtime.cuda.gpus[0]:
        try:
            runtime.empty((3, 1 << 33), np.float32)
        except MemoryError as error:
            message = str(error)
        after = runtime.empty((3,), np.float32)
    [message, after.size]
    """
    expected = f"backend: 'cuda' needs {3 * 4 << 33} bytes of the memory of the GPU, which are not free"
    assert on_driver(code) == [expected, 3]
