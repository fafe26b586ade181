"""The similarity functions: by hand, against the authors' formulas in float64, and where those have no number.

Every test of scores runs twice: as small problems are computed, and (`size` "large") as large ones are, in float32 with
the leading concepts again in float64.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib.dissection import likelihood, rank_reorder, similarity
from lib.dissection.constants import constants
from lib.dissection.top_images import active, dead, top_images
from lib.errors import UserError

NAMES = list(similarity.FUNCTIONS)
PLAIN = {"top_k": 100}  # of 300 images: more than the quarter that is taken by itself


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(similarity, "SMALL", 0)
        monkeypatch.setattr(rank_reorder, "BLOCK", 1000)  # a neuron at a time, as there
    return request.param


def material(images=300, concepts=80, neurons=20, width=32, seed=0, common=2.0):
    """Embeddings with positive cosines, as CLIP's, and activations of neurons that look at some directions."""
    g = torch.Generator().manual_seed(seed)
    shift = common * F.normalize(torch.randn(width, generator=g), dim=0) * math.sqrt(width) / 2
    X, T = (F.normalize(torch.randn(n, width, generator=g) + shift, dim=1) for n in (images, concepts))
    return torch.randn(images, width, generator=g) @ torch.randn(width, neurons, generator=g), X, T


def by_the_formula(name, q, X, T, lam=None, top_k=None, min_norm=1e-3):
    """The authors' code in float64, a neuron and a concept at a time; ties go to the image that comes first."""
    q, P = q.double().numpy(), (X.double() @ T.double().T).numpy()
    images, neurons, concepts = len(q), q.shape[1], P.shape[1]
    found = np.empty((neurons, concepts))
    if name in ("wpmi", "soft_wpmi"):
        a, usual, lam_ = (2.0, 28, 0.6) if name == "wpmi" else (10.0, 100, 1.0)
        k_, lam = top_k or min(usual, images // 4), lam_ if lam is None else lam
        S = np.exp(a * P - (a * P).max(1, keepdims=True))
        S /= S.sum(1, keepdims=True)
        p = (0.998 - torch.arange(k_) / k_ * (0.998 - 0.97)).double().numpy()  # in float32, as in the authors' code
    for k in range(neurons):
        order = np.argsort(-q[:, k], kind="stable")
        top = order[: int(0.05 * images)]
        chance = np.mean(np.abs(q[top, k][:, None] - q[top, k]) ** 3)  # of a random order: over all pairs
        for m in range(concepts):
            if name == "cos":
                found[k, m] = q[:, k] @ P[:, m] / (np.linalg.norm(q[:, k]) * np.linalg.norm(P[:, m]))
            elif name == "cos_cubed":
                x, y = ((v - v.mean()) ** 3 for v in (q[:, k], P[:, m]))
                found[k, m] = x @ y / (max(np.linalg.norm(x), min_norm) * max(np.linalg.norm(y), min_norm))
            elif name == "rank_reorder":
                t, ranks = q[top, k], np.argsort(np.argsort(P[top, m], kind="stable"), kind="stable")
                error = (np.abs(t - np.sort(t)[ranks]) ** 3).mean()
                found[k, m] = -error / chance / np.sqrt(P[top, m].mean())
            elif name == "wpmi":
                found[k, m] = np.log(S[order[:k_], m] + 1e-7).sum()
            else:
                found[k, m] = np.log(1 + p * (S[order[:k_], m] - 1) + 1e-7).sum()
    if name in ("wpmi", "soft_wpmi"):
        found -= lam * (np.log(np.exp(found - found.max(0)).mean(0)) + found.max(0))
    return torch.from_numpy(found)


def check(name, q, X, T, size, **given):
    """Our scores and labels against the formula's, to rounding.

    In a large problem neighbours in a concept's order may be too near for float32: far from the best, a few scores of
    rank reorder move with such a pair.
    """
    expected = by_the_formula(name, q, X, T, **given)
    found = similarity.scores(name, q, X, T, **given)
    near = expected >= expected.topk(min(50, expected.shape[1]), dim=1).values[:, -1:]
    np.testing.assert_allclose(found[near], expected[near], rtol=1e-5, atol=1e-4 if size == "large" else 1e-9)
    if size == "small":
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert ((found - expected).abs() > 1e-4 * (1 + expected.abs())).double().mean() < 1e-3
    label, score = similarity.labels(name, q, X, T, **given)
    assert torch.equal(label, expected.argmax(1))
    np.testing.assert_array_equal(score, found.amax(1))


# --- the formulas


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_labels_are_those_of_the_formula(name, seed, size):
    check(name, *material(concepts=150, seed=seed), size)


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
@pytest.mark.parametrize("given", [PLAIN, {"lam": 0.0}, {"lam": 0.5}])
def test_constants_may_be_others_than_the_published_ones(name, given, size):
    check(name, *material(), size, **given)


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_blocks_and_panels_changes_nothing(name, size, monkeypatch):
    q, X, T = material()
    whole = similarity.scores(name, q, X, T)
    for module in ("likelihood", "rank_reorder", "cosine", "top_images"):
        monkeypatch.setattr(f"lib.dissection.{module}.BLOCK", 500)
    monkeypatch.setattr(likelihood, "PANEL", 500)
    np.testing.assert_allclose(similarity.scores(name, q, X, T), whole, atol=5e-4 if size == "large" else 1e-10)


def test_with_few_concepts_the_likelihood_is_far_from_linear(size):
    # with three concepts S is about 1/3, a factor of SoftWPMI about 160, and a hundred of them 10^220
    check("soft_wpmi", *material(concepts=3), size, **PLAIN)


def test_rank_reorder_by_hand(size):
    # three top images with activations 3, 2, 1; the first concept has them in order, the second the other way round
    q = torch.tensor([[3.0], [2.0], [1.0], [0.0], [0.0], [0.0]])
    P = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3], [0.5, 0.0], [0.0, 0.5], [0.2, 0.2]])
    found = similarity.scores("rank_reorder", q, P, torch.eye(2), top_fraction=0.5)
    chance = (4 * 1 + 2 * 8) / 9  # |differences| to the third over the nine pairs
    assert found[0, 0] == 0
    assert found[0, 1] == pytest.approx(-(8 + 0 + 8) / 3 / chance / math.sqrt(0.2))


