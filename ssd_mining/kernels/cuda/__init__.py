"""The CUDA twin: the kernels for NVIDIA GPUs, with the contract of `ssd_mining.kernels`.

`mine`, `losses` and `gradients` take arrays of the host, as those of the CPU twin do. The functions ``enqueue...``
take arrays of a device, for `ssd_mining.device`, and return before the device has done its work. Read in this order:

- `runtime`: what is missing here, streams, memory, and how Python becomes a kernel. A kernel takes addresses.
- `digits`, `short_rows`, `long_rows`, `mining`: ranks as sortable keys and their histograms; a row per block of
  threads; a chunk of a row per block; which rows take which way.
- `logit_losses`, `logit_gradients`, `logits`, `multibox`: a thread per anchor; the whole loss.
- `pack`: arrays of any layout, labels of any form.

Beyond the contract: what a thread knows stays in its registers, never in local memory (the compile tests look at the
machine code), and only integers are added atomically, so that every run gives the same bits.
"""

from ssd_mining.kernels.cuda.logits import gradients, losses
from ssd_mining.kernels.cuda.mining import mine

__all__ = ["gradients", "losses", "mine"]
