"""The guarded cache: never a wrong answer, never an exception, at most one warning, whatever happens to its files.

Everything runs in processes of its own, most of it on a copy of the package whose kernel is tiny: what is tested is
what `_cache` does with any driver. The last tests are of `warmup` and of the real kernels.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numba
import pytest

import ssd_mining
from ssd_mining.kernels.cpu import cache as _cache

SOURCES = Path(ssd_mining.__file__).parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="these tests fork and send signals")

RULES = """
OFFSET = 1.0
def shifted(value):
    return value + OFFSET
"""

TINY = """
import numba
import numpy as np
from ssd_mining.kernels import tiny_rules
from ssd_mining.kernels.cpu import cache, jit
_shifted = jit.helper(tiny_rules.shifted)

def kept(**options):
    def compiled(function):
        driver = numba.njit(function, nogil=True, error_model="numpy", **options)
        if driver is not function:
            cache.guard(driver)
            jit._drivers.append((driver,))
        return driver
    return compiled

@kept(parallel=False)
def _total_serial(values):
    total = 0.0
    for j in range(values.shape[0]):
        total += _shifted(values[j])
    return total

@kept(parallel=True)
def _total_parallel(values):
    total = 0.0
    for j in numba.prange(values.shape[0]):
        total += _shifted(values[j])
    return total

@kept(parallel=False)
def _third_serial(values):
    return values[3]

TABLE = np.zeros(200_000)

@kept(parallel=False)
def _large_serial(values):
    return values[3] + TABLE[0]

def _sum(values):
    total = values[0]
    for j in numba.prange(values.shape[0]):
        total += values[j]
    return total

_sum_serial, _sum_parallel = kept(parallel=False)(_sum), kept(parallel=True)(_sum)
"""

# A twin that takes the real rows and computes nothing: compiling all its signatures takes seconds, not minutes.
EMPTY_CPU = """
from ssd_mining.kernels.cpu.jit import drivers, helper
from ssd_mining.kernels.cpu.logits import gradients, losses
from ssd_mining.kernels.records import DONE

def mine(rows, rule, mined, num_workers):
    mined.pos_mask[:] = mined.hard_negative_mask[:] = False
    driver = _serial if num_workers == 1 else _parallel
    driver(rows.offsets.size - 1, num_workers, *rows, *rule, *mined)

@helper
def _mine_sample(worker, sample, loss, rank, labels, codes, quotas, offsets, shortest, longest,
                 ratio, round_up, extra, min_negatives, min_always, max_negatives, omit_nan,
                 counts, sums, pos_mask, hard_negative_mask):
    counts[DONE, sample] = 1

_serial, _parallel = drivers(_mine_sample)
"""

# What every child knows: `call` the tiny kernel, in a fork of a process that has Numba ready if it must be quick.
CHILD = """
import contextlib, errno, fcntl, json, os, resource, signal, sys, time, warnings
from pathlib import Path
import numpy as np

def call(name="_total_serial", values=4, dtype=float):
    '''Return the answer, how many functions were compiled and loaded, and how many warnings there were.'''
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from ssd_mining.kernels.cpu import jit
        from ssd_mining.kernels import tiny
        answer = float(getattr(tiny, name)(np.arange(values, dtype=dtype)))
    assert all(w.category is RuntimeWarning and "SSD_MINING_CACHE" in str(w.message) for w in caught), caught
    return [answer, *jit.counts(), len(caught)]

def fork(function, *arguments):
    '''Run a function in a fork; return a function that waits for its result, or for the signal that ended it.'''
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        with os.fdopen(theirs, "w") as file:
            json.dump(function(*arguments), file)
        os._exit(0)
    os.close(theirs)
    def wait():
        with os.fdopen(ours) as file:
            text = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return json.loads(text) if status == 0 else status
    return wait

def forked(function, *arguments):
    return fork(function, *arguments)()

def get_ready():
    import numba
    numba.njit(lambda x: x + 1)(1.0)

def entries():
    return sorted(Path(os.environ["SSD_MINING_CACHE_DIR"]).glob("ssd_mining/*/*.bin"))

