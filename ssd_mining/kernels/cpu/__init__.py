"""The CPU twin, compiled by Numba.

Read `jit` (how a body becomes a loop over samples, of one thread or several), `crew` (the threads that help), `mining`,
`one_hot`, `analysis`, `matching`, then the losses: `logits`, `softmax`, `sigmoid`, and `tiles`, which compute 64
anchors at once. `lanes`, `matrices` and `elementary` hold the LLVM intrinsics and polynomials under them; `cache` keeps
the code.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Load a kernel when it is first called: each takes Numba a tenth of a second."""
    kernel: Any
    match name:
        case "mine":
            from ssd_mining.kernels.cpu.mining import mine as kernel
        case "one_hot_roles":
            from ssd_mining.kernels.cpu.one_hot import one_hot_roles as kernel
        case "losses":
            from ssd_mining.kernels.cpu.logits import losses as kernel
        case "gradients":
            from ssd_mining.kernels.cpu.logits import gradients as kernel
        case "analyse":
            from ssd_mining.kernels.cpu.analysis import analyse as kernel
        case "match":
            from ssd_mining.kernels.cpu.matching import match as kernel
        case _:
            msg = f"module 'ssd_mining.kernels.cpu' has no attribute {name!r}"
            raise AttributeError(msg)
    globals()[name] = kernel
    return kernel
