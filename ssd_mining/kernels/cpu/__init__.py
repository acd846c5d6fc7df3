"""The CPU twin, compiled by Numba.

Read `jit` (how a body becomes a serial and a parallel driver), `mining`, `analysis`, then the losses: `logits`,
`softmax`, `sigmoid`, and `tiles`, in which 64 anchors are computed at once. `lanes` and `elementary` hold the few LLVM
intrinsics and polynomials under them; `cache` keeps the machine code on disk.
"""

from ssd_mining.kernels.cpu.analysis import analyse
from ssd_mining.kernels.cpu.logits import gradients, losses
from ssd_mining.kernels.cpu.mining import mine

__all__ = ["analyse", "gradients", "losses", "mine"]
