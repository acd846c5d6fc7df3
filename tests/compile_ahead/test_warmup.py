"""After a warmup nothing is compiled any more."""

import os

import pytest

import ssd_mining as sm
from tests.support.batches import printed

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.name == "nt", reason="these tests fork and send signals")]


@pytest.mark.slow
def test_after_warmup_no_dtype_and_no_layout_compiles_anything(run):
    code = """
    import itertools
    import ssd_mining as sm
    from ssd_mining.engine import run
    from ssd_mining.kernels.cpu import jit
    from ssd_mining import warmup
    def read_only(array):
        array = array.copy()
        array.flags.writeable = False
        return array
    layouts = [
        np.asarray, np.asfortranarray, read_only, lambda a: np.repeat(a, 2, axis=1)[:, ::2], lambda a: a[::-1],
        lambda a: a.astype(a.dtype.newbyteorder()), lambda a: a.tolist(), lambda a: a[:0], lambda a: a[:, :0],
    ]
    keywords = [{}, {"valid": np.ones((3, 5), bool)}, {"num_negatives": 2}, {"num_negatives": [1, 2, 3]}]
    keywords += [{"nan_policy": "omit"}, {"min_negatives": 2, "max_negatives": 3}, {"rank_by": np.ones((3, 5))}]
    def call_all():
        run.ANCHORS_EACH = 1
        losses = [np.zeros((3, 5), dtype) for dtype in "efdbBhHiIlLqQ"]
        classes = [np.zeros((3, 5), dtype) for dtype in "bBhHiIlLqQ"]
        masks = [np.zeros((3, 5), bool), np.eye(4, dtype="f4")[np.zeros((3, 5), int)]]
        for array, labels, num_threads in itertools.product(losses, classes + masks, (None, 1)):
            background = {"background": 0} if labels.dtype.kind in "iu" else {}
            for call in sm.confidence_loss, sm.mine_hard_negatives:
                call(array, labels, **background, num_threads=num_threads)
        for layout, labels in itertools.product(layouts, [classes[0], classes[6], masks[0]]):
            background = {"background": 0} if labels.dtype.kind in "iu" else {}
            sm.confidence_loss(layout(losses[1]), layout(labels), **background)
        for more, array in itertools.product(keywords, losses[1:3]):
            sm.confidence_loss(array, classes[6], background=0, **more)
    before, done, after = jit.counts(), warmup(), jit.counts()
    if os.environ.get("CALLS"):
        call_all()
    [before, [done.compiled, done.loaded], after, jit.counts(), [type(done.seconds).__name__]]
    """
    assert run(code) == [[0, 0], [8, 0], [8, 0], [8, 0], ["float"]]
    assert run(code, CALLS="all") == [[0, 0], [0, 8], [0, 8], [0, 8], ["float"]]


LOGITS = """
import numpy as np
import ssd_mining as sm
from ssd_mining.engine import lazy_losses, run
from ssd_mining.kernels.cpu import jit
done, after = sm.warmup(loss_dtypes=["float32"], label_dtypes=["u1", "i8"], logit_dtypes=["f4"]), jit.counts()
lazy_losses.LOGITS_EACH = run.ANCHORS_EACH = 1
labels = np.zeros((3, 70), int)
labels[:, 5] = 1
for dtype, num_threads in (("f4", 1), ("f4", None), ("f2", 1)):
    logits = np.zeros((3, 70, 4), dtype)
    for classification in (sm.Softmax(), sm.Softmax(label_smoothing=0.1), sm.Sigmoid(), sm.Focal()):
        where = {"classification": classification, "background": 0, "num_threads": num_threads}
        sm.multibox_loss(logits, labels, with_gradients=True, **where)
        sm.multibox_loss(logits, np.eye(4, dtype="f4")[labels], **where)
        sm.mine_logits(logits, labels, rank_by="foreground_max", **where)
print(done.compiled + done.loaded, jit.counts() == after)
"""


@pytest.mark.slow
def test_after_warmup_of_logits_no_loss_and_no_gradient_compiles_anything():
    assert printed(LOGITS) == ["7 True"]  # the real kernels, from the cache of all tests if they are there


def test_warmup_compiles_what_it_is_asked_for_and_starts_no_thread(run):
    code = """
    import numba
    from ssd_mining import warmup
    def threads():
        return len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
    before = threads()
    done = warmup(loss_dtypes=["f4", "f2"], label_dtypes=[bool, np.int64])
    again = warmup(loss_dtypes=[np.float32], label_dtypes=["u1", "u8"])
    [done.compiled, done.loaded, again.compiled, again.loaded, threads() - before]
    """
    assert run(code) == [2, 0, 0, 0, 0]
    assert run(code) == [0, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        ({"loss_dtypes": ["x"]}, "'x'"),
        ({"label_dtypes": ["f4"]}, "labels: expected"),
        ({"loss_dtypes": "c"}, "loss"),
        ({"logit_dtypes": ["i4"]}, "logits: expected"),
        ({"score_dtypes": ["c8"]}, "labels: expected"),
    ],
)
def test_warmup_refuses_what_losses_or_labels_cannot_be(dtypes, message):
    from ssd_mining import warmup
    from ssd_mining.kernels.cpu import jit

    before = jit.counts()
    with pytest.raises(TypeError, match=message):
        warmup(**dtypes)
    assert jit.counts() == before  # it asks first, and compiles afterwards


def test_warmup_for_a_gpu_refuses_what_a_gpu_has_not():
    for words, message in (
        ({"analysis": True}, "analysis: expected False with backend='cuda'"),
        ({"matching": True}, "matching: expected False with backend='cuda'"),
        ({"num_anchors": 0}, "num_anchors: expected"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            sm.warmup(backend="cuda", **words)
    with pytest.raises(ValueError, match=r"^backend: expected 'cpu' or 'cuda', got 'reference'"):
        sm.warmup(backend="reference")
