"""How Numba compiles a helper: as a part of the drivers that call it, not to machine code of its own.

Numba optimises every function that it compiles, and makes machine code of it, which nobody would call: a driver takes
in the code of its helpers and is optimised as a whole. So a helper is left as it is until then, which takes a third to
two fifths off the time to compile, and gives drivers of the same speed (docs/decisions/0013-helpers.md). A pass and a
library of Numba's are replaced; where those have moved, helpers are compiled as Numba does it.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

# What is private to Numba; all of it as in 0.61 to 0.68.
_PRIVATE = (
    "_linking_libraries",
    "_final_module",
    "_get_module_for_linking",
    "_finalize_dynamic_globals",
    "_finalized",
)


class _Part(JITCodeLibrary):
    """The code of a helper, and of the helpers that it calls, until a driver takes it in."""

    def finalize(self) -> None:
        """Take in the helpers that this one calls. Nothing is optimised, and nothing becomes machine code."""
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)  # noqa: SLF001 - see _PRIVATE
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Numba's pass that makes code of a typed function, without what makes it callable from Python."""

    _name = "ssd_mining_part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Run the pass."""
        library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        if not all(hasattr(library, name) for name in _PRIVATE):
            return bool(super().run_pass(state))
        state.library, state.flags.no_compile = library, True
        super().run_pass(state)
        name: Any = [].append  # a built-in function like no other, by which Numba finds the code where it is called
        state.targetctx.insert_user_function(name, state.cr.fndesc, [library])
        state.cr = state.cr._replace(cfunc=name)
        return True


class HelperCompiler(CompilerBase):
    """The compiler of helpers, for the `pipeline_class` of `numba.njit`."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's passes with one in the place of another."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_PartLowering if each is NativeLowering else each, text) for each, text in passes.passes]
        passes.finalize()
        return [passes]
