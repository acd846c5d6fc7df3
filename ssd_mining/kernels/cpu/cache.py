"""How code of the CPU gets into the guarded cache and out of it.

Numba's own ``cache=True`` keeps running old machine code when only a helper in another file changes, mixes builds
with and without bounds checks, and raises in `import` or in every call when its directory is read-only, full or
damaged.

This is the only file that touches Numba's internals: where a driver looks for compiled code (``_cache``), and how
a compiled function is taken apart and put together again (``_reduce``, ``_rebuild``).
"""

import contextlib
import importlib
import pickle
from typing import Any

from ssd_mining.kernels.cache import Entry, code_of, entry_of, is_on, never_raise, prune, settings


def guard(driver: Any) -> None:
    """Give a jitted function the cache, unless ``SSD_MINING_CACHE=0`` says otherwise."""
    if is_on():
        with never_raise():
            GuardedCache(driver)


class GuardedCache:
    """What a driver asks for compiled code before it compiles, and gives it to afterwards.

    It stands where Numba's own cache would stand, and is called under Numba's compiler lock: one call at a time.
    """

    cache_path = None  # Numba's `stats` reads it

    def __init__(self, driver: Any) -> None:
        # Every name of Numba's that is not public is looked up here: if one is gone, no driver is touched.
        self._compiler_lock = importlib.import_module("numba.core.compiler_lock").global_compiler_lock
        self._dumps = importlib.import_module("numba.core.serialize").dumps
        self._rebuild = importlib.import_module("numba.core.compiler").CompileResult._rebuild  # noqa: SLF001
        self._function, self._options, self._compile = driver.py_func, driver.targetoptions, driver.compile
        self._file_lock = contextlib.ExitStack()  # held from a miss to the end of `compile`
        self._missed: Entry | None = None  # what is being compiled, to be saved
        self._enabled = True
        driver._cache, driver.compile = self, self.compile  # noqa: SLF001

    def compile(self, signature: tuple[Any, ...]) -> Any:
        """Compile as the driver does, and let go of the file lock however that ends, Ctrl-C included."""
        with self._compiler_lock, contextlib.ExitStack() as self._file_lock:
            return self._compile(signature)

    def load_overload(self, signature: tuple[Any, ...], target_context: Any) -> Any:
        """Return the saved code of a signature; None, with the file lock held, where it is to be compiled."""
        if self._options.get("_nrt", True):  # code that counts references needs Numba's runtime, and 0.2 s to load it
            target_context.refresh()
        self._missed = None
        if not self._enabled or not is_on():
            return None
        with never_raise():
            entry = self._entry(signature, target_context.codegen())
            payload = entry.read()
            if payload is None:
                self._file_lock.enter_context(entry.lock())
                payload = entry.read()  # whoever held the lock has probably saved it
            if payload is not None:
                return self._loaded(payload, signature, target_context)
            self._missed = entry
        return None

    def save_overload(self, _signature: tuple[Any, ...], result: Any) -> None:
        """Save what was compiled after a miss, and delete what was saved for old versions."""
        with never_raise():
            if self._missed is not None and not result.lifted and not result.library.has_dynamic_globals:
                self._missed.write(self._dumps(result._reduce()))  # noqa: SLF001
                prune(self._missed.directories[0])

    def flush(self) -> None:
        """Stop caching this driver: ``recompile()`` asks for it, because the code was changed by hand."""
        self._enabled = False

    def _loaded(self, payload: bytes, signature: tuple[Any, ...], target_context: Any) -> Any:
        result = self._rebuild(target_context, *pickle.loads(payload))  # noqa: S301 - from a private directory
        if result.signature.args != signature:
            msg = f"expected code for {signature}, got code for {result.signature.args}"
            raise ValueError(msg)
        return result

    def _entry(self, signature: tuple[Any, ...], codegen: Any) -> Entry:
        types = [(str(kind), getattr(kind, "fields", ())) for kind in signature]
        identity = (self._function.__module__, types, sorted(self._options.items()), list(code_of(self._function)))
        return entry_of(self._function.__name__, identity, _environment(codegen))


def _environment(codegen: Any) -> tuple[Any, ...]:
    """Return what decides code of the CPU and is the same for every function, besides sources and versions."""
    return codegen.magic_tuple(), [item for item in settings() if "CUDA" not in item[0]]
