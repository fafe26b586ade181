"""The similarity functions: by hand, against the formula written out, at the edges, and in every precision."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib.dissection import likelihood, matrix
from lib.dissection import similarity as sim
from lib.errors import UserError


def material(images=300, concepts=80, neurons=20, width=32, seed=0, common=2.0):
    """Embeddings with positive cosines, as CLIP's, and activations of neurons that look at some directions."""
    g = torch.Generator().manual_seed(seed)
    shift = common * F.normalize(torch.randn(width, generator=g), dim=0) * math.sqrt(width) / 2
    X, T = (F.normalize(torch.randn(n, width, generator=g) + shift, dim=1) for n in (images, concepts))
    return X, T, torch.randn(images, width, generator=g) @ torch.randn(width, neurons, generator=g)


def literal(name, P, q, prior=None, lam=None, top_k=None):
    """The paper's formulas in float64, a neuron at a time."""
    P, q = P.double(), q.double()
    if name == "cos":
        return torch.stack([F.cosine_similarity(P.T, q[:, k][None], dim=1) for k in range(q.shape[1])])
    if name == "cos_cubed":
        a, b = ((x - x.mean(0)) ** 3 for x in (P, q))
        return torch.stack([(a * b[:, [k]]).sum(0) / a.norm(dim=0) / b[:, k].norm() for k in range(q.shape[1])])
    rows = []
    for k in range(q.shape[1]):
        order = np.argsort(-q[:, k].numpy(), kind="stable")
        if name == "rank_reorder":
            top = order[: int(0.05 * len(q))]
            t, ranks = q[top, k], P[top].argsort(0).argsort(0)
            error = ((t.sort().values[ranks] - t[:, None]).abs() ** 3).mean(0)
            rows.append(-error / (t[:, None] - t).abs().pow(3).mean() / P[top].mean(0).sqrt())
        elif name == "wpmi":
            rows.append((torch.softmax(2 * P, 1)[order[: top_k or 28]] + 1e-7).log().sum(0))
        else:
            n = top_k or 100
            p = (0.998 - torch.arange(n) / n * (0.998 - 0.97)).double()[:, None]
            S = torch.softmax(10 * P, 1)[order[:n]]
            rows.append((1 + p * (S - 1) + 1e-7).log().sum(0))
    scores = torch.stack(rows)
    if name == "rank_reorder":
        return scores
    lam = {"wpmi": 0.6, "soft_wpmi": 1.0}[name] if lam is None else lam
    return scores - lam * (scores.exp().mean(0).log() if prior is None else prior)


@pytest.mark.parametrize("whole", [True, False], ids=["P whole", "factors"])
@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_scores_are_those_of_the_formula(name, whole):
    X, T, q = material()
    P = X.double() @ T.double().T
    options = {"min_norm": 0.0} if name == "cos_cubed" else {}
    found = sim.FUNCTIONS[name](P if whole else (X.double(), T.double()), q, **options)
    np.testing.assert_allclose(found, literal(name, P, q), atol=1e-9)


@pytest.mark.parametrize("precision", ["single", "half"])
@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_lower_precision_is_near(name, precision):
    X, T, q = material(width=128)
    exact = sim.FUNCTIONS[name]((X, T), q)
    found = sim.FUNCTIONS[name]((X, T), q, precision=precision)
    assert found.dtype == torch.float32
    best = exact.amax(1)
    near = exact > (best - 0.2 * (best - exact.median(1).values))[:, None]  # far below the best the errors are larger
    tolerance = {"single": 2e-4, "half": 0.3}[precision]
    assert (found - exact)[near].abs().max() < tolerance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_labels_of_lower_precision_are_those_of_float64(name, seed):
    X, T, q = material(images=400, concepts=500, neurons=60, seed=seed)
    expected, score = sim.labels(name, (X, T), q, precision="double")
    assert torch.equal(expected, sim.FUNCTIONS[name]((X, T), q).argmax(1))
    for precision in ("single", "half"):
        found, near = sim.labels(name, (X, T), q, precision=precision)
        assert torch.equal(found, expected)
        assert (near - score).abs().max() < 0.3


