"""Kurtosis, streaming and CKA against scipy, closed forms and hand-computed cases."""

import numpy as np
import pytest
import torch
from scipy import stats

from lib.errors import UserError
from lib.outliers import cka, directions, kurtosis, saved, streaming

rng = np.random.default_rng(0)
X = torch.from_numpy(rng.normal(size=(60, 24)) ** 3)


def test_kurtosis_agrees_with_scipy():
    theirs = stats.kurtosis(X.numpy(), axis=1, fisher=False, bias=True)
    np.testing.assert_allclose(kurtosis.kurtosis(X).numpy(), theirs, rtol=1e-12)
    np.testing.assert_allclose(kurtosis.kurtosis(X.float()).numpy(), theirs, rtol=1e-4)
    np.testing.assert_allclose(kurtosis.kurtosis(-7 * X + 3).numpy(), theirs, rtol=1e-10)


@pytest.mark.parametrize("d", [4, 5, 512])
def test_a_single_other_coordinate_has_the_largest_kurtosis(d):
    assert float(kurtosis.kurtosis(torch.eye(d)[:1])) == pytest.approx(kurtosis.largest(d))
    assert kurtosis.largest(d) == pytest.approx(d - 2 + 1 / (d - 1))
    assert kurtosis.relative(kurtosis.largest(d), d) == 1 and kurtosis.relative(kurtosis.gaussian(d), d) == 0


def test_gaussian_vectors_have_the_expected_kurtosis():
    assert [round(kurtosis.gaussian(d), 3) for d in (512, 768, 1024)] == [2.988, 2.992, 2.994]
    found = kurtosis.kurtosis(torch.from_numpy(rng.normal(size=(20_000, 16)))).mean()
    assert float(found) == pytest.approx(kurtosis.gaussian(16), abs=0.02)


def test_two_or_three_coordinates_have_no_choice():
    assert float(kurtosis.kurtosis(torch.tensor([[1.0, 0.0]]))) == pytest.approx(1)
    np.testing.assert_allclose(kurtosis.kurtosis(torch.from_numpy(rng.normal(size=(9, 3)))).numpy(), 1.5)
    assert np.isnan(kurtosis.relative(1.5, 3)) and np.isnan(kurtosis.relative(np.ones(4), 2)).all()
    two = kurtosis.each(torch.eye(2) + 0.1)[1]
    assert two["raw"].tolist() == pytest.approx([1, 1]) and np.isnan(two["without_top"]).all()


@pytest.mark.parametrize("z, d, expected", [(5, 512, 3.8), (10, 512, 15.9), (20, 512, 100), (20, 1024, 83)])
def test_one_outlier_among_gaussian_coordinates_gives_the_values_of_the_specification(z, d, expected):
    gauss = rng.normal(size=(2000, d))
    gauss[:, 0] = z
    assert float(kurtosis.kurtosis(gauss).mean()) == pytest.approx(expected, rel=0.03)


def test_coordinates_and_measures_by_hand():
    h = torch.tensor([[10.0, 1.0, -1.0, 0.0], [10.0, -1.0, 0.0, 1.0], [10.0, 0.0, 2.0, -2.0]])
    about, found = kurtosis.each(h)
    theirs = stats.kurtosis(h.numpy(), axis=1, fisher=False)
    assert about.top == 0 and about.n == 3 and about.mean.tolist() == pytest.approx([10, 0, 1 / 3, -1 / 3])
    np.testing.assert_allclose(found["raw"], theirs)
    np.testing.assert_allclose(found["centred"], stats.kurtosis((h - h.mean(0)).numpy(), axis=1, fisher=False))
    np.testing.assert_allclose(found["without_top"], stats.kurtosis(h[:, 1:].numpy(), axis=1, fisher=False))
    np.testing.assert_allclose(found["ratio"], [10 / 3, 10 / 3, 10 / 3.5])
    np.testing.assert_allclose(found["max_z"], np.abs(stats.zscore(h.numpy(), axis=1)).max(1))
    np.testing.assert_allclose(found["relative"], (theirs - 9 / 5) / (2 + 1 / 3 - 9 / 5), rtol=1e-5)
    assert about.contribution.sum() == pytest.approx(theirs.mean()) and np.isnan(found["common"]).all()
    assert about.contribution[0] == pytest.approx(found["top"].mean())
    assert about.outliers.tolist() == []  # of four coordinates none can lie three deviations out


