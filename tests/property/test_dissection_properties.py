"""Properties of the similarity functions that hold for every input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lib.dissection import evaluation, similarity

seeds = st.integers(0, 2**31 - 1)
settings.register_profile("dissection", max_examples=20, deadline=None)
settings.load_profile("dissection")
NAMES = list(similarity.FUNCTIONS)


def material(seed, images=150, concepts=20, neurons=8):
    """Positive cosines and activations without ties, in float64."""
    g = torch.Generator().manual_seed(seed)
    X, T = (F.normalize(torch.randn(n, 16, generator=g, dtype=torch.float64) + 0.7, dim=1) for n in (images, concepts))
    return X, T, torch.randn(images, neurons, generator=g, dtype=torch.float64)


def scores(name, X, T, q, **options):
    return similarity.scores(name, q, X, T, **options)


@pytest.mark.parametrize("name", NAMES)
@given(seeds)
def test_the_order_of_images_does_not_matter(name, seed):
    X, T, q = material(seed)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(scores(name, X[order], T, q[order]), scores(name, X, T, q), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@given(seeds)
def test_concepts_and_neurons_in_another_order_have_the_same_scores(name, seed):
    X, T, q = material(seed)
    g = torch.Generator().manual_seed(seed)
    concepts, neurons = torch.randperm(len(T), generator=g), torch.randperm(q.shape[1], generator=g)
    expected = scores(name, X, T, q)[neurons][:, concepts]
    np.testing.assert_allclose(scores(name, X, T[concepts], q[:, neurons]), expected, atol=1e-9)
    found, _ = similarity.labels(name, q[:, neurons], X, T[concepts])
    assert torch.equal(concepts[found], similarity.labels(name, q, X, T)[0][neurons])


@pytest.mark.parametrize("name", NAMES)
@given(seeds, st.floats(0.01, 100))
def test_the_scale_of_a_neuron_changes_no_score(name, seed, factor):
    X, T, q = material(seed)
    options = {"min_norm": 0.0} if name == "cos_cubed" else {}
    expected = scores(name, X, T, q, **options)
    np.testing.assert_allclose(scores(name, X, T, factor * q, **options), expected, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "cos"])
@given(seeds, st.floats(-5, 5))
def test_a_constant_added_to_a_neuron_changes_no_score_but_the_plain_cosine(name, seed, shift):
    X, T, q = material(seed)
    np.testing.assert_allclose(scores(name, X, T, q + shift), scores(name, X, T, q), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@given(seeds)
def test_a_large_problem_has_the_labels_of_a_small_one(name, seed):
    X, T, q = material(seed, concepts=100)
    expected, score = similarity.labels(name, q, X, T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "SMALL", 0)
        patch.setattr(similarity, "LEADING", 10)
        found, near = similarity.labels(name, q, X, T)
    assert torch.equal(found, expected)
    np.testing.assert_allclose(near, score, atol=1e-4)


@given(seeds)
def test_soft_wpmi_never_exceeds_the_log_of_the_number_of_neurons(seed):
    X, T, q = material(seed)
    assert scores("soft_wpmi", X, T, q).max() <= np.log(q.shape[1]) + 1e-9


@given(seeds)
def test_cosines_are_between_minus_one_and_one(seed):
    X, T, q = material(seed)
    for name in ("cos", "cos_cubed"):
        assert scores(name, X, T, q).abs().max() <= 1 + 1e-9
    assert scores("rank_reorder", X, T, q).max() <= 0


@given(seeds)
def test_iou_is_between_zero_and_one_and_blind_to_the_scale_of_maps(seed):
    g = torch.Generator().manual_seed(seed)
    maps, masks = torch.randn(10, 3, 4, 4, generator=g), torch.rand(10, 5, 8, 8, generator=g) < 0.4
    found = evaluation.iou(maps, masks, 0.1)
    assert (found >= 0).all() and (found <= 1).all()
    np.testing.assert_array_equal(evaluation.iou(4 * maps, masks, 0.1), found)
