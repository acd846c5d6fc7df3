"""The input boundary: array-likes go in, a checked batch comes out, or an `InputError` names the argument.

Read `arrays` (dtypes and layouts), `labels`, `logits`, then `batch`, which puts them together; `counts` checks offsets
and quotas, `boxes` what is matched. The contract: a view of the caller's array is never written, a copy is made only if
a dtype or a layout forces it, and everything that a `Batch` holds fits its shape.
"""
