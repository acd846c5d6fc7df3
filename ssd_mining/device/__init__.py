"""Arrays that already lie on a GPU: they are mined and differentiated where they are, and the results stay there.

The public functions come here with arrays of torch, CuPy, Numba or any library with DLPack. Read in this order:

- `arrays`: the memory, the stream and the layout of a foreign array, and how to allocate more of its kind.
- `mining`: a batch is checked and mined (`mine`); `Resident` holds the results and copies them to the host on demand.
- `losses`: losses from logits (`losses`), and the mining of them (`mine`).
- `multibox`: the whole loss, in two steps (`check`, `computed`).

The contract: `inputs` checks *stand-ins*, NumPy arrays of the same dtype and shape without memory, so the messages are
those of the host. The kernels count NaN and bad labels. The host waits for these counts only if one of them can be an
error, and then mines a copy itself, which raises the error. Nothing else waits for the device. Of a foreign array we
use only its memory, because not every library can do more.
"""
