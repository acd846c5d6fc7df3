"""The CPU twin."""

from ssd_mining.kernels.cpu.analysis import analyse
from ssd_mining.kernels.cpu.logits import gradients, losses
from ssd_mining.kernels.cpu.mining import mine

__all__ = ["analyse", "gradients", "losses", "mine"]