def test_a_constant_outlier_vanishes_when_centred_and_when_rotated():
    h = rng.normal(size=(300, 64))
    h[:, 5] += 40
    about, found = kurtosis.each(h)
    mean = {name: values.mean() for name, values in found.items()}
    assert about.top == 5 and about.outliers.tolist() == [5] and mean["top"] / mean["raw"] > 0.95
    assert mean["raw"] > 50 and mean["common"] == pytest.approx(mean["raw"])  # of 64 coordinates, all
    assert mean["centred"] == pytest.approx(3, abs=0.2) and mean["without_top"] == pytest.approx(3, abs=0.2)
    assert mean["rotated"] == pytest.approx(3, abs=0.6)


def test_rotations_are_orthogonal_and_follow_their_seed():
    turn = kurtosis.rotation(20, 3)
    np.testing.assert_allclose((turn @ turn.T).numpy(), np.eye(20), atol=1e-12)
    assert (kurtosis.rotation(20, 3) == turn).all() and not (kurtosis.rotation(20, 3, 1) == turn).all()


def test_random_sets_of_all_coordinates_are_all_coordinates():
    np.testing.assert_allclose(kurtosis.subspaces(X, 24), kurtosis.kurtosis(X))
    assert (kurtosis.subspaces(X, 4) < kurtosis.largest(4)).all()
    with pytest.raises(UserError, match="d = 25"):
        kurtosis.subspaces(X, 25)


# --- streaming


def test_the_batch_size_changes_nothing():
    small, large = (kurtosis.averaged(X, size=size)[1] for size in (7, 60))
    for name in ("raw", "centred", "max_z"):
        assert small.mean(name) == pytest.approx(large.mean(name))
        np.testing.assert_allclose(small.draws(name), large.draws(name))


def test_what_is_kept_of_each_image_averages_to_what_a_file_gives():
    (_, each), (_, averages) = kurtosis.each(X), kurtosis.averaged(X)
    assert averages.names == list(each)
    for name in each:
        np.testing.assert_allclose(averages.mean(name), each[name].mean())


class Far:
    """Embeddings that exist only where they are asked for."""

    def __init__(self, n, d=16):
        self.shape, self.asked = (n, d), []

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        start, stop, _ = part.indices(len(self))
        self.asked.append(stop - start)
        return np.random.default_rng(start).normal(size=(stop - start, self.shape[1]))


def test_what_is_kept_does_not_grow_with_the_images():
    import tracemalloc

    peaks = []
    for n in (2_000, 20_000):
        far = Far(n)
        tracemalloc.start()
        about, _ = kurtosis.averaged(far)
        directions.cosines(far, {"": directions.decompose(np.eye(16))}, resamples=50)
        cka.terms(far, far)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert about.n == n and max(far.asked) <= streaming.BATCH
    assert peaks[1] < 1.3 * peaks[0]


def test_the_poisson_bootstrap_agrees_with_scipy():
    values = rng.exponential(size=2000)
    averages = streaming.Averages(seed=1)
    for part in np.split(values, 4):
        averages.add({"x": torch.from_numpy(part)})
    low, high = np.quantile(averages.draws("x"), [0.025, 0.975])
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert averages.mean("x") == pytest.approx(values.mean()) and averages.n == 2000
    np.testing.assert_allclose([low, high], theirs, atol=0.008)


def test_draws_are_paired_between_models():
    first, second = (streaming.Averages(seed=0) for _ in range(2))
    first.add({"x": X[:, 0]})
    second.add({"x": X[:, 0] + 1})
    np.testing.assert_allclose(second.draws("x") - first.draws("x"), 1)


