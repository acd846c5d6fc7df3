"""The kernels: one twin for each device, and the rules that the twins share.

Read `records` (what goes in and out), `rules` and `loss_rules` (each rule, written once), then a twin: ``cpu/``,
``cuda/``, or ``reference``, the NumPy oracle behind the same functions.

A twin has the functions ``mine``, ``losses`` and ``gradients``; ``cpu`` and ``reference`` also have ``analyse`` and
``match``. They take records and a number of workers, and write into the record given for the results. ``cpu`` also
reads one-hot labels. The contract:

- The caller checks the inputs. They are C-contiguous and read-only.
- A kernel raises nothing. It counts wrong values, NUM_NAN and NUM_BAD, and the caller raises.
- The loop over samples allocates nothing. Each worker has its own part of a workspace.
- A sample is reduced in a fixed order, so that the bits depend neither on the number of threads nor on how a batch is
  split. On the host one worker does it. DONE is written last, which shows a sample whose worker was lost.
- Sums are float64, indices are never narrowed, and fastmath is off.
- Every loop ends with the row and every write stays in bounds, even while another thread changes the inputs.
"""