@pytest.mark.parametrize("similar", ["gaussian", "cauchy", "lognormal"])
def test_expected_error_is_the_mean_over_all_pairs(similar):
    t = activations_of(similar, 60, 4).T
    pairs = (t[:, :, None] - t[:, None]).abs() ** 3
    np.testing.assert_allclose(rank_reorder.expected_error(t), pairs.mean((1, 2)), rtol=1e-8)


# --- where a lower precision or a scale could lead astray


def activations_of(kind, images, neurons, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(images, neurons, generator=g, dtype=torch.float64)
    if kind == "cauchy":
        return x / torch.randn(images, neurons, generator=g, dtype=torch.float64)
    return torch.exp(2 * x) if kind == "lognormal" else x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["cauchy", "lognormal"])
def test_heavy_tailed_activations_get_the_labels_of_the_formula(name, kind, size):
    _, X, T = material(images=400, concepts=150)
    check(name, activations_of(kind, 400, 60), X, T, size)


@pytest.mark.parametrize("scale", [1e-6, 1e13])
@pytest.mark.parametrize("name", NAMES)
def test_the_unit_of_an_activation_changes_no_label(name, scale, size):
    q, X, T = material(concepts=150)
    label, _ = similarity.labels(name, q, X, T)
    assert torch.equal(label, by_the_formula(name, q, X, T).argmax(1))
    again, score = similarity.labels(name, q * scale, X, T)
    assert torch.equal(again, label) and score.isfinite().all()
    if name != "cos_cubed" or scale > 1:  # its smallest norm shrinks the scores of small activations
        np.testing.assert_allclose(score, by_the_formula(name, q * scale, X, T).amax(1), rtol=1e-5)


