"""The whole loss against its parts: losses from logits, mining, plain NumPy; the real files; PyTorch's gradients."""

import numpy as np
import pytest

import ssd_mining as sm
from ssd_mining.engine import lazy_losses
from ssd_mining.losses import NORMALIZE
from tests.support.batches import REAL_FILES, load_real
from tests.support.lazy import lazy
from tests.support.multibox import (
    CLASSIFICATIONS,
    NUM_CLASSES,
    OF_THE_LOSS,
    Call,
    anchor_losses,
    divided,
    draw,
    ranks,
    selection_cases,
    smooth_l1,
)

SELECTIONS = selection_cases()
SCOPES = ("sample", "batch", "batch_of_sample_quotas", "smallest_sample_quota")
MODES = ("background", "foreground_max", "foreground_sum")


def mining_keywords(call):
    """Return the keywords of `mine_hard_negatives` that mean what those of a call on logits mean."""
    ours = {k: v for k, v in call.keywords.items() if k not in (*OF_THE_LOSS, "classification", "class_axis")}
    if isinstance(ours.get("rank_by"), str):
        ours["rank_by"] = ranks(call, ours["rank_by"])
    return ours


def check(call):
    """Hold a call against its parts, to 1e-12."""
    keywords = {"normalize": "positives", "zero_positives": "clamp", "beta": 1.0, "loc_weight": 1.0} | call.keywords
    losses = anchor_losses(call, keywords.get("classification") or sm.Softmax())
    parts = sm.confidence_loss(
        losses,
        call.labels,
        normalize=keywords["normalize"],
        zero_positives=keywords["zero_positives"],
        **mining_keywords(call),
    )
    got = call.loss()
    np.testing.assert_allclose(got.conf_loss, parts.loss, rtol=1e-12)
    for name in ("positive_sum", "negative_sum", "per_sample"):
        np.testing.assert_allclose(getattr(got, name), getattr(parts, name), rtol=1e-12)
    for name in ("num_pos", "num_neg", "num_kept"):
        np.testing.assert_array_equal(getattr(got, name), getattr(parts, name))
    mined = sm.mine_hard_negatives(losses, call.labels, **mining_keywords(call))
    np.testing.assert_array_equal(call.mined().hard_negative_mask, mined.hard_negative_mask)
    loc_sum = (smooth_l1(call, keywords["beta"]) * mined.pos_mask).sum(axis=1)
    np.testing.assert_allclose(got.loc_sum, loc_sum, rtol=1e-12)
    loc_normalize = keywords.get("loc_normalize") or keywords["normalize"]
    loc_loss = divided(loc_sum, loc_normalize, got, losses.size, keywords["zero_positives"])
    np.testing.assert_allclose(got.loc_loss, loc_loss, rtol=1e-12)
    np.testing.assert_allclose(got.loss, parts.loss + keywords["loc_weight"] * loc_loss, rtol=1e-12)
    return got


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_whole_is_its_parts_under_every_rule_of_selection(name):
    for seed in range(10):
        check(draw(seed, **SELECTIONS[name]))


@pytest.mark.parametrize("name", CLASSIFICATIONS)
def test_the_whole_is_its_parts_for_every_confidence_loss(name):
    for seed in range(10):
        check(draw(seed, classification=CLASSIFICATIONS[name]))


@pytest.mark.parametrize("zero_positives", ["clamp", "zero", "nan"])
@pytest.mark.parametrize("loc_normalize", [None, *NORMALIZE])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_whole_is_its_parts_under_every_two_divisors(normalize, loc_normalize, zero_positives):
    chosen = {"normalize": normalize, "loc_normalize": loc_normalize, "zero_positives": zero_positives}
    check(draw(1, positives=(2, 0, 1), min_negatives=1, **chosen))
    nothing = check(draw(2, positives=(0, 0), **chosen))
    assert nothing.num_kept.tolist() == [0, 0]


@pytest.mark.parametrize("loc_weight", [0, 0.25, 3])
@pytest.mark.parametrize("beta", [0, 0.1, 1, 5])
def test_the_whole_is_its_parts_at_every_beta(beta, loc_weight):
    check(draw(3, beta=beta, loc_weight=loc_weight))


@pytest.mark.parametrize("policy", ["omit", "propagate"])
def test_the_whole_is_its_parts_beside_nan(policy):
    call = draw(4, nan_policy=policy)
    call.logits[0, 2, 1] = call.logits[2, :5, 0] = np.nan
    out = check(call)
    assert np.isnan(out.loss) == (policy == "propagate")