def on_files(action):
    '''Call `action(event, path)` before any file of the cache is opened for writing, moved or deleted, or made.'''
    def hook(event, arguments):
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "fcntl.lockf"):
            path = str(arguments[0])
            writes = event != "open" or not isinstance(arguments[1], str) or arguments[1][0] != "r"
            if writes and (event == "fcntl.lockf" or os.environ["SSD_MINING_CACHE_DIR"] in path):
                action(event, path)
    sys.addaudithook(hook)
"""

COMPILED, LOADED, UNCACHED = [10.0, 1, 0, 0], [10.0, 0, 1, 0], [10.0, 1, 0, 1]


@pytest.fixture
def package(tmp_path):
    """Return a folder with a copy of the package that has other kernels."""
    kernels = tmp_path / "install" / "ssd_mining" / "kernels"
    shutil.copytree(SOURCES, kernels.parent, ignore=shutil.ignore_patterns("__pycache__"))
    (kernels / "cpu" / "__init__.py").write_text(EMPTY_CPU)
    (kernels / "tiny.py").write_text(TINY)
    (kernels / "tiny_rules.py").write_text(RULES)
    return tmp_path / "install"


@pytest.fixture
def run(package, tmp_path):
    """Return a function that runs code in a process of its own and returns the value of its last line."""

    def run(code, **settings):
        *lines, last = textwrap.dedent(code).strip().splitlines()
        program = "\n".join([CHILD, *lines, f"print(json.dumps({last}))"])
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "SSD_MINING_"))}
        environment |= {"SSD_MINING_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"PYTHONPATH": str(package), **settings}
        environment = {name: value for name, value in environment.items() if value is not None}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


def files(tmp_path):
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_second_process_loads_what_the_first_compiled(run, tmp_path):
    code = "call('_total_parallel')[:1] + call()"
    assert run(code) == [10.0, 10.0, 2, 0, 0]
    assert run(code) == [10.0, 10.0, 0, 2, 0]
    root = tmp_path / "cache" / "ssd_mining"
    assert [path.stat().st_mode & 0o777 for path in (root, *root.iterdir())] == [0o700] * 2
    assert sorted(path.suffix for path in files(tmp_path)) == [".bin", ".bin", ".lock", ".lock"]


def test_the_cache_lies_in_the_users_cache_directory_unless_it_is_moved(run, tmp_path):
    code = """
    get_ready()
    def call_with(**settings):
        os.environ.update(settings)
        return call()
    [forked(call), forked(call), forked(lambda: call_with(XDG_CACHE_HOME=os.environ["OTHER"]))]
    """
    (tmp_path / "home").mkdir()
    home = {"SSD_MINING_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": str(tmp_path / "home")}
    assert run(code, **home, OTHER=str(tmp_path / "xdg")) == [COMPILED, LOADED, COMPILED]
    assert list((tmp_path / "home").rglob("ssd_mining/*/_total_serial-*.bin"))
    assert list((tmp_path / "xdg" / "ssd_mining").glob("*/_total_serial-*.bin"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("settings", [{"SSD_MINING_CACHE": "0"}, {"NUMBA_DISABLE_JIT": "1"}])
def test_nothing_is_written_when_it_is_off(settings, run, tmp_path):
    answer, _, loaded, num_warnings = run("call()", **settings)
    assert (answer, loaded, num_warnings) == (10.0, 0, 0)
    assert not (tmp_path / "cache").exists()


def test_bounds_checked_code_is_kept_apart(run):
    code = "call('_third_serial', 4)"
    checked = """
    from contextlib import suppress
    with suppress(IndexError):
        call('_third_serial', 3)
        raise SystemExit("read past the end")
    call('_third_serial', 4)
    """
    assert run(code) == [3.0, 1, 0, 0]
    assert run(checked, NUMBA_BOUNDSCHECK="1") == [3.0, 1, 0, 0]
    assert run(checked, NUMBA_BOUNDSCHECK="1") == [3.0, 0, 1, 0]
    assert run(code, NUMBA_NUM_THREADS="1") == [3.0, 0, 1, 0]
    assert run(code, NUMBA_CPU_NAME="generic") == [3.0, 1, 0, 0]


def test_a_file_of_the_package_that_is_edited_means_new_code(run, package):
    rules = str(package / "ssd_mining" / "kernels" / "tiny_rules.py")
    versions = [(rules, text) for text in (RULES, RULES.replace("1.0", "2.0"), RULES, RULES + "# a new version")]
    others = ("losses.py", "kernels/tally.py", "a_new/room/of_the_house.py")  # wherever they lie
    (package / "ssd_mining" / "a_new" / "room").mkdir(parents=True)
    versions += [(str(package / "ssd_mining" / name), "# a new version") for name in others]
    code = f"""
    get_ready()
    def edited(file, text):
        Path(file).write_text(text)
        return forked(call)
    [edited(*version) for version in {versions}]
    """
    assert run(code) == [COMPILED, [14.0, 1, 0, 0], LOADED, *[COMPILED] * 4]


def test_what_was_changed_in_memory_is_not_taken_for_what_the_files_say(run):
    code = """
    get_ready()
    def changed(what):
        from ssd_mining.kernels.cpu import jit
        from ssd_mining.kernels import tiny, tiny_rules
        exec(what)
        return call()
    changes = "tiny_rules.OFFSET = 2.0", "tiny._shifted = jit.helper(lambda value: value + 2.0)"
    [forked(call), *[forked(changed, what) for what in changes for _ in range(2)], forked(call)]
    """
    changed = [[14.0, 1, 0, 0], [14.0, 0, 1, 0]]
    assert run(code) == [COMPILED, *changed, *changed, LOADED]


def test_all_that_a_function_is_made_of_in_memory_counts():
    def made(offset=1.0, constant="2.0", operator="+", inner="3.0"):
        scope = {"OFFSET": offset, "intrinsic": numba.extending.intrinsic, "rules": rules}
        exec(  # noqa: S102 - functions that differ in one place
            f"""
