"""The loss analysis: what the losses of a data set say about it, block by block, in bounded memory.

Read `one_pass` (one visit to every sample of a batch), `causes` (why a sample is bad), `state` (what has been seen so
far), `loss_analysis`, which puts them together, and `summary`, which makes the `result` of a state, with its `hazards`.
The state is made of `exact_sums`, `histogram` and `top_k`; `spec` holds the settings. `one_batch` and
`recipe_comparison` are functions of their own.

The contract: blocks in any order and of any size, and shards merged in any order, give the same result, bit for bit.
"""