def test_the_whole_is_its_parts_with_ignored_labels_and_another_background():
    for seed in range(10):
        call = draw(seed, ignore_index=255)
        call.labels = (NUM_CLASSES - 1 - call.labels).astype(np.uint8)
        call.labels[:, 1::5] = 255
        call.keywords["background"] = NUM_CLASSES - 1
        expected = check(call)
        assert call.loss(background=-1).loss == expected.loss  # as C is known


@pytest.mark.parametrize("labels", ["classes", "one-hot"])
def test_a_ragged_batch_is_its_samples(labels):
    call = draw(5, positives=(4, 3), num_anchors=15, anchor_weights=np.random.default_rng(0).random((2, 15)))
    if labels == "one-hot":
        call.labels = np.eye(NUM_CLASSES)[call.labels]
    flat = Call(*(array.reshape(-1, *array.shape[2:]) for array in call.arrays), call.keywords)
    flat.keywords = call.keywords | {"sample_offsets": [0, 4, 4, 19, 30]}
    weights = flat.keywords["anchor_weights"] = call.keywords["anchor_weights"].reshape(-1)
    got = flat.loss(normalize="sample_selected", with_gradients=True)
    losses, share = [], 4
    for sample, (first, last) in enumerate([(0, 4), (4, 4), (4, 19), (19, 30)]):
        alone = Call(*(array[None, first:last] for array in flat.arrays), call.keywords)
        alone.keywords = call.keywords | {"anchor_weights": weights[None, first:last]}
        expected = alone.loss(normalize="sample_selected", with_gradients=True)
        losses.append(expected.loss)
        for name in ("positive_sum", "negative_sum", "num_pos", "num_neg", "num_kept"):
            assert getattr(got, name)[sample] == getattr(expected, name)[0]
        np.testing.assert_allclose(got.loc_sum[sample], expected.loc_sum[0], rtol=1e-14)
        for name in ("logits_gradient", "loc_gradient"):
            np.testing.assert_allclose(getattr(got, name)[first:last], getattr(expected, name)[0] / share, rtol=1e-14)
    np.testing.assert_allclose(got.loss, np.mean(losses), rtol=1e-14)


