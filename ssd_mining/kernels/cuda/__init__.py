"""The CUDA twin: the kernels for NVIDIA GPUs, with the contract of `ssd_mining.kernels`.

`mine`, `losses` and `gradients` take arrays of the host, as those of the CPU twin do. The functions ``enqueue...``
take arrays of a device, for `ssd_mining.device`, and return before the device has done its work. Read in this order:

- `runtime`: is CUDA there; streams and memory; how a Python function becomes a kernel, which takes addresses.
- `cubins`: machine code, linked, kept on disk, loaded and launched. `copies`: large arrays on their way over the bus.
- `sums`: what the threads of a block add up together. `digits`: ranks as sortable keys, and histograms of their digits.
- `short_rows`, `long_rows`: mining with one block of threads per row, or one per chunk of a row. `mining` chooses.
- `logit_losses`: one thread per anchor. `logit_gradients`: one warp per anchor. `logits` calls them for host arrays.
- `multibox`: localization, the division, and the factors of the gradients.
- `pack`: arrays of any layout, labels of any form.

Beyond the contract: the arrays of a thread become registers, never local memory (the compile tests look at the
machine code), and only integers are added atomically, so that every run gives the same bits.
"""

from ssd_mining.kernels.cuda.logits import gradients, losses
from ssd_mining.kernels.cuda.mining import mine

__all__ = ["gradients", "losses", "mine"]