@pytest.mark.parametrize("name, apart", [("wpmi", 2e-6), ("soft_wpmi", 2e-3)])
def test_labels_after_a_product_in_bfloat16_are_those_of_float64(name, apart):
    X, T, q = material(images=600, concepts=likelihood.FEW, neurons=150, width=64)
    half = likelihood.FEW // 2
    T[half:] = T[:half] + apart * torch.randn(half, 64, generator=torch.Generator().manual_seed(1))
    T = F.normalize(T, dim=1)  # every concept has a neighbour that is hard to tell from it
    rough = sim.FUNCTIONS[name]((X, T), q, precision="half").argmax(1)
    expected, _ = sim.labels(name, (X, T), q, precision="double")
    found, _ = sim.labels(name, (X, T), q, precision="half")
    assert torch.equal(found, expected) and not torch.equal(rough, expected)


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
@pytest.mark.parametrize("precision, concepts", [("double", 80), ("single", 80), ("half", likelihood.FEW + 7)])
def test_the_size_of_blocks_and_panels_changes_nothing(name, precision, concepts, monkeypatch):
    X, T, q = material(concepts=concepts)
    whole = sim.FUNCTIONS[name]((X, T), q, precision=precision)
    monkeypatch.setattr(likelihood, "PANEL", {"cpu": 500})
    for module in (sim, likelihood, matrix):
        monkeypatch.setattr(module, "BLOCK", 500)
    # a panel's polynomial is as long as its S asks for
    atol = {"double": 1e-10, "single": 1e-4, "half": 2e-3}[precision]
    np.testing.assert_allclose(sim.FUNCTIONS[name]((X, T), q, precision=precision), whole, atol=atol)


@pytest.mark.parametrize("width", [512, 32], ids=["powers", "products, after a bad estimate of Z"])
def test_soft_wpmi_from_a_product_in_bfloat16_is_near(width):
    X, T, q = material(images=400, concepts=likelihood.FEW, width=width)
    found, exact = (sim.soft_wpmi((X, T), q, precision=precision) for precision in ("half", "double"))
    assert (found - exact).std() < 0.006 * exact.std()


@pytest.mark.parametrize("concepts", [likelihood.FEW, 4 * likelihood.FEW])
def test_the_tangents_of_wpmi_are_near(concepts):
    X, T, q = material(images=400, concepts=concepts, width=512)
    found, exact = (sim.wpmi((X, T), q, precision=precision) for precision in ("half", "double"))
    assert (found - exact).abs().max() < 0.005 * exact.std()


def test_wpmi_where_no_sample_tells_z():
    X, T, q = material(images=400, concepts=likelihood.FEW, width=16)
    found, exact = (sim.wpmi((X, T), q, a=10.0, precision=precision) for precision in ("half", "double"))
    assert (found - exact).std() < 0.03 * exact.std()


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_logits_too_long_for_the_fast_way_are_summed_the_slow_way(name):
    X, T, q = material(images=300, concepts=likelihood.FEW)
    found = sim.FUNCTIONS[name]((9 * X, T), q, a=5.0, precision="half")
    np.testing.assert_array_equal(found, sim.FUNCTIONS[name]((9 * X, T), q, a=5.0, precision="single"))


def test_the_sum_of_exponentials_is_estimated_from_moments_and_a_sample():
    g = torch.Generator().manual_seed(0)
    X, T, bias = torch.randn(50, 64, generator=g), torch.randn(4000, 64, generator=g), torch.randn(4000, generator=g)
    for scale, tolerance in [(0.001, 1e-6), (0.01, 1e-4), (0.05, 0.01)]:
        y = scale * (X @ T.T + bias)
        found = likelihood._log_sum_exp(X, scale * T, scale * bias)
        np.testing.assert_allclose(found, y.double().logsumexp(1), atol=tolerance)


@pytest.mark.parametrize("top", [1e-4, 0.01, 0.2, 1.0])
def test_the_polynomial_of_a_logarithm(top):
    x = np.linspace(0, top, 1000)
    powers = likelihood._polynomial(top)
    found = sum(c * x**k for k, c in enumerate(powers, 1))
    np.testing.assert_allclose(found, np.log1p(x), atol=3e-5)
    assert len(powers) <= 6 and likelihood._polynomial(100.0) is None


def test_long_products_do_not_leave_the_range_of_float32():
    # with three concepts S is about 1/3, a factor of SoftWPMI about 160, and a hundred of them 10^220
    X, T, q = material(concepts=3)
    exact = literal("soft_wpmi", X.double() @ T.double().T, q)
    np.testing.assert_allclose(sim.soft_wpmi((X, T), q, precision="single"), exact, atol=2e-3)


def test_lambda_and_the_constant_that_is_left_out():
    X, T, q = material()
    P = X.double() @ T.double().T
    for lam in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(sim.soft_wpmi(P, q, lam=lam), literal("soft_wpmi", P, q, lam=lam), atol=1e-9)


