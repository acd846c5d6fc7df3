"""The engine: where a call computes, and how often a kernel runs.

The life of a call of `confidence_loss`:

    losses.confidence_loss       the public function: resolves the keywords, divides the sum, names the result
      mining_rule.resolve          keywords -> Mining (the rule) and Extras (optional arrays)
      inputs.batch.check_losses    array-likes -> Batch, or an InputError
      engine.run.call_of           backend, num_threads -> Call (the twin that computes, how many threads)
      engine.run.mine_batch        for each block of samples that `blocks` hands out:
        Batch.rows                   views of the caller's arrays, in the dtype of the kernel -> Rows
        twin.mine                    kernels.cpu, kernels.cuda or kernels.reference -> Mined; on the CPU, a driver of
                                     kernels/cpu/jit runs `_mine_sample` of kernels/cpu/mining for each sample
        Batch.refuse_values          NaN and bad labels, which the kernel has counted, become errors
      kernels.loss_rules           divisors; the loss of the batch

Around this line: `lazy_losses` computes losses from logits, block by block; `multi_pass` composes plain passes for the
rules that one pass cannot follow (``scope="batch"``, ties, pools); `threads` says how many threads a call may use;
`announcement` tells a terminal that kernels are compiled; `result` is the base of all results. The public function
hands arrays on a GPU to ``device/`` instead.

The contract: a batch that raises returns nothing, and the bits of a result depend on neither blocks nor threads.
"""
