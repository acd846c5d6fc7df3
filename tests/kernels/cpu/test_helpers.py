"""Helpers become parts of the drivers that call them, and are compiled as Numba does it where its internals moved."""

import numba
import pytest

from ssd_mining.kernels.cpu import helpers, jit

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled with the JIT off")


def compiled():
    """Compile a driver, its helper, and the helper of that; return the driver, and whether each is machine code."""

    @jit.helper
    def half(x):
        return x / 2

    @jit.helper
    def quarter(x):
        return half(half(x))

    @numba.njit
    def driver(x):
        return quarter(x) + half(x)

    driver(2.0)
    codes = [code for function in (half, quarter, driver) for code in function.overloads.values()]
    symbols = [(code.library.codegen._engine, code.fndesc.llvm_func_name) for code in codes]
    return driver, [engine.is_symbol_defined(name) for engine, name in symbols]


def test_a_helper_is_machine_code_in_its_driver_alone():
    driver, are_code = compiled()
    assert are_code == [False, False, True]
    assert (driver(8.0), driver(float("inf"))) == (6.0, float("inf"))


def test_a_numba_whose_internals_moved_compiles_helpers_in_its_own_way(monkeypatch):
    monkeypatch.setattr(helpers, "_PRIVATE", ("_no_such_thing",))
    driver, are_code = compiled()
    assert are_code == [True, True, True]
    assert driver(8.0) == 6.0
