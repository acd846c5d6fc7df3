"""The CPU twin, compiled by Numba.

Read `jit` (how a body becomes a serial and a parallel driver), `mining`, `analysis`, then the losses: `logits`,
`softmax`, `sigmoid`, and `tiles`, which compute 64 anchors at once. `lanes` and `elementary` hold the LLVM intrinsics
and polynomials under them; `cache` keeps the machine code on disk.
"""

from importlib import import_module
from typing import Any

_MODULES = {"mine": "mining", "losses": "logits", "gradients": "logits", "analyse": "analysis"}


def __getattr__(name: str) -> Any:
    """Load a kernel when it is first called: each takes Numba a tenth of a second."""
    if name not in _MODULES:
        msg = f"module 'ssd_mining.kernels.cpu' has no attribute {name!r}"
        raise AttributeError(msg)
    function = getattr(import_module(f"ssd_mining.kernels.cpu.{_MODULES[name]}"), name)
    globals()[name] = function
    return function
