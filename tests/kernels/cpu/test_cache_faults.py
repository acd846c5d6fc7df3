"""The guarded cache where something goes wrong: never a wrong answer, never an exception, at most one warning."""

import os

import pytest

from tests.support.cache import COMPILED, LOADED, UNCACHED, files

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.name == "nt", reason="these tests fork and send signals")]


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


@pytest.mark.slow
def test_code_that_does_not_load_costs_a_warning(run):
    code = """
    get_ready()
    import pickle
    def spoil(content):
        from ssd_mining.kernels import cache as _cache
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_installed_package_is_never_written(run, package):
    before = sorted(package.rglob("*"))
    assert run("call()") == COMPILED
    assert run("call()", SSD_MINING_CACHE_DIR=str(package / "ssd_mining" / "losses.py")) == UNCACHED
    assert sorted(package.rglob("*")) == before


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_that_start_cold_at_once_are_right_and_compile_once(run):
    code = """
    get_ready()
    def slow_call(name):
        from ssd_mining.kernels import cache as _cache
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


@pytest.mark.slow
def test_a_lock_that_is_never_released_is_not_waited_for_for_ever(run):
    code = """
    get_ready()
    def wait_in_save():
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGSTOP)
        return call()
    def impatient():
        from ssd_mining.kernels import cache as _cache
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


@pytest.mark.parametrize("error", ["KeyboardInterrupt", pytest.param("MemoryError", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(run, tmp_path):
    assert run("call()") == COMPILED
    os.chown(tmp_path / "cache" / "ssd_mining", 12345, 12345)
    assert run("call()") == UNCACHED


@pytest.mark.slow
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


@pytest.mark.slow
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