# --- the prior


@pytest.mark.parametrize("name", ["wpmi", "soft_wpmi"])
def test_one_neuron_with_the_layers_prior_is_a_row_of_the_layer(name):
    X, T, q = material()
    prior = sim.log_prior(name, (X, T), q)
    np.testing.assert_allclose(
        sim.FUNCTIONS[name]((X, T), q[:, [7]], prior=prior)[0], sim.FUNCTIONS[name]((X, T), q)[7], atol=1e-9
    )


def test_prior_over_images_is_that_of_an_average_image():
    X, T, q = material()
    S = torch.softmax(10 * (X.double() @ T.double().T), 1).mean(0)
    p = (0.998 - torch.arange(100) / 100 * (0.998 - 0.97)).double()[:, None]
    average = (1 + p * (S - 1) + 1e-7).log().sum(0)
    expected = literal("soft_wpmi", X @ T.T, q, prior=average)
    np.testing.assert_allclose(sim.soft_wpmi((X, T), q, prior="images"), expected, atol=1e-4)


def test_a_single_neuron_has_no_prior_of_its_own():
    X, T, q = material()
    with pytest.raises(UserError, match="one neuron.*every score would be 0.*log_prior"):
        sim.soft_wpmi((X, T), q[:, :1])
    with pytest.raises(UserError, match="one neuron"):
        sim.labels("soft_wpmi", (X, T), q[:, :1])
    assert sim.soft_wpmi((X, T), q[:, :1], prior="images").shape == (1, 80)
    assert sim.wpmi((X, T), q[:, :1]).std() > 0  # with lambda 0.6 the likelihood remains


def test_a_prior_is_checked():
    X, T, q = material()
    with pytest.raises(UserError, match=r"prior is \[3\], expected \[80\]"):
        sim.wpmi((X, T), q, prior=torch.zeros(3))
    with pytest.raises(UserError, match="prior is 'neurons'; give 'layer', 'images'"):
        sim.wpmi((X, T), q, prior="neurons")


# --- rank reorder's baseline


@pytest.mark.parametrize("p", [1, 2, 3])
def test_expected_error_is_the_mean_over_all_pairs(p):
    t = torch.randn(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(p)) + 100
    pairs = (t[:, None] - t[None]).abs() ** p
    np.testing.assert_allclose(sim.expected_error(t, p), pairs.mean((0, 1)), rtol=1e-8)


def test_the_released_baseline_is_random_and_changes_no_label():
    X, T, q = material()
    expected = sim.rank_reorder((X, T), q)
    draws = [sim.rank_reorder((X, T), q, baseline="released", seed=seed) for seed in range(200)]
    ratio = torch.stack(draws) / expected
    assert ratio.std(0).max() > 0.02
    np.testing.assert_allclose(ratio.std(2), 0, atol=1e-9)  # one factor a neuron
    np.testing.assert_allclose((1 / ratio).mean((0, 2)), 1, atol=0.08)


def test_rank_reorder_by_hand():
    # three top images with activations 3, 2, 1; the first concept has them in order, the second the other way round
    q = torch.tensor([[3.0], [2.0], [1.0], [0.0], [0.0], [0.0]])
    P = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.1, 0.3], [0.5, 0.0], [0.0, 0.5], [0.2, 0.2]])
    found = sim.rank_reorder(P, q, top_fraction=0.5)
    chance = (4 * 1 + 2 * 8) / 9  # |differences| to the third over the nine pairs
    assert found[0, 0] == 0
    assert found[0, 1] == pytest.approx(-(8 + 0 + 8) / 3 / chance / math.sqrt(0.2))


def test_a_concept_with_negative_cosines_is_never_chosen_by_rank_reorder():
    X, T, q = material(common=0.0)
    scores = sim.rank_reorder((X, T), q)
    assert torch.isneginf(scores).any() and not scores.isnan().any()
    found, best = sim.labels("rank_reorder", torch.full((300, 4), -0.1) + 0.01 * torch.rand(300, 4), q)
    assert (found == sim.DEAD).all() and torch.isneginf(best).all()


# --- top images


def test_top_images_take_ties_in_the_order_of_the_images():
    q = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (50, 300)).astype(np.float32))
    for k in (1, 7, 49, 50):
        expected = np.argsort(-q.numpy(), axis=0, kind="stable")[:k]
        np.testing.assert_array_equal(matrix.top_images(q, k), expected)


def test_ties_are_named():
    with pytest.raises(UserError, match="ties is 'last'; give 'first' or 'released'"):
        matrix.top_images(torch.rand(5, 2), 2, "last")


