"""What a call for device arrays costs on the host, and real arrays of Numba's: under numba-cuda, on a driver of ours.

The driver records what it is asked (`tests.support.driver`), and runs no kernel: what is computed is tested elsewhere.
"""

import pytest

from tests.support.driver import driver, on_driver, start

__all__ = ["driver", "on_driver", "start"]  # fixtures
pytestmark = [pytest.mark.toolchain, pytest.mark.process]

# A call, the most Python functions of ours that it passes when it is made again, how many kernels it launches, and
# how often it waits.
CALLS = {
    "hard_negative_mask": ("sm.hard_negative_mask(loss, bytes_, **never)", 67, 1, 0),
    "mine_hard_negatives": ("sm.mine_hard_negatives(loss, bytes_, **never)", 69, 1, 0),
    "one that can raise": ("sm.hard_negative_mask(loss, labels, background=0)", 71, 1, 1),
    "softmax_cross_entropy": ("sm.softmax_cross_entropy(logits, bytes_)", 73, 2, 0),
    "multibox_loss": ("sm.multibox_loss(logits, bytes_, *boxes, with_gradients=True, **never)", 205, 7, 0),
}
GIVEN = """
Tensor = load_torch()
rng = np.random.default_rng(0)
loss, logits = Tensor(rng.random((4, 99), np.float32)), Tensor(rng.random((4, 99, 3), np.float32))
bytes_, labels = Tensor(np.zeros((4, 99), np.uint8)), Tensor(np.zeros((4, 99), np.int64))
boxes = [Tensor(rng.random((4, 99, 4), np.float32)) for _ in range(2)]
never = {"background": 0, "nan_policy": "propagate"}
"""
# What the driver is asked besides, in each call: which context is current, to make one current, and to leave it.
CONTEXT = ["cuCtxGetCurrent", "cuCtxGetDevice_v2", "cuCtxPopCurrent_v2", "cuCtxPushCurrent_v2"]


def test_a_call_costs_the_host_little(on_driver):
    lines = [f"tried[{name!r}] = cost(lambda: {call})" for name, (call, *_) in CALLS.items()]
    code = """
    def cost(call):
        call()
        call()
        calls()
        call()
        return [calls(), frames(call)]
    tried = {}
    """
    for name, (asked, passed) in on_driver(GIVEN, code, *lines, "tried").items():
        _, most, num_launches, num_waits = CALLS[name]
        assert passed <= most, (name, passed)
        assert asked.count("cuLaunchKernel") == num_launches, name
        assert asked.count("cuStreamSynchronize") == num_waits, name
        if not num_waits:
            assert sorted(set(asked) - {"cuLaunchKernel"}) == CONTEXT, name
            assert len(asked) == num_launches + len(CONTEXT), name


def test_numbas_own_arrays_are_asked_for_nothing_that_they_cannot(on_driver):
    code = """
    from numba.cuda import to_device
    passed = 0
    for shape in ((3, 40), (0, 5), (3, 0)):
        loss, boxes = to_device(np.zeros(shape, np.float32)), to_device(np.zeros((*shape, 4), np.float32))
        valid = to_device(np.ones(shape, np.bool_))
        for labels in (np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.float32)):
            labels = to_device(labels)
            for words in ({}, {"valid": valid}, {"rank_by": loss}, {"scope": "batch"}):
                mined = sm.mine_hard_negatives(loss, labels, background=0, nan_policy="propagate", **words)
                assert "(" in repr(mined)
                mined.to_dict()
                passed += 1
        for class_axis in (-1, 1, 2):
            classes = [*shape, 3] if class_axis != 1 else [shape[0], 3, shape[1]]
            logits, labels = to_device(np.zeros(classes, np.float32)), to_device(np.zeros(shape, np.uint8))
            words = {"class_axis": class_axis, "background": 0, "nan_policy": "propagate"}
            out = sm.multibox_loss(logits, labels, boxes, boxes, with_gradients=True, **words)
            assert out.logits_gradient.shape == tuple(classes)
            assert "(" in repr(out)
            out.to_dict()
            sm.softmax_cross_entropy(logits, labels, class_axis=class_axis)
            passed += 1
    passed
    """
    assert on_driver(code) == 33


def test_after_warmup_calls_compile_nothing(on_driver):
    code = """
    words = {"loss_dtypes": ["float32"], "label_dtypes": ["uint8"], "backend": "cuda", "num_anchors": 99}
    first, again = sm.warmup(**words, logit_dtypes=["float32"]), sm.warmup(**words)
    before = counts()
    sm.hard_negative_mask(loss, bytes_, **never)
    sm.confidence_loss(loss, bytes_, **never)
    sm.multibox_loss(logits, bytes_, *boxes, with_gradients=True, **never)
    [first.compiled, first.loaded, again.compiled, again.loaded, before == counts()]
    """
    compiled, *others = on_driver(GIVEN, code)
    assert compiled > 5
    assert others == [0, 0, 0, True]
    assert on_driver(GIVEN, code) == [0, compiled, 0, 0, True]