@pytest.mark.parametrize("common", [0.0, 0.5])
def test_a_concept_orthogonal_to_all_images_has_cosine_0(common, size):
    q, X, T = material(common=common)
    X[:, -8:], T[::2, :-8], T[1::2, -8:] = 0, 0, 0  # every second concept lies where no image is
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1))).Q
    X, T = X @ rotation, T @ rotation  # so that the zeros are zeros up to rounding
    for name in ("cos", "cos_cubed"):
        found = similarity.scores(name, q, X, T, **({"min_norm": 0.0} if name == "cos_cubed" else {}))
        expected = by_the_formula(name, q, X, T, **({"min_norm": 0.0} if name == "cos_cubed" else {}))
        assert (found[:, ::2] == 0).all()
        np.testing.assert_allclose(found[:, 1::2], expected[:, 1::2], atol=1e-6)
        label, _ = similarity.labels(name, q, X, T)
        expected[:, ::2] = 0
        assert torch.equal(label, expected.argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_orthogonal_concepts_win_no_neuron_of_another_concept(name, size):
    _, X, T = material(images=600, concepts=30)
    X[:, -8:], T[20:, :-8] = 0, 0
    T[:20, -8:] = 0
    label, score = similarity.labels(name, X @ T[:20].T, X, T)
    assert torch.equal(label, torch.arange(20)) and score.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_ties_of_activations_go_to_the_image_that_comes_first(name, size):
    q, X, T = material(concepts=150)
    check(name, q.round().clamp(min=-1), X, T, size)  # about seven different values


@pytest.mark.parametrize("name", NAMES)
def test_of_equal_concepts_the_first_is_the_label(name, size):
    q, X, T = material(concepts=60)
    doubled = torch.cat([T, T])
    found = similarity.scores(name, q, X, doubled)
    np.testing.assert_allclose(found[:, :60], found[:, 60:], rtol=1e-4, atol=1e-4 if size == "large" else 1e-9)
    assert (similarity.labels(name, q, X, doubled)[0] < 60).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_concept_that_is_the_same_for_all_images_gives_numbers(name, size):
    P = 0.1 + 0.2 * torch.rand(300, 12, generator=torch.Generator().manual_seed(2))
    P[:, 5] = 0.15
    q = torch.randn(300, 6, generator=torch.Generator().manual_seed(3))
    found = similarity.scores(name, q, P, torch.eye(12))
    assert found.isfinite().all()
    if name == "cos_cubed":
        assert (found[:, 5] == 0).all()


def test_a_concept_with_negative_cosines_is_never_chosen_by_rank_reorder(size):
    q, X, T = material(common=0.0)
    found = similarity.scores("rank_reorder", q, X, T)
    assert torch.isneginf(found).any() and not found.isnan().any()
    P = torch.full((300, 4), -0.1) + 0.01 * torch.rand(300, 4)
    label, score = similarity.labels("rank_reorder", q, P, torch.eye(4))
    assert (label == similarity.DEAD).all() and score.isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_neuron_that_is_a_concept_is_called_by_its_name(name, size):
    P = 0.1 + 0.2 * torch.rand(600, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(similarity.labels(name, P, P, torch.eye(30))[0], torch.arange(30))


# --- dead neurons, and the prior


@pytest.mark.parametrize("name", NAMES)
def test_dead_and_saturated_neurons_have_no_label_and_change_no_other(name, size):
    q, X, T = material()
    flat = torch.tensor([0.0, 0.7, 6.0]).expand(300, 3)  # dead, constant, and cut off at 6 on every image
    given = {"prior": "alive"} if "wpmi" in name else {}
    found = similarity.scores(name, torch.cat([q, flat], 1), X, T, **given)
    assert found[20:].isnan().all()
    np.testing.assert_allclose(found[:20], similarity.scores(name, q, X, T), atol=1e-5 if size == "large" else 1e-12)
    label, score = similarity.labels(name, torch.cat([q, flat], 1), X, T, **given)
    assert (label[20:] == similarity.DEAD).all() and score[20:].isnan().all() and (label[:20] >= 0).all()


def test_a_neuron_that_is_cut_off_on_all_its_top_images_has_no_order(size):
    q, X, T = material()
    q[:, 3] = q[:, 3].clamp(max=q[:, 3].sort().values[-40])  # the 40 highest are equal; 15 are put into order
    label, score = similarity.labels("rank_reorder", q, X, T)
    assert label[3] == similarity.DEAD and score[3].isnan() and (label >= 0).sum() == 19
    assert (similarity.labels("soft_wpmi", q, X, T)[0] >= 0).all()


def test_a_layer_that_is_dead_altogether(size):
    _, X, T = material()
    label, score = similarity.labels("soft_wpmi", torch.zeros(300, 3), X, T)
    assert (label == similarity.DEAD).all() and score.isnan().all()


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_the_released_prior_counts_dead_neurons_and_the_other_does_not(name, size):
    q, X, T = material()
    q[:, 12:] = 0
    released = similarity.scores(name, q, X, T)  # the default: as the authors' code, which knows no dead neurons
    alive = similarity.scores(name, q, X, T, prior="alive")
    atol = 1e-4 if size == "large" else 1e-9
    np.testing.assert_allclose(released[:12], by_the_formula(name, q, X, T)[:12], atol=atol)
    np.testing.assert_allclose(alive[:12], by_the_formula(name, q[:, :12], X, T), atol=atol)
    assert released[12:].isnan().all() and alive[12:].isnan().all()
    assert (released[:12] - alive[:12]).abs().max() > 0.01


def test_a_single_neuron_has_no_prior_of_its_own():
    q, X, T = material()
    with pytest.raises(UserError, match="one neuron.*every score would be 0.*all neurons of its layer"):
        similarity.labels("soft_wpmi", q[:, :1], X, T)
    assert similarity.scores("wpmi", q[:, :1], X, T).std() > 0  # with lambda 0.6 the likelihood remains


# --- top images, best concepts


def test_top_images_take_ties_in_the_order_of_the_images():
    q = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (50, 300)).astype(np.float32))
    for k in (1, 7, 49, 50):
        np.testing.assert_array_equal(top_images(q, k), np.argsort(-q.numpy(), axis=0, kind="stable")[:k])