def helper(value): return value {operator} {constant}
def factory(cell):
    def function(value): return helper(value) + OFFSET + cell + rules.PREFETCH + intrinsic_of(value)
    return function
@intrinsic
def intrinsic_of(context, value):
    def generate(): return {inner}
    return value(value), generate
function = factory(4.0 if {cell} == 4 else 5.0)
""",
            scope,
        )
        return list(_cache._code(scope["function"]))

    rules, cell = ModuleType("rules"), 4
    rules.__package__, rules.PREFETCH = "ssd_mining.kernels", 1
    expected = made()
    assert made() == expected
    for change in ({"offset": 2.0}, {"constant": "2.5"}, {"operator": "-"}, {"inner": "3.5"}):
        assert made(**change) != expected
    rules.PREFETCH = 2
    assert made() != expected
    rules.PREFETCH, cell = 1, 5
    assert made() != expected


@pytest.mark.parametrize("version", ["numba.__version__", "numpy.__version__", "llvmlite.__version__", "sys.version"])
def test_a_new_version_of_anything_that_makes_code_is_a_new_directory(version, monkeypatch):
    codegen = SimpleNamespace(magic_tuple=lambda: ("triple", "cpu", "features"))
    before = _cache._environment(codegen)
    assert _cache._environment(codegen) == before
    assert _cache._environment(SimpleNamespace(magic_tuple=lambda: ("triple", "cpu", "others"))) != before
    monkeypatch.setattr(version, "1.2.3")
    assert _cache._environment(codegen) != before


def test_a_package_without_source_files_goes_without(run):
    code = """
    Path.rglob = lambda *_: iter(())
    call()
    """
    assert run(code) == UNCACHED


def test_every_dtype_and_every_option_has_an_entry_of_its_own(run):
    code = """
    get_ready()
    names = [("_sum_serial", 4, "f8"), ("_sum_serial", 4, "i8"), ("_sum_parallel", 4, "f8")]
    [[forked(call, *name)[0] for name in names * 2], len(entries())]
    """
    assert run(code) == [[6.0] * 6, 3]


def test_code_that_holds_addresses_is_never_kept(run):
    code = """
    get_ready()
    [forked(call, "_large_serial"), forked(call, "_large_serial"), len(entries())]
    """
    assert run(code) == [[3.0, 1, 0, 0]] * 2 + [0]


def test_files_that_are_newer_than_the_running_modules_do_not_get_their_code(run, package):
    upgrade = f"""
    from ssd_mining.kernels import tiny
    Path({str(package / "ssd_mining" / "kernels" / "tiny_rules.py")!r}).write_text({RULES.replace("1.0", "2.0")!r})
    call()
    """
    assert run(upgrade) == COMPILED
    assert run("call()") == [14.0, 1, 0, 0]


def test_a_driver_that_is_recompiled_by_hand_leaves_the_cache(run):
    code = """
    before = call()[0]
    from ssd_mining.kernels import tiny
    tiny._total_serial.recompile()
    [before, *call()[:3]]
    """
    assert run(code) == [10.0, 10.0, 2, 0]
    assert run("call()") == LOADED


def test_damaged_files_are_compiled_again_and_replaced(run):
    code = """
    get_ready()
    first = forked(call)
    good = entries()[0].read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    other = forked(call, '_third_serial') and next(e for e in entries() if '_third' in e.name).read_bytes()
    bad = [b"", good[:10], good[:32], good[:-1], good[: len(good) // 2], b"garbage" * 9999, bytes(flipped), other]
    def damage(content):
        path = next(e for e in entries() if '_total' in e.name)
        path.write_bytes(content)
        return forked(call), forked(call)
    [first, [damage(content) for content in bad]]
    """
    first, rounds = run(code)
    assert first == COMPILED
    assert rounds == [[COMPILED, LOADED]] * 8


def test_code_that_does_not_load_costs_a_warning(run):
    code = """
    get_ready()
    import pickle
    def spoil(content):
        from ssd_mining.kernels.cpu import cache as _cache
        _cache.Entry.write = lambda entry, _, write=_cache.Entry.write: write(entry, content)
        return call()
    def with_spoiled(content):
        for entry in entries():
            entry.unlink()
        return forked(spoil, content), forked(call)
    forked(call, "_total_serial", 4, "i8")
    other = entries()[0].read_bytes()[32:]
    [with_spoiled(content) for content in (b"no pickle", pickle.dumps(("too", "short")), other)]
    """
    assert run(code) == [[COMPILED, UNCACHED]] * 3


@pytest.mark.parametrize("place", ["no home", "a file", "under a file", "read-only"])
def test_an_unwritable_place_costs_a_warning(place, run, tmp_path):
    (tmp_path / "file").touch()
    code = """
    def refuse(event, path):
        raise OSError(errno.EROFS, "Read-only file system", path)
    if os.environ.get("READ_ONLY"):
        on_files(refuse)
    [*call(), call('_third_serial')[3]]
    """
    settings = {
        "no home": {"SSD_MINING_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": "/proc/none"},
        "a file": {"SSD_MINING_CACHE_DIR": str(tmp_path / "file")},
        "under a file": {"SSD_MINING_CACHE_DIR": str(tmp_path / "file" / "below")},
        "read-only": {"READ_ONLY": "yes"},
    }[place]
    assert run(code, **settings) == [*UNCACHED, 0]
    assert files(tmp_path) == []


def test_a_read_only_place_with_the_code_in_it_serves(run):
    code = """
    def refuse(event, path):
        raise OSError(errno.EROFS, "Read-only file system", path)
    on_files(refuse)
    call()
    """
    assert run("call()") == COMPILED
    assert run(code) == LOADED


def test_the_installed_package_is_never_written(run, package):
    before = sorted(package.rglob("*"))
    assert run("call()") == COMPILED
    assert run("call()", SSD_MINING_CACHE_DIR=str(package / "ssd_mining" / "losses.py")) == UNCACHED
    assert sorted(package.rglob("*")) == before


@pytest.mark.parametrize("full", ["the file grows too large", "the disk takes no more"])
def test_a_full_disk_costs_a_warning_and_leaves_nothing_half_written(full, run, tmp_path):
    limit = {
        "the file grows too large": "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))",
        "the disk takes no more": "os.fsync = lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'full'))",
    }[full]
    assert run(f"{limit}\n[*call(), call('_third_serial')[3]]") == [*UNCACHED, 0]
    assert [path.suffix for path in files(tmp_path)] == [".lock"]
    assert run("call()") == COMPILED
    assert run("call()") == LOADED


def test_a_kill_at_every_step_leaves_the_right_answer(run):
    code = """
    get_ready()
    def killed(step):
        steps = iter(range(step))
        def count(event, path):
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
        on_files(count)
        return call()
    def killed_half_way():
        def fsync(file):
            os.ftruncate(file, os.fstat(file).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = fsync
        return call()
    def rounds():
        base = os.environ["SSD_MINING_CACHE_DIR"]
        for step in range(100):
            os.environ["SSD_MINING_CACHE_DIR"] = f"{base}/{step}"
            first = forked(killed, step)
            yield first, forked(call), forked(call)
            if first != -signal.SIGKILL:
                break
        os.environ["SSD_MINING_CACHE_DIR"] = f"{base}/half"
        yield forked(killed_half_way), forked(call), forked(call)
    list(rounds())
    """
    *steps, last, half = run(code)
    assert len(steps) >= 6  # two directories made, the lock, the time, the file, the move
    assert [killed for killed, _, _ in [*steps, half]] == [-9] * (len(steps) + 1)
    for _, second, third in steps:
        assert second in (COMPILED, LOADED)
        assert third == LOADED
    assert half == [-9, COMPILED, LOADED]
    assert last == [COMPILED, LOADED, LOADED]


def test_two_processes_that_start_cold_at_once_are_right_and_compile_once(run):
    code = """
    get_ready()
    def slow_call(name):
        from ssd_mining.kernels.cpu import cache as _cache
        def fsync(file, fsync=os.fsync):
            fsync(file)
            time.sleep(0.1)
        os.fsync = fsync
        return call(name)
    def one_round(number, names):
        os.environ["SSD_MINING_CACHE_DIR"] += f"/{number}"
        return [wait() for wait in [fork(slow_call, name) for name in names]]
    same = [forked(one_round, number, ["_total_serial"] * 2) for number in range(15)]
    other = [forked(one_round, number, ["_total_serial", "_third_serial"]) for number in range(15, 20)]
    [same, other]
    """
    same, other = run(code)
    assert [sorted(results) for results in same] == [[LOADED, COMPILED]] * 15
    assert other == [[COMPILED, [3.0, 1, 0, 0]]] * 5


def test_a_lock_that_is_never_released_is_not_waited_for_for_ever(run):
    code = """
    get_ready()
    def wait_in_save():
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGSTOP)
        return call()
    def impatient():
        from ssd_mining.kernels.cpu import cache as _cache
        _cache.LOCK_SECONDS = 0.2
        return [*call(), call('_third_serial')[3]]
    process = os.fork()
    if process == 0:
        wait_in_save()
        os._exit(0)
    os.waitpid(process, os.WUNTRACED)
    waited = forked(impatient)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    [waited, forked(call), forked(call)]
    """
    assert run(code) == [[*UNCACHED, 0], COMPILED, LOADED]


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "MemoryError"])
def test_a_compilation_that_fails_lets_go_of_the_lock(error, run):
    code = f"""
    get_ready()
    def fail():
        from numba.core import dispatcher
        from ssd_mining.kernels.cpu import jit
        def compile(*_):
            raise {error}
        kept, dispatcher._FunctionCompiler.compile = dispatcher._FunctionCompiler.compile, compile
        with contextlib.suppress({error}):
            call()
            raise SystemExit("it did not fail")
        dispatcher._FunctionCompiler.compile = kept
    fail()
    forked(call)
    """
    assert run(code) == [10.0, 2, 0, 0]  # the failure counts as one


def test_a_directory_that_is_not_private_is_neither_read_nor_written(run):
    code = """
    get_ready()
    def call_as_if_of_another(directory):
        def lstat(self, lstat=Path.lstat):
            status = lstat(self)
            return os.stat_result([*status[:4], status.st_uid + (self == directory), *status[5:]])
        Path.lstat = lstat
        return call()
    def through_a_link(directory):
        elsewhere = directory.with_name("elsewhere")
        directory.rename(elsewhere)
        directory.symlink_to(elsewhere)
        result = forked(call)
        directory.unlink()
        elsewhere.rename(directory)
        return result
    def with_mode(mode, directory):
        directory.chmod(mode)
        result = forked(call)
        directory.chmod(0o700)
        return result
    first, entry = forked(call), entries()[0]
    stamp = entry.stat().st_mtime_ns
    faulty = [
        (forked(call_as_if_of_another, directory), with_mode(0o722, directory), with_mode(0o744, directory),
         through_a_link(directory)) for directory in (entry.parent, entry.parent.parent)
    ]
    [first, faulty, forked(call), entry.stat().st_mtime_ns - stamp, len(entries())]
    """
    assert run(code) == [COMPILED, [[UNCACHED] * 4] * 2, LOADED, 0, 1]


def test_a_failure_leaves_alone_what_was_saved_before_it(run):
    code = """
    get_ready()
    def fail_later():
        first, root = call("_total_serial"), entries()[0].parent.parent
        root.chmod(0o755)
        later = call("_total_serial", 4, "i8")
        root.chmod(0o700)
        return [*first, *later]
    [forked(fail_later), forked(call, "_total_serial"), forked(call, "_total_serial", 4, "i8")]
    """
    assert run(code) == [[10.0, 1, 0, 0, 10.0, 2, 0, 1], [10.0, 0, 1, 0], [10.0, 1, 0, 0]]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(run, tmp_path):
    assert run("call()") == COMPILED
    os.chown(tmp_path / "cache" / "ssd_mining", 12345, 12345)
    assert run("call()") == UNCACHED


def test_a_numba_that_moved_its_internals_costs_a_warning(run):
    code = """
    import importlib, numba
    get_ready()
    def without(moved):
        def import_module(name, package=None, real=importlib.import_module):
            if name == moved:
                raise ModuleNotFoundError(name)
            return real(name, package)
        if moved.startswith("_"):
            delattr(numba.core.compiler.CompileResult, moved)
        else:
            importlib.import_module = import_module
        return [*call(), call("_third_serial")[3]]
    moved = "_rebuild", "_reduce", "numba.core.serialize", "numba.core.compiler_lock"
    [forked(without, name) for name in moved]
    """
    assert run(code) == [[*UNCACHED, 0]] * 4


def test_directories_of_old_versions_are_deleted_but_for_the_newest(run, tmp_path):
    root = tmp_path / "cache" / "ssd_mining"
    for number in range(12):
        old = root / f"{number:032x}"
        old.mkdir(parents=True, mode=0o700)
        (old / "entry.bin").touch()
        os.utime(old, (number, number))
    (root / "not ours").mkdir()
    root.chmod(0o700)
    assert run("call()") == COMPILED
    left = {path.name for path in root.iterdir()}
    assert left >= {f"{number:032x}" for number in range(5, 12)} | {"not ours"}
    assert len(left) == 9
    assert run("call()") == LOADED


def test_after_warmup_no_dtype_and_no_layout_compiles_anything(run):
    code = """
    import itertools
    import ssd_mining as sm
    from ssd_mining.engine import run
    from ssd_mining.kernels.cpu import jit
    from ssd_mining import warmup
    def read_only(array):
        array = array.copy()
        array.flags.writeable = False
        return array
    layouts = [
        np.asarray, np.asfortranarray, read_only, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()), lambda a: a.tolist(), lambda a: a[:0], lambda a: a[:, :0],
    ]
    keywords = [{}, {"valid": np.ones((3, 5), bool)}, {"num_negatives": 2}, {"num_negatives": [1, 2, 3]}]
    keywords += [{"nan_policy": "omit"}, {"min_negatives": 2, "max_negatives": 3}, {"rank_by": np.ones((3, 5))}]
    def call_all():
        run.PARALLEL_ANCHORS = 0
        losses = [np.zeros((3, 5), dtype) for dtype in "efdbBhHiIlLqQ"]
        classes = [np.zeros((3, 5), dtype) for dtype in "bBhHiIlLqQ"]
        masks = [np.zeros((3, 5), bool), np.eye(4, dtype="f4")[np.zeros((3, 5), int)]]
        for array, labels, num_threads in itertools.product(losses, classes + masks, (None, 1)):
            background = {"background": 0} if labels.dtype.kind in "iu" else {}
            for call in sm.confidence_loss, sm.mine_hard_negatives:
                call(array, labels, **background, num_threads=num_threads)
        for layout, labels in itertools.product(layouts, [classes[0], classes[6], masks[0]]):
            background = {"background": 0} if labels.dtype.kind in "iu" else {}
            sm.confidence_loss(layout(losses[1]), layout(labels), **background)
        for more, array in itertools.product(keywords, losses[1:3]):
            sm.confidence_loss(array, classes[6], background=0, **more)
    before, done, after = jit.counts(), warmup(), jit.counts()
    if os.environ.get("CALLS"):
        call_all()
    [before, [done.compiled, done.loaded], after, jit.counts(), [type(done.seconds).__name__]]
    """
    assert run(code) == [[0, 0], [16, 0], [16, 0], [16, 0], ["float"]]
    assert run(code, CALLS="all") == [[0, 0], [0, 16], [0, 16], [0, 16], ["float"]]
    assert run(code, NUMBA_NUM_THREADS="1")[1] == [0, 8]


def test_after_warmup_of_logits_no_loss_and_no_gradient_compiles_anything(run):
    code = """
    import ssd_mining as sm
    from ssd_mining.engine import lazy_losses, run
    from ssd_mining.kernels.cpu import jit
    done, after = sm.warmup(loss_dtypes=["float32"], label_dtypes=["u1", "i8"], logit_dtypes=["f4"]), jit.counts()
    lazy_losses.PARALLEL_LOGITS = run.PARALLEL_ANCHORS = 0
    labels = np.zeros((3, 70), int)
    labels[:, 5] = 1
    for dtype, num_threads in (("f4", 1), ("f4", None), ("f2", 1)):
        logits = np.zeros((3, 70, 4), dtype)
        for classification in (sm.Softmax(), sm.Softmax(label_smoothing=0.1), sm.Sigmoid(), sm.Focal()):
            where = {"classification": classification, "background": 0, "num_threads": num_threads}
            sm.multibox_loss(logits, labels, with_gradients=True, **where)
            sm.multibox_loss(logits, np.eye(4, dtype="f4")[labels], **where)
            sm.mine_logits(logits, labels, rank_by="foreground_max", **where)
    [done.compiled + done.loaded, jit.counts() == after]
    """
    assert run(code) == [12, True]


def test_warmup_compiles_what_it_is_asked_for_and_starts_no_thread(run):
    pytest.importorskip("numba.np.ufunc.omppool", reason="Numba's workqueue starts its threads when it compiles")
    code = """
    import numba
    from ssd_mining import warmup
    def threads():
        return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
    before = threads()
    done = warmup(loss_dtypes=["f4", "f2"], label_dtypes=[bool, np.int64])
    again = warmup(loss_dtypes=[np.float32], label_dtypes=["u1", "u8"])
    [done.compiled, done.loaded, again.compiled, again.loaded, threads() - before]
    """
    assert run(code, NUMBA_THREADING_LAYER="omp") == [4, 0, 0, 0, 0]
    assert run(code, NUMBA_THREADING_LAYER="omp") == [0, 4, 0, 0, 0]


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        ({"loss_dtypes": ["x"]}, "'x'"),
        ({"label_dtypes": ["f4"]}, "labels: expected"),
        ({"loss_dtypes": "c"}, "loss"),
        ({"logit_dtypes": ["i4"]}, "logits: expected"),
    ],
)
def test_warmup_refuses_what_losses_or_labels_cannot_be(dtypes, message):
    from ssd_mining import warmup

    with pytest.raises(TypeError, match=message):
        warmup(**dtypes)


def test_the_real_kernels_load_from_the_cache_with_the_same_bits(run):
    code = """
    import ssd_mining as sm
    from ssd_mining.kernels.cpu import jit
    rng = np.random.default_rng(0)
    result = sm.mine_hard_negatives(rng.gamma(1, 1, (4, 500)).astype("f4"), rng.random((4, 500)) < 0.05)
    [jit.counts(), result.negative_sum.tobytes().hex(), result.hard_negative_mask.tobytes().hex()]
    """
    real = {"PYTHONPATH": str(SOURCES.parent)}
    compiled, loaded = run(code, **real), run(code, **real)
    assert (compiled[0], loaded[0]) == ([1, 0], [0, 1])
    assert compiled[1:] == loaded[1:]
