"""One-hot labels on the CPU: every row is checked and its role found, in one pass over the scores.

64 rows fill as many words as there are classes, one bit per score. Nearly all rows are background, so each word is
compared with the word that 64 rows of background have. Only the ones that it lacks, and those that it has beyond, are
looked at one by one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_mining.kernels.cpu import lanes
from ssd_mining.kernels.cpu.jit import drivers, helper
from ssd_mining.kernels.cpu.lanes import LANES, ONE, Row, Word
from ssd_mining.kernels.cpu.mining import FULL, NO_WORD
from ssd_mining.kernels.records import NEGATIVE, POSITIVE

# Rows that one worker reads at once: whole blocks. A piece of 21 classes takes 5 microseconds.
PIECE = 16 * LANES


@helper
def _rows_of(word: Word, first: int, num_classes: int) -> Word:
    """Return the rows, a bit each, of the scores whose bits are set. `first`: the place of the lowest bit."""
    rows = NO_WORD
    while word != NO_WORD:
        rows |= ONE << np.uint64((first + lanes.lowest(word)) // num_classes)
        word &= word - ONE
    return rows


@helper
def _write(roles: Row, start: int, rows: Word, role: int) -> None:
    while rows != NO_WORD:
        roles[start + lanes.lowest(rows)] = role
        rows &= rows - ONE


@helper
def _read_piece(
    worker: int, piece: int,  # noqa: ARG001 - the driver's signature
    scores: Row, one: int, background: Row, has_column: bool, role_of_empty: int, roles: Row, done: Row,
) -> None:  # fmt: skip
    num_classes, num_empty = background.shape[0], 0
    bits, zero = scores.dtype.type(one), scores.dtype.type(0)
    for start in range(piece * PIECE, min((piece + 1) * PIECE, roles.shape[0]), LANES):
        lacking, beyond, num_beyond, are_known = NO_WORD, NO_WORD, 0, True
        for i in range(min(num_classes, (scores.shape[0] - start * num_classes + LANES - 1) // LANES)):
            place = start * num_classes + i * LANES
            existing = FULL >> np.uint64(max(0, place + LANES - scores.shape[0]))
            lanes.prefetch(scores, place)
            ones = lanes.equal(scores, place, bits)
            are_known &= ones | lanes.equal(scores, place, zero) == existing
            others = ones ^ background[i] & existing
            if others != NO_WORD:
                lacking |= _rows_of(others & background[i], i * LANES, num_classes)
                beyond |= _rows_of(others & ones, i * LANES, num_classes)
                num_beyond += lanes.count(others & ones)
        rows = FULL >> np.uint64(max(0, start + LANES - roles.shape[0]))
        empty = rows & ~beyond
        if has_column:
            empty &= lacking
            are_known &= lanes.count(beyond) == num_beyond and beyond & ~lacking == NO_WORD
            _write(roles, start, empty, role_of_empty)
        if not are_known:
            done[piece] = -1
            return
        _write(roles, start, beyond, POSITIVE)
        num_empty += lanes.count(empty)
    done[piece] = 1 + num_empty


_READ = drivers(_read_piece)


def one_hot_roles(
    scores: NDArray[Any], column: int, role_of_empty: int, num_workers: int
) -> tuple[NDArray[np.uint8], int] | None:
    """Return the roles of rows of scores, (n, C), and how many rows are all zero; None if some row is not one-hot.

    None also for arrays that no kernel reads. `column` is that of background; C: there is none, and a row may have
    several ones.
    """
    num_rows, num_classes = scores.shape
    if scores.size < LANES or not (scores.flags.c_contiguous and scores.flags.aligned):
        return None
    bits = scores.reshape(-1).view(f"u{scores.itemsize}")
    bits.flags.writeable = False
    one = int(np.ones(1, scores.dtype).view(bits.dtype)[0])
    background = np.zeros(num_classes * LANES, np.bool_)
    background[column::num_classes] = column < num_classes
    words = np.packbits(background, bitorder="little").view(np.uint64)
    roles = np.full(num_rows, NEGATIVE if column < num_classes else role_of_empty, np.uint8)
    done = np.zeros(-(-num_rows // PIECE), np.int64)
    num_workers = max(1, min(num_workers, done.size))
    _READ[num_workers > 1](done.size, num_workers, bits, one, words, column < num_classes, role_of_empty, roles, done)
    return (roles, int(done.sum()) - done.size) if (done > 0).all() else None
