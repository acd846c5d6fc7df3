"""The kernel contract.

One module per device, with the same public function of the same signature: ``mine(rows, rule, mined, num_workers)``
reads `Rows`, obeys `Rule` and fills `Mined`. ``rules`` holds what the devices share: plain scalar Python, jitted
by each of them.

- Inputs are checked by the caller, C-contiguous, and never written.
- No validation and no exceptions: a kernel counts what is wrong (``num_nan``, ``num_bad``), the caller raises.
- No allocation inside the parallel loop: scratch comes in, one row per worker.
- One sample is reduced by one worker in anchor order, so that the result has the same bits for every number of
  threads and every split of the batch. ``done`` is written last: a lost sample is seen.
- Sums are float64. Indices are never narrowed. No fastmath.
- Every scan is bounded by the length of the row, and every write is in bounds even if another thread changes the
  inputs during the call.
"""
