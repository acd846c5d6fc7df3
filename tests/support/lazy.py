"""Losses, ranks and gradients of checked logits, by the functions that the engine calls."""

import numpy as np

from ssd_mining.engine import lazy_losses
from ssd_mining.engine.run import call_of
from ssd_mining.inputs.logits import check_logits


class Lazy:
    """Checked logits and where they are computed: ``lazy[first:last]`` computes the losses of some samples."""

    def __init__(self, logits, call):
        self.logits, self.call, self.dtype = logits, call, logits.dtype
        self.shape = logits.values.shape[:2]

    def __getitem__(self, samples):
        return lazy_losses.losses(self.logits, self.call, samples)

    def ranks(self, kind, background):
        return Lazy(self.logits.ranks(kind, background), self.call)

    def gradients(self, factors):
        factors = np.ravel(factors).astype(float)
        rows = lazy_losses.gradients(self.logits, np.arange(factors.size), factors, self.call)
        return rows.reshape(self.logits.values.shape)


def lazy(x, y, spec, *, backend=None, num_threads=None, **how):
    """Check logits and labels, to compute what is asked for."""
    return Lazy(check_logits(x, y, spec, **how), call_of(backend, num_threads))
