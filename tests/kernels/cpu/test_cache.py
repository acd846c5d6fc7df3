"""The guarded cache: who finds which code in it.

Everything runs in processes of its own, most of it on a copy of the package whose kernel is tiny: what is tested is
what `cache` does with any driver.
"""

import os
from types import ModuleType, SimpleNamespace

import numba
import pytest

from ssd_mining.kernels.cache import code_of, entry_of
from ssd_mining.kernels.cpu import cache as _cache
from tests.support.batches import printed
from tests.support.cache import COMPILED, LOADED, RULES, SOURCES, UNCACHED, files

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.name == "nt", reason="these tests fork and send signals")]


def test_a_second_process_loads_what_the_first_compiled(run, tmp_path):
    code = "call('_total_parallel')[:1] + call()"
    assert run(code) == [10.0, 10.0, 2, 0, 0]
    assert run(code) == [10.0, 10.0, 0, 2, 0]
    root = tmp_path / "cache" / "ssd_mining"
    assert [path.stat().st_mode & 0o777 for path in (root, *root.iterdir())] == [0o700] * 2
    assert sorted(path.suffix for path in files(tmp_path)) == [".bin", ".bin", ".lock", ".lock"]


CALL = """
import sys
import numpy as np
import ssd_mining as sm
sm.confidence_loss(np.ones((2, 100), np.float32), np.zeros((2, 100), np.uint8), background=0)
print("numba.cpython.listobj" in sys.modules)
"""


def test_code_from_the_cache_is_loaded_without_what_numba_compiles_with():
    assert [printed(CALL)[-1] for _ in range(2)][1] == "False"  # the first may have compiled it


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        return list(code_of(scope["function"]))

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


def directory_for(features):
    codegen = SimpleNamespace(magic_tuple=lambda: ("triple", "cpu", features))
    return entry_of("name", (), _cache._environment(codegen)).path.parent


@pytest.mark.parametrize("version", ["numba.__version__", "numpy.__version__", "llvmlite.__version__", "sys.version"])
def test_a_new_version_of_anything_that_makes_code_is_a_new_directory(version, monkeypatch):
    before = directory_for("features")
    assert directory_for("features") == before
    assert directory_for("others") != before
    monkeypatch.setattr(version, "1.2.3")
    assert directory_for("features") != before


@pytest.mark.parametrize("name", ["BOUNDSCHECK", "OPT", "NUMBA_NUM_THREADS", "ENABLE_CUDASIM", "_HAVE_YAML"])
def test_only_a_setting_that_changes_code_is_a_new_directory(name, monkeypatch):
    before = directory_for("features")
    monkeypatch.setattr(numba.config, name, "another")
    assert (directory_for("features") != before) == (name in {"BOUNDSCHECK", "OPT"})


@pytest.mark.slow
def test_a_package_without_source_files_goes_without(run):
    code = """
    Path.rglob = lambda *_: iter(())
    call()
    """
    assert run(code) == UNCACHED


@pytest.mark.slow
def test_every_dtype_and_every_option_has_an_entry_of_its_own(run):
    code = """
    get_ready()
    names = [("_sum_serial", 4, "f8"), ("_sum_serial", 4, "i8"), ("_sum_parallel", 4, "f8")]
    [[forked(call, *name)[0] for name in names * 2], len(entries())]
    """
    assert run(code) == [[6.0] * 6, 3]


@pytest.mark.slow
def test_code_that_holds_addresses_is_never_kept(run):
    code = """
    get_ready()
    [forked(call, "_large_serial"), forked(call, "_large_serial"), len(entries())]
    """
    assert run(code) == [[3.0, 1, 0, 0]] * 2 + [0]


@pytest.mark.slow
def test_files_that_are_newer_than_the_running_modules_do_not_get_their_code(run, package):
    upgrade = f"""
    from ssd_mining.kernels import tiny
    Path({str(package / "ssd_mining" / "kernels" / "tiny_rules.py")!r}).write_text({RULES.replace("1.0", "2.0")!r})
    call()
    """
    assert run(upgrade) == COMPILED
    assert run("call()") == [14.0, 1, 0, 0]


@pytest.mark.slow
def test_a_driver_that_is_recompiled_by_hand_leaves_the_cache(run):
    code = """
    before = call()[0]
    from ssd_mining.kernels import tiny
    tiny._total_serial.recompile()
    [before, *call()[:3]]
    """
    assert run(code) == [10.0, 10.0, 2, 0]
    assert run("call()") == LOADED


@pytest.mark.slow
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