def test_dead_neurons_are_those_that_never_change():
    assert dead(torch.tensor([[0.0, 0.7, 1.0], [0.0, 0.7, 1.1]])).tolist() == [True, True, False]


def test_the_best_concepts_come_in_order_and_stop_where_no_score_is():
    found = torch.tensor([[0.1, 0.3, 0.3, 0.2], [math.nan, -math.inf, math.nan, 0.5], [math.nan] * 4])
    label, score = similarity.leading(found, 3)
    assert label.tolist() == [[1, 2, 3], [3, -1, -1], [-1, -1, -1]]
    np.testing.assert_allclose(score[0], [0.3, 0.3, 0.2])
    assert score[1:].isnan().tolist() == [[False, True, True], [True] * 3]
    assert similarity.leading(found, 9)[0].shape == (3, 4)
    assert similarity.best(found)[0].tolist() == [1, 3, -1]


def test_small_probes_give_at_most_a_quarter_of_their_images():
    assert [constants("soft_wpmi", n).top_k for n in (50_000, 400, 300, 8, 2)] == [100, 100, 75, 2, 1]
    assert constants("wpmi", 80).top_k == 20 and constants("soft_wpmi", 80, top_k=60).top_k == 60
    assert int(constants("rank_reorder", 20).top_fraction * 20) == 2
    assert constants("rank_reorder", 50_000).top_fraction == 0.05


# --- bad input


def bad(x, value):
    x = x.clone()
    x[3, 4] = value
    return x


CASES = {
    "nan": (lambda q, X, T: similarity.scores("cos", bad(q, math.nan), X, T), "1 of 20 neurons.*first: neuron 4"),
    "infinite": (lambda q, X, T: similarity.labels("wpmi", bad(q, math.inf), X, T), "nan or infinite"),
    "few images": (lambda q, X, T: similarity.scores("wpmi", q, X, T, top_k=301), "top 301 images.*of 300; lower"),
    "no order": (lambda q, X, T: similarity.scores("rank_reorder", q, X, T, top_fraction=0.005), "leaves 1.*raise"),
    "other images": (lambda q, X, T: similarity.scores("cos", q, X[:10], T), r"\[300, 20\], but there are 10 images"),
    "flat activations": (lambda q, X, T: similarity.scores("cos", q[:, 0], X, T), r"expected is \[images, neurons\]"),
    "other widths": (lambda q, X, T: similarity.scores("cos", q, X, T[:, :5]), r"\[300, 32\] and \[80, 5\]"),
    "no concepts": (lambda q, X, T: similarity.scores("cos", q, X, T[:0]), r"\[300, 32\] and \[0, 32\]"),
    "nan in X": (lambda q, X, T: similarity.scores("cos", q, bad(X, math.nan), T), "Embeddings hold nan"),
    "prior": (
        lambda q, X, T: similarity.scores("wpmi", q, X, T, prior="living"),
        "'living'; choose one of released, al",
    ),
    "ties": (
        lambda q, X, T: similarity.scores("wpmi", q, X, T, ties="last"),
        "ties is 'last'; choose one of first, rel",
    ),
    "function": (lambda q, X, T: similarity.labels("softwpmi", q, X, T), "Did you mean 'soft_wpmi'"),
    "constant": (lambda q, X, T: similarity.scores("wpmi", q, X, T, top=5), "no constant 'top'.*Did you mean 'top_k'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence(case):
    call, sentence = CASES[case]
    with pytest.raises(UserError, match=sentence) as caught:
        call(*material())
    assert "\n" not in str(caught.value)


def test_active_images_are_those_above_a_neurons_least():
    q = torch.tensor([[0.0, 0.7, -2.0, 0.0], [0.0, 0.7, -1.0, 3.0], [0.0, 0.7, -2.0, 0.1]])
    assert active(q).tolist() == [0, 0, 1, 2]
