"""A small batch, and the layouts in which a caller may have its arrays."""

import numpy as np

RNG = np.random.default_rng(11)


LOSS = (RNG.integers(0, 64, (6, 40)) / 8).astype(np.float32)


CLASSES = np.where(RNG.random(LOSS.shape) < 0.1, RNG.integers(1, 4, LOSS.shape), 0)


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert array.itemsize == 1 or not view.flags.aligned
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


class Subclass(np.ndarray):
    pass


LAYOUTS = {
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "every second sample": lambda a: np.repeat(a, 2, axis=0)[::2],
    "negative strides": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": unaligned,
    "a subclass": lambda a: a.view(Subclass),
    "a list": lambda a: a.tolist(),
}
