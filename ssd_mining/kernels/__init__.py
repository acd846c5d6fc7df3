"""The kernels: one twin for each device, and the rules that the twins share.

Read `records` (what goes in and out), `rules` and `loss_rules` (each rule, written once), then a twin: ``cpu/``,
``cuda/``, or ``reference``, the NumPy oracle behind the same functions.

A twin has the functions ``mine``, ``analyse``, ``losses`` and ``gradients``, and those of the host have ``match``. They
take records and a number of workers, and write into the record given for the results. The contract:

- The caller checks the inputs. They are C-contiguous and read-only.
- A kernel raises nothing. It counts what is wrong, NUM_NAN and NUM_BAD, and the caller raises.
- The parallel loop allocates nothing. Each worker has its own part of a workspace.
- One worker reduces a sample, in the order of its anchors, so that the bits depend neither on the number of threads
  nor on how a batch is split. DONE is written last, which shows a sample whose worker was lost.
- Sums are float64, indices are never narrowed, and fastmath is off.
- Every loop ends with the row and every write stays in bounds, even while another thread changes the inputs.
"""
