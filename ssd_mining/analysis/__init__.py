"""The loss analysis: what the losses of a data set say about it, block by block, in bounded memory.

Read `one_pass` (one visit to every sample of a batch), `state` (what has been seen so far), `loss_analysis`, which puts
both together, and `result`. `exact_sums`, `histogram` and `top_k` are its three kinds of memory; `spec` holds its
settings. `one_batch` and `recipe_comparison` are functions of their own.

The contract: blocks in any order and of any size, and shards merged in any order, give the same result, bit for bit.
"""