def same_bits(got, expected):
    for name in ("hard_negative_mask", "pos_mask", "num_pos", "num_neg", "num_kept"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    for name in ("positive_sum", "negative_sum", "threshold"):
        assert getattr(got, name).tobytes() == getattr(expected, name).tobytes(), name
    for ours, theirs in zip(got.indices(), expected.indices(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def ranked(logits, labels, keywords):
    """Replace a mode of `rank_by` by its very numbers."""
    if keywords["rank_by"] == "loss":
        return keywords
    kind = "foreground_max" if keywords["rank_by"] == "foreground_max" else "background"
    losses = lazy(logits, labels, sm.Softmax())
    return keywords | {"rank_by": losses.ranks(kind, keywords["background"])[:]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank_by", ["loss", *MODES])
@pytest.mark.parametrize("scope", SCOPES)
def test_mining_logits_is_mining_their_losses_bit_for_bit(scope, rank_by, dtype, monkeypatch):
    call = draw(6, positives=(3, 0, 1, 2, 5, 1, 2), scope=scope, rank_by=rank_by, min_negatives=1)
    call.logits = np.round(call.logits).astype(dtype)  # many ties
    losses = sm.softmax_cross_entropy(call.logits, call.labels)
    keywords = ranked(call.logits, call.labels, call.keywords)
    expected = sm.mine_hard_negatives(losses, call.labels, **keywords)
    same_bits(call.mined(), expected)
    same_bits(call.mined(num_threads=2), expected)
    flipped = sm.mine_logits(call.logits.transpose(0, 2, 1).copy(), call.labels, class_axis=1, **call.keywords)
    same_bits(flipped, expected)
    one_hot = np.eye(NUM_CLASSES)[call.labels]
    of_scores = sm.softmax_cross_entropy(call.logits, one_hot)  # another formula: equal to rounding
    expected_of_scores = sm.mine_hard_negatives(of_scores, call.labels, **keywords)
    same_bits(sm.mine_logits(call.logits, one_hot, **call.keywords), expected_of_scores)
    flat = sm.mine_logits(
        call.logits.reshape(-1, NUM_CLASSES),
        call.labels.reshape(-1),
        sample_offsets=np.arange(8) * 14,
        **call.keywords,
    )
    np.testing.assert_array_equal(flat.hard_negative_mask, expected.hard_negative_mask.reshape(-1))
    assert flat.negative_sum.tobytes() == expected.negative_sum.tobytes()
    assert flat.threshold.tobytes() == expected.threshold.tobytes()
    for elements in (1, 150, 300):
        monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
        same_bits(call.mined(), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_mining_ragged_logits_is_mining_their_losses_bit_for_bit(scope, monkeypatch):
    rng = np.random.default_rng(7)
    logits, labels = (
        rng.integers(-2, 3, (200, 3)).astype(np.float32),
        rng.integers(0, 2, 200) * (rng.random(200) < 0.2),
    )
    keywords = {
        "sample_offsets": [0, 5, 5, 80, 81, 150, 200],
        "background": 0,
        "scope": scope,
        "rank_by": "background",
    }
    keywords["valid"] = rng.random(200) < 0.9
    losses = sm.softmax_cross_entropy(logits[None], labels[None])[0]
    rank = sm.softmax_cross_entropy(logits[None], np.zeros((1, 200), int))[0]
    expected = sm.mine_hard_negatives(losses, labels, **keywords | {"rank_by": rank})
    for elements in (1, 100, 2_000_000):
        monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", elements)
        for num_threads in (1, 2):
            same_bits(sm.mine_logits(logits, labels, **keywords, num_threads=num_threads), expected)


def test_large_batches_give_the_same_bits_on_two_threads(monkeypatch):
    monkeypatch.setattr("ssd_mining.engine.lazy_losses.PARALLEL_LOGITS", 1)
    monkeypatch.setattr("ssd_mining.engine.run.PARALLEL_ANCHORS", 1)
    call = draw(8, positives=(9,) * 12, num_anchors=300, rank_by="foreground_max")
    one, two = (call.loss(num_threads=threads, with_gradients=True) for threads in (1, 2))
    assert one.loss == two.loss
    np.testing.assert_array_equal(one.logits_gradient, two.logits_gradient)
    np.testing.assert_array_equal(one.loc_gradient, two.loc_gradient)
    same_bits(call.mined(num_threads=2), call.mined(num_threads=1))


@pytest.mark.parametrize("name", ["sigmoid", "focal", "weighted sigmoid"])
@pytest.mark.parametrize("background", [0, NUM_CLASSES])
@pytest.mark.parametrize("rank_by", ["background", "foreground_max"])
def test_sigmoids_are_ranked_by_their_own_probabilities(rank_by, background, name):
    for seed in range(10):
        call = draw(seed, classification=CLASSIFICATIONS[name], background=background, rank_by=rank_by)
        if background:
            call.labels = np.where(call.labels == 0, background, call.labels)
        p = 1 / (1 + np.exp(-call.logits))
        foreground = np.delete(p, background, axis=2) if background < NUM_CLASSES else p
        rank = foreground.max(axis=2)
        if rank_by == "background":  # of all classes at once, unweighted: background yes, every other no
            yes = -np.log(p[..., background]) if background < NUM_CLASSES else 0
            rank = yes - np.log1p(-foreground).sum(axis=2)
        losses = anchor_losses(call, CLASSIFICATIONS[name])
        expected = sm.mine_hard_negatives(losses, call.labels, background=background, rank_by=rank)
        got = call.mined()
        np.testing.assert_array_equal(got.hard_negative_mask, expected.hard_negative_mask)
        np.testing.assert_allclose(got.negative_sum, expected.negative_sum, rtol=1e-14)


@pytest.mark.parametrize("rank_by", MODES)
@pytest.mark.parametrize("form", ["classes", "one-hot"])
def test_a_mode_ranks_by_the_background_that_was_named(rank_by, form):
    for background in (0, 2, -1):
        call = draw(9, rank_by=rank_by, background=background)
        column = background % NUM_CLASSES
        call.labels = np.where(call.labels == 0, column, (call.labels + column) % NUM_CLASSES)
        rank = ranks(call, rank_by)
        losses = sm.softmax_cross_entropy(call.logits, call.labels)
        expected = sm.mine_hard_negatives(losses, call.labels, background=column, rank_by=rank)
        if form == "one-hot":
            call.labels = np.eye(NUM_CLASSES)[call.labels]
        np.testing.assert_array_equal(call.mined().hard_negative_mask, expected.hard_negative_mask)
        if background == -1 and form == "one-hot":  # unless given, the last class
            np.testing.assert_array_equal(call.mined(background=None).hard_negative_mask, expected.hard_negative_mask)


class Spy:
    """Notes how many losses exist at once."""

    def __init__(self, monkeypatch):
        self.sizes = []
        monkeypatch.setattr(lazy_losses, "losses", self.watched(lazy_losses.losses))

    def watched(self, compute):
        def watching(*call):
            values = compute(*call)
            self.sizes.append(values.size)
            return values

        return watching


@pytest.mark.parametrize("labels", ["classes", "one-hot"])
@pytest.mark.parametrize("rank_by", ["loss", "background"])
def test_the_losses_of_a_whole_batch_never_exist(rank_by, labels, monkeypatch):
    call = draw(10, positives=(3,) * 20, num_anchors=100, rank_by=rank_by)
    if labels == "one-hot":
        call.labels = np.eye(NUM_CLASSES)[call.labels]
    spy = Spy(monkeypatch)
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 400)
    call.mined()
    most = 400 if labels == "classes" else 100
    assert max(spy.sizes) == most
    assert sum(spy.sizes) == 2000 * (1 if rank_by == "loss" else 2)
    spy.sizes.clear()
    call.loss(with_gradients=True)
    assert max(spy.sizes) == most
    spy.sizes.clear()
    call.mined(scope="batch")  # of a batch that is mined as one, they do
    assert set(spy.sizes) == {2000}


def test_the_losses_of_a_whole_ragged_batch_never_exist(monkeypatch):
    rng = np.random.default_rng(11)
    logits, labels = rng.normal(size=(2000, 3)), (rng.random(2000) < 0.1).astype(int)
    spy = Spy(monkeypatch)
    monkeypatch.setattr("ssd_mining.inputs.batch.BLOCK_ELEMENTS", 500)
    sm.mine_logits(logits, labels, background=0, sample_offsets=np.arange(0, 2001, 100))
    counted = [size for size in spy.sizes if size]
    assert max(counted) == 500


@pytest.mark.full_size
@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_give_their_expected_losses_from_their_logits(name, background):
    real = load_real(name, background)
    keywords = {"background": 0 if background == "first" else -1}
    locations, loc_sum = (), np.zeros(real["labels"].shape[0])
    if "loc_preds" in real:
        locations = real["loc_preds"], real["loc_targets"]
        off = np.abs(locations[0].astype(np.float64) - locations[1].astype(np.float64))
        costs = np.where(off < 1, off**2 / 2, off - 0.5).sum(axis=2)
        column = 0 if background == "first" else real["logits"].shape[2] - 1
        loc_sum = np.array([row[labels != column].sum() for row, labels in zip(costs, real["labels"], strict=True)])
    out = sm.multibox_loss(real["logits"], real["labels"], *locations, normalize="batch", **keywords)
    np.testing.assert_array_equal(out.num_pos, real["exp_P"])
    np.testing.assert_array_equal(out.num_kept, real["exp_k"])
    np.testing.assert_allclose(out.per_sample, real["exp_total"], rtol=1e-6)
    np.testing.assert_allclose(out.positive_sum, real["exp_pos_sum"], rtol=1e-6)
    np.testing.assert_allclose(out.conf_loss, real["exp_batch_mean"], rtol=1e-6)
    assert f"{out.conf_loss:.3f}" == f"{float(REAL_FILES[name]):.3f}"
    np.testing.assert_allclose(out.loc_sum, loc_sum, rtol=1e-12)
    np.testing.assert_allclose(out.loss, out.conf_loss + loc_sum.mean(), rtol=1e-12)
    one_hot = np.eye(real["logits"].shape[2], dtype=np.float32)[real["labels"]]
    scores = sm.multibox_loss(real["logits"], one_hot, *locations, normalize="batch", **keywords)
    np.testing.assert_allclose(scores.loss, out.loss, rtol=1e-6)  # another formula
    alone = [
        sm.multibox_loss(x[None], y[None], **keywords).loss
        for x, y in zip(real["logits"], real["labels"], strict=True)
    ]
    np.testing.assert_allclose(alone, real["exp_norm"], rtol=1e-6)
    each = sm.multibox_loss(
        real["logits"], real["labels"], normalize="sample_positives", zero_positives="zero", **keywords
    )
    np.testing.assert_allclose(each.loss, np.mean(alone), rtol=1e-12)


@pytest.mark.full_size
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_gradients_of_the_real_files_add_up_to_nothing_and_stay_where_they_belong(name):
    real = load_real(name)
    out = sm.multibox_loss(real["logits"], real["labels"], background=0, with_gradients=True)
    gradient = out.logits_gradient
    assert gradient.shape == real["logits"].shape
    assert np.abs(gradient.astype(np.float64).sum(axis=2)).max() < 1e-6  # of a softmax, every row does
    selected = (real["labels"] > 0) | real["kept_neg"]
    moved = gradient.any(axis=2)
    assert not moved[~selected].any()
    p = softmax_of(real["logits"])
    expected = (p - np.eye(p.shape[2])[real["labels"]])[selected] / out.num_pos.sum()
    np.testing.assert_allclose(gradient[selected], expected, rtol=1e-5, atol=1e-9)


def softmax_of(logits):
    x = logits.astype(np.float64)
    exps = np.exp(x - x.max(axis=2, keepdims=True))
    return exps / exps.sum(axis=2, keepdims=True)


def torch_loss(torch, call, tensors, mined):
    """Return the loss of a call in PyTorch, with our selection as constant masks."""
    logits, loc_pred = tensors
    functional, keywords = torch.nn.functional, call.keywords
    spec = keywords.get("classification") or sm.Softmax()
    labels, target = torch.from_numpy(call.labels), torch.from_numpy(call.loc_target).to(loc_pred.dtype)
    one_hot = functional.one_hot(labels, NUM_CLASSES).to(logits.dtype)
    if isinstance(spec, sm.Softmax):
        weight = None if spec.class_weights is None else logits.new_tensor(spec.class_weights)
        settings = {"weight": weight, "label_smoothing": spec.label_smoothing, "reduction": "none"}
        losses = functional.cross_entropy(logits.movedim(-1, 1), labels, **settings)
    else:
        binary = functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
        if isinstance(spec, sm.Focal):
            p = logits.sigmoid()
            p_t = p * one_hot + (1 - p) * (1 - one_hot)
            binary = binary * (1 - p_t) ** spec.gamma * (spec.alpha * one_hot + (1 - spec.alpha) * (1 - one_hot))
        elif spec.class_weights is not None:
            binary = binary * logits.new_tensor(spec.class_weights)
        losses = binary.sum(dim=2)
    weights = torch.as_tensor(keywords.get("anchor_weights", 1.0), dtype=logits.dtype)
    pos_mask = torch.from_numpy(mined.pos_mask)
    selected = pos_mask | torch.from_numpy(mined.hard_negative_mask)
    conf_sums = torch.where(selected, losses * weights, 0.0).sum(dim=1)
    off = functional.smooth_l1_loss(loc_pred, target, beta=keywords.get("beta", 1.0), reduction="none").sum(dim=2)
    loc_sums = torch.where(pos_mask, off, 0.0).sum(dim=1)
    normalize = keywords.get("normalize", "positives")
    parts = [(conf_sums, normalize), (loc_sums, keywords.get("loc_normalize") or normalize)]
    conf, loc = (torch_divided(torch, sums, name, mined) for sums, name in parts)
    return conf + keywords.get("loc_weight", 1.0) * loc


def torch_divided(torch, sums, normalize, mined):
    num_pos, num_kept = torch.from_numpy(mined.num_pos), torch.from_numpy(mined.num_kept)
    own = {"sample_positives": num_pos, "sample_selected": num_pos + num_kept}.get(normalize)
    if own is not None:
        return (sums / own.clamp(min=1)).mean()
    divisor = {
        "none": 1,
        "batch": sums.numel(),
        "anchors": mined.pos_mask.size,
        "positives": num_pos.sum(),
        "clamped_sample_positives": num_pos.clamp(min=1).sum(),
        "selected": (num_pos + num_kept).sum(),
    }[normalize]
    return sums.sum() / divisor


AUTOGRAD = {
    **{name: {"normalize": name, "loc_normalize": NORMALIZE[::-1][i]} for i, name in enumerate(NORMALIZE)},
    **{
        name: {"classification": spec}
        for name, spec in CLASSIFICATIONS.items()
        if "floor" not in name and "unw" not in name
    },
    **{name: SELECTIONS[name] for name in ("the batch", "not the hardest", "valid", "weights", "by background")},
    **{f"beta {beta}": {"beta": beta, "loc_weight": 0.5} for beta in (0, 0.1, 2.0)},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", AUTOGRAD)
def test_autograd_finds_the_same_gradients(name, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tolerance = 1e-5 if dtype == "float32" else 1e-10
    for seed in range(5):
        call = draw(seed, **AUTOGRAD[name])
        call.logits, call.loc_pred, call.loc_target = (
            array.astype(dtype) for array in (call.logits, call.loc_pred, call.loc_target)
        )
        got = call.loss(with_gradients=True)
        tensors = [torch.tensor(array, requires_grad=True) for array in (call.logits, call.loc_pred)]
        expected = torch_loss(torch, call, tensors, call.mined())
        expected.backward()
        np.testing.assert_allclose(got.loss, expected.item(), rtol=tolerance)
        for ours, tensor in zip((got.logits_gradient, got.loc_gradient), tensors, strict=True):
            largest = tensor.grad.abs().max().item()
            np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=tolerance, atol=tolerance * largest)