# --- extremes and bad input


@pytest.mark.parametrize("precision", ["double", "half"])
@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_a_neuron_that_is_a_concept_is_called_by_its_name(name, precision):
    P = 0.1 + 0.2 * torch.rand(600, 30, generator=torch.Generator().manual_seed(1))
    found, _ = sim.labels(name, P, P, precision=precision)
    assert torch.equal(found, torch.arange(30))


@pytest.mark.parametrize("precision", matrix.PRECISIONS)
@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_a_dead_neuron_has_no_label_and_changes_no_other(name, precision):
    X, T, q = material()
    alive, _ = sim.labels(name, (X, T), q, precision=precision)
    silent = torch.cat([q, torch.zeros(300, 1), torch.full((300, 1), 0.7)], 1)
    scores = sim.FUNCTIONS[name]((X, T), silent, precision=precision)
    assert scores[20:].isnan().all() and scores[:20].isfinite().any(1).all()
    found, best = sim.labels(name, (X, T), silent, precision=precision)
    assert found[20:].tolist() == [sim.DEAD, sim.DEAD] and best[20:].isnan().all()
    assert torch.equal(found[:20], alive)


def test_a_layer_that_is_dead_altogether():
    X, T, _ = material()
    found, best = sim.labels("soft_wpmi", (X, T), torch.zeros(300, 3))
    assert (found == sim.DEAD).all() and best.isnan().all()
    assert sim.soft_wpmi((X, T), torch.zeros(300, 3)).isnan().all()


@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_a_constant_concept_column_gives_numbers(name):
    P = 0.1 + 0.2 * torch.rand(300, 12, generator=torch.Generator().manual_seed(2))
    P[:, 5] = 0.15
    q = torch.randn(300, 6, generator=torch.Generator().manual_seed(3))
    scores = sim.FUNCTIONS[name](P, q)
    assert scores.isfinite().all()
    if name == "cos_cubed":
        assert (scores[:, 5] == 0).all()


@pytest.mark.parametrize("precision", ["double", "half"])
@pytest.mark.parametrize("name", sim.FUNCTIONS)
def test_of_equal_concepts_the_first_is_the_label(name, precision):
    X, T, q = material(concepts=60)
    doubled = torch.cat([T, T])
    scores = sim.FUNCTIONS[name]((X, doubled), q)
    fine = scores.isfinite()[:, :60]
    np.testing.assert_allclose(scores[:, :60][fine], scores[:, 60:][fine], atol=1e-9)
    assert (sim.labels(name, (X, doubled), q, precision=precision)[0] < 60).all()


def bad(q, value):
    q = q.clone()
    q[3, 4] = value
    return q


CASES = {
    "nan": (lambda X, T, q: sim.cos((X, T), bad(q, math.nan)), "1 of 20 neurons are nan or infinite .first: neuron 4"),
    "infinite": (lambda X, T, q: sim.labels("wpmi", (X, T), bad(q, math.inf)), "nan or infinite"),
    "few images": (lambda X, T, q: sim.soft_wpmi((X[:60], T), q[:60]), "top 100 images.*there are 60; lower top_k"),
    "no order": (lambda X, T, q: sim.rank_reorder((X[:30], T), q[:30]), "0.05 of 30 images leaves 1.*raise it"),
    "other images": (lambda X, T, q: sim.cos((X[:10], T), q), r"\[300, 20\], but P has 10 images"),
    "flat activations": (lambda X, T, q: sim.cos((X, T), q[:, 0]), r"expected is \[images, neurons\]"),
    "other widths": (lambda X, T, q: sim.cos((X, T[:, :5]), q), r"shapes \[\[300, 32\], \[80, 5\]\]"),
    "no concepts": (lambda X, T, q: sim.cos((X, T[:0]), q), "at least one image and one concept"),
    "nan in P": (lambda X, T, q: sim.cos((bad(X, math.nan), T), q), "P holds nan"),
    "precision": (lambda X, T, q: sim.cos((X, T), q, precision="float64"), "'float64'; give one of double, single"),
    "baseline": (lambda X, T, q: sim.rank_reorder((X, T), q, baseline="none"), "baseline is 'none'"),
    "function": (lambda X, T, q: sim.labels("softwpmi", (X, T), q), "Did you mean 'soft_wpmi'"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence(case):
    call, sentence = CASES[case]
    with pytest.raises(UserError, match=sentence) as caught:
        call(*material())
    assert "\n" not in str(caught.value)
