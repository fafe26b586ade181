"""Encoded concepts against scikit-learn and cases computed by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from lib.errors import UserError
from lib.outliers import concepts, observe_concepts, probes
from lib.outliers.options import Concepts

rng = np.random.default_rng(2)
N = 120
LABELS = rng.random((N, 4)) < [0.5, 0.3, 0.2, 0.02]
NAMES = ["half", "third", "fifth", "rare"]
SCORES = rng.normal(size=(N, 5)) + LABELS[:, :1] * [0, 0, 3, 0, -3]


def theirs(scores, labels, **options):
    return [average_precision_score(labels, sign * s, **options) for sign in (1, -1) for s in scores.T]


@pytest.mark.parametrize("digits", [8, 0], ids=["distinct", "many ties"])
def test_average_precision_agrees_with_scikit_learn(digits):
    scores = np.round(SCORES, digits)
    order = np.argsort(~LABELS[:, 0], kind="stable")  # positives first
    ours = concepts.average_precision(concepts.ranks(scores[order]), int(LABELS[:, 0].sum()))
    np.testing.assert_allclose(ours.ravel(), theirs(scores, LABELS[:, 0]), atol=1e-12)


def test_average_precision_by_hand():
    ranked = concepts.ranks(np.array([[0.9], [0.1], [0.5], [0.4]]))  # positives at ranks 1 and 4
    assert concepts.average_precision(ranked, 2)[:, 0].tolist() == [(1 + 2 / 4) / 2, (1 + 2 / 4) / 2]
    tied = concepts.ranks(np.ones((4, 1)))
    assert concepts.average_precision(tied, 1)[:, 0].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("digits", [8, 0], ids=["distinct", "many ties"])
def test_weighted_average_precision_agrees_with_scikit_learn(digits):
    scores, weights = np.round(SCORES[:, 2], digits), rng.poisson(1.0, (3, N))
    order = np.argsort(~LABELS[:, 1], kind="stable")
    ranked = concepts.ranks(scores[order][:, None])[0]
    ours = concepts.weighted(ranked, int(LABELS[:, 1].sum()), weights[:, order])
    expected = [average_precision_score(LABELS[:, 1], scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_ranks_are_dense_and_start_at_the_highest():
    assert concepts.ranks(np.array([[1.0, 5.0], [3.0, 5.0], [3.0, 7.0]])).tolist() == [[1, 0, 0], [1, 1, 0]]


def test_rare_concepts_are_left_out_by_name():
    columns, dropped = concepts.choose(LABELS, NAMES, minimum=20)
    assert columns.tolist() == [0, 1, 2]
    assert dropped == {"rare": (int(LABELS[:, 3].sum()), int((~LABELS[:, 3]).sum()))}
    assert concepts.choose(~LABELS, NAMES)[1].keys() == {"rare"}  # too few without it


def test_samples_are_balanced_seeded_and_bounded():
    how = concepts.Sampling(draws=2, most=10, seed=3)
    drawn, k = concepts.samples(LABELS, 1, how)
    assert k == 10 and len(drawn) == 2
    for images in drawn:
        assert LABELS[images[:10], 1].all() and not LABELS[images[10:], 1].any() and len(set(images)) == 20
    again, _ = concepts.samples(LABELS, 1, how)
    assert (again[0] == drawn[0]).all() and not (drawn[0] == drawn[1]).all()
    everything, k = concepts.samples(LABELS, 1, concepts.Sampling(draws=0))
    assert len(everything) == 1 and sorted(everything[0]) == list(range(N)) and k == LABELS[:, 1].sum()


def found_by(seed=0):
    ranked, columns = concepts.ranks(SCORES), concepts.choose(LABELS, NAMES)[0]
    return ranked, columns, concepts.precisions(ranked, LABELS, columns, concepts.Sampling(seed=seed))


def test_precisions_average_over_the_draws():
    precision = found_by(seed=1)[2]
    assert precision.shape == (2, 5, 3)
    drawn, k = concepts.samples(LABELS, 0, concepts.Sampling(seed=1))
    expected = np.mean([theirs(SCORES[images], np.arange(2 * k) < k) for images in drawn], axis=0)
    np.testing.assert_allclose(precision[:, :, 0].ravel(), expected, atol=1e-12)


def test_the_best_direction_and_its_sign():
    score, sign, direction = concepts.best(found_by()[2])
    assert direction[0] in (2, 4) and score[0] > 0.9
    assert sign[0] == {2: 0, 4: 1}[direction[0]]


def test_overlap_agrees_with_sets():
    first, second, third = (rng.random(50) < 0.5 for _ in range(3))
    a, b, c = (set(np.flatnonzero(x)) for x in (first, second, third))
    regions = concepts.overlap(first, second, third)
    assert regions[True, True, True] == len(a & b & c) and regions[True, False, False] == len(a - b - c)
    assert regions[False, True, True] == len((b & c) - a) and sum(regions.values()) == len(a | b | c)


def test_a_direction_found_by_luck_does_not_carry_over():
    labels = rng.random((60, 3)) < 0.5
    ranked, columns, how = concepts.ranks(rng.normal(size=(60, 400))), np.arange(3), concepts.Sampling()
    lucky = concepts.best(concepts.precisions(ranked, labels, columns, how))[0]
    again, drawn = concepts.best_on_new_images(ranked, labels, columns, how)
    assert drawn.shape == (concepts.RESAMPLES, 3) and abs(np.median(drawn) - np.median(again)) < 0.1
    assert lucky.min() > 0.7 and again.mean() < 0.65


@pytest.mark.parametrize("k, lowest, highest", [(5, 0.97, 1), (10, 0.3, 0.7), (20, 0, 0.02)])
def test_chance_of_some_random_direction_at_the_threshold(k, lowest, highest):
    """Independent projections on 512 directions: 1.00, 0.49 and about 0 in the specification."""
    hits = 0
    for _ in range(40):
        ranked = concepts.ranks(rng.normal(size=(2 * k, 512)))
        hits += concepts.average_precision(ranked, k)[0].max() >= 0.9
    assert lowest <= hits / 40 <= highest


def test_resampled_precisions_spread_around_the_value():
    ranked, columns, precision = found_by(seed=2)
    score, *chosen = concepts.best(precision)
    drawn = concepts.resampled(ranked, LABELS, columns, chosen, concepts.Sampling(seed=2), resamples=200)
    assert drawn.shape == (200, 3)
    np.testing.assert_allclose(np.median(drawn, axis=0), score, atol=0.05)
    assert (drawn.std(axis=0) > 0.001).all()


def test_an_embedding_that_holds_the_labels_encodes_them_all():
    labels = rng.random((200, 3)) < 0.4
    h = torch.from_numpy(np.hstack([labels + rng.normal(size=(200, 3)) / 100, rng.normal(size=(200, 3))]))
    probe = probes.Probe(None, labels, ["a", "b", "c"], ["part", "part", "species"])
    seen = observe_concepts.encoded(h, torch.eye(6, dtype=torch.float64), probe, Concepts())
    ap = seen.table.pivot(index="concept", columns="choice", values="ap")
    encoded = ["head", "one sign", "all negatives", "axes", "new images"]
    assert (ap[encoded] >= 0.99).all().all() and (ap[[f"random {k}" for k in range(1, 6)]] < 0.99).all().all()
    head = seen.table[seen.table["choice"] == "head"]
    assert head["direction"].tolist() == [0, 1, 2] and head["sign"].tolist() == [1, 1, 1]
    assert head["positives"].tolist() == labels.sum(0).tolist() and head["kind"].tolist()[2] == "species"
    assert seen.tensors["by direction"].tolist() == [1, 1, 0, 0, 0, 0]  # the classes of the head do not count
    assert seen.tensors["drawn head"].shape == (concepts.RESAMPLES, 3) and seen.tensors["drawn head"].all()
    first = seen.table[seen.table["choice"] == "first direction"].set_index("concept")["ap"]
    assert first["a"] > 0.99 and first["b"] < 0.8


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: concepts.choose(LABELS, NAMES, minimum=100), "None of 4 concepts has 100 images with it"),
        (lambda: concepts.choose(LABELS, NAMES[:2]), r"labels of 2 concepts are bool \[120, 4\]"),
        (lambda: concepts.choose(LABELS[:, 0], NAMES), r"are bool \[120\]; expected bool \[images, 4\]"),
        (lambda: concepts.choose(LABELS * 2, NAMES), "are int64"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
