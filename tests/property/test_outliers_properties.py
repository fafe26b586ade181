"""Properties that hold for every input: invariances, bounds, and independence of the batch."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.outliers import cka, concepts, directions, kurtosis, robustness

seeds = st.integers(0, 2**31 - 1)
settings.register_profile("outliers", max_examples=40, deadline=None)
settings.load_profile("outliers")


def vectors(seed, n=12, d=10):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) * rng.exponential(size=d) + rng.normal(size=d))


@given(seeds, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_kurtosis_ignores_scale_shift_and_order(seed, scale, shift):
    h = vectors(seed)
    found = kurtosis.kurtosis(h)
    order = np.random.default_rng(seed).permutation(h.shape[1])
    np.testing.assert_allclose(kurtosis.kurtosis(scale * h + shift).numpy(), found.numpy(), rtol=1e-4)
    np.testing.assert_allclose(kurtosis.kurtosis(h[:, order]).numpy(), found.numpy())
    assert (found >= 1 - 1e-9).all() and (found <= kurtosis.largest(10) + 1e-9).all()


@given(seeds, st.integers(2, 12))
def test_what_is_measured_does_not_depend_on_the_batch(seed, size):
    h = vectors(seed)
    (one, averages), (other, again) = kurtosis.averaged(h), kurtosis.averaged(h, size=size)
    np.testing.assert_allclose(one.contribution, other.contribution)
    for name in ("raw", "centred", "rotated", "max_z"):
        np.testing.assert_allclose(averages.draws(name), again.draws(name))
    assert np.isclose(one.contribution.sum(), averages.mean("raw"))


@given(seeds)
def test_a_common_vector_in_all_rows_changes_no_prediction_and_no_centred_direction(seed):
    h, head = vectors(seed), vectors(seed + 1, 5)
    moved = head + 3 * vectors(seed + 2, 1)
    assert ((h @ head.T).argmax(1) == (h @ moved.T).argmax(1)).all()
    a, b = (directions.decompose(w, centred=True) for w in (head, moved))
    np.testing.assert_allclose(a.values.numpy(), b.values.numpy(), rtol=1e-8, atol=1e-9)


@given(seeds)
def test_importance_is_a_share_and_ignores_the_length_of_embeddings(seed):
    h, found = vectors(seed), directions.decompose(vectors(seed + 1, 5))
    cosines = directions.cosines(h, {"": found}, resamples=5).mean("")
    longer = h * torch.from_numpy(np.random.default_rng(seed).exponential(size=(len(h), 1)) + 0.1)
    np.testing.assert_allclose(directions.cosines(longer, {"": found}, resamples=5).mean(""), cosines)
    values = directions.importance(found.values, cosines)
    assert (values >= 0).all() and values.sum() <= 1 + 1e-9


@given(seeds, st.integers(1, 5))
def test_pruning_keeps_the_predictions_of_the_head_of_that_rank(seed, k):
    head = vectors(seed, 5)
    found = directions.decompose(head)
    right, rest = directions.ordered(found, found.values)
    left, values, vectors_t = np.linalg.svd(head.numpy())
    low_rank = (left[:, :k] * values[:k]) @ vectors_t[:k]
    np.testing.assert_allclose((right[:, :k] @ rest[:k]).T.numpy(), low_rank, atol=1e-9)


@given(seeds, st.integers(1, 11))
def test_average_precision_is_bounded_and_blind_to_monotone_changes(seed, positives):
    scores = np.round(np.random.default_rng(seed).normal(size=(12, 3)), 1)
    found = concepts.average_precision(concepts.ranks(scores), positives)
    again = concepts.average_precision(concepts.ranks(np.exp(3 * scores) - 2), positives)
    np.testing.assert_allclose(found, again)
    assert (found > 0).all() and (found <= 1 + 1e-12).all()
    perfect = concepts.ranks(-np.arange(12.0)[:, None])
    assert concepts.average_precision(perfect, positives)[0, 0] == 1


@given(seeds)
def test_weights_of_one_change_nothing_and_weights_of_two_are_images_twice(seed):
    rng = np.random.default_rng(seed)
    scores, weights = np.round(rng.normal(size=12), 1), rng.integers(0, 3, 12)
    weights[[0, 6]] = 1
    ranked = concepts.ranks(scores[:, None])[0]
    plain = concepts.average_precision(ranked[None], 6)[0, 0]
    assert np.isclose(concepts.weighted(ranked, 6, np.ones((1, 12)))[0], plain)
    copies = np.repeat(np.arange(12), weights)
    twice = concepts.average_precision(concepts.ranks(scores[copies][:, None]), int(weights[:6].sum()))[0, 0]
    assert np.isclose(concepts.weighted(ranked, 6, weights[None])[0], twice)


@given(seeds)
def test_cka_is_symmetric_at_most_one_and_blind_to_rotation_and_scale(seed):
    x, y = vectors(seed, 20), vectors(seed + 1, 20, 7)
    value = cka.cka(cka.terms(x, y, size=20))
    assert np.isclose(value, cka.cka(cka.terms(y, x, size=20)))
    turned = 0.1 * x @ kurtosis.rotation(10, seed) + 2
    assert np.isclose(cka.cka(cka.terms(turned, y, size=20)), value, atol=1e-8)
    assert np.isclose(cka.cka(cka.terms(x, x, size=20)), 1)


@given(seeds, st.sampled_from([*robustness.AXES]))
def test_a_better_shifted_accuracy_is_a_higher_effective_robustness(seed, axis):
    rng = np.random.default_rng(seed)
    line = robustness.fit(rng.uniform(5, 95, 6), rng.uniform(5, 95, 6), axis)
    x = rng.uniform(0, 100, 5)
    low, high = (robustness.effective(x, y, line) for y in (rng.uniform(0, 50, 5), rng.uniform(50, 100, 5)))
    assert (low < high).all() and (low >= -100).all() and (high <= 100).all()