BAD = {
    "NaN": (torch.tensor([[1.0, 2.0], [np.nan, 0.0]]), "1 rows of the embeddings hold NaN .* first is row 1"),
    "rank": (torch.zeros(4), r"shape \[4\]"),
    "no rows": (torch.zeros(0, 4), r"shape \[0, 4\]"),
    "all zero": (torch.zeros(3, 4), "3 rows of the embeddings are all zero"),
    "one coordinate": (torch.ones(3, 1), "a single coordinate"),
    "constant rows": (torch.ones(3, 4), "no spread over their coordinates"),
    "one image": (X[:1], "at least two embeddings"),
    "the same image twice": (X[[0, 0]], "no spread"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_embeddings_are_one_clear_sentence(case):
    embeddings, message = BAD[case]
    with pytest.raises(UserError, match=message):
        kurtosis.each(embeddings)


# --- real CLIP


def test_real_clip_has_the_kurtosis_measured_elsewhere(real):
    found = saved.embeddings(real("coco500_clip_vit_b16.npy"))
    for rows, raw, without, top in zip(found.values(), (87.2, 77.0), (8.6, 4.4), (442, 362), strict=True):
        about, averages = kurtosis.averaged(rows)
        assert averages.mean("raw") == pytest.approx(raw, abs=0.05)
        assert averages.mean("without_top") == pytest.approx(without, abs=0.05)
        assert averages.mean("rotated") == pytest.approx(3, abs=0.1)
        assert about.top == top and about.n == 500


# --- CKA


def brute_force_hsic(k, m):
    """The unbiased estimate as a mean over quadruples of distinct images (Song et al. 2012, theorem 1)."""
    from itertools import permutations

    n, total, count = len(k), 0.0, 0
    for i, j, q, r in permutations(range(n), 4):
        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        count += 1
    return total / count


def test_hsic_is_the_mean_over_quadruples():
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 4))
    expected = brute_force_hsic(x @ x.T, y @ y.T)
    assert cka.hsic(x, y) == pytest.approx(expected, rel=1e-10)


def full(x, y, size):
    return float(cka.cka(cka.terms(x, y, size).mean(axis=0)))


def test_cka_of_the_same_images_turned_and_scaled_is_one():
    x = torch.from_numpy(rng.normal(size=(80, 6)))
    terms = cka.terms(x, 3 * x @ kurtosis.rotation(6) + 5, size=20)
    assert terms.shape == (4, 3)
    np.testing.assert_allclose(cka.cka(terms), 1)  # in each batch


def test_cka_of_unrelated_embeddings_is_around_zero_and_of_half_related_ones_between():
    x, y = (rng.normal(size=(2000, 10)) for _ in range(2))
    assert abs(full(x, y, 50)) < 0.03
    half = full(x, np.hstack([x, y]), 50)
    assert half == pytest.approx(np.sqrt(0.5), abs=0.03)  # of two blocks of the same size one agrees


def test_minibatches_estimate_what_the_full_batch_does():
    x = rng.normal(size=(1500, 5))
    y = x @ rng.normal(size=(5, 5)) + rng.normal(size=(1500, 5))
    assert full(x, y, 10) == pytest.approx(full(x, y, 1500), abs=0.03)
    assert len(cka.terms(x[:23], y[:23], 10)) == 2  # a last batch of three is too small


def test_cka_of_what_does_not_vary_is_not_a_number():
    assert np.isnan(cka.cka([0.0, 1.0, 0.0])) and cka.cka([[1.0, 4.0, 1.0], [0.0, 1.0, 1.0]]).tolist() == [0.5, 0]


@pytest.mark.parametrize(
    "x, y, size, message", [(X, X[:50], 20, "60 and 50 embeddings"), (X, X, 3, "batches of 4 or more")]
)
def test_bad_pairs_are_one_clear_sentence(x, y, size, message):
    with pytest.raises(UserError, match=message):
        cka.terms(x, y, size)
