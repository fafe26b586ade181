"""Kurtosis, streaming and CKA against scipy, closed forms and hand-computed cases."""

import numpy as np
import pytest
import torch
from scipy import stats

from lib.errors import UserError
from lib.outliers import cka, directions, kurtosis, rows, saved, streaming

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
    assert rows.of_embeddings(torch.eye(2) + 0.1)["metrics"]["raw"][0] == pytest.approx(1)


@pytest.mark.parametrize("z, d, expected", [(5, 512, 3.8), (10, 512, 15.9), (20, 512, 100), (20, 1024, 83)])
def test_one_outlier_among_gaussian_coordinates_gives_the_values_of_the_specification(z, d, expected):
    gauss = rng.normal(size=(2000, d))
    gauss[:, 0] = z
    assert float(kurtosis.kurtosis(gauss).mean()) == pytest.approx(expected, rel=0.03)


def test_a_profile_by_hand():
    h = torch.tensor([[10.0, 1.0, -1.0, 0.0], [10.0, -1.0, 0.0, 1.0], [10.0, 0.0, 2.0, -2.0]])
    found = kurtosis.profile(h)
    theirs = stats.kurtosis(h.numpy(), axis=1, fisher=False)
    centred = stats.kurtosis((h - h.mean(0)).numpy(), axis=1, fisher=False)
    assert found.top == 0 and found.n == 3 and found.d == 4
    assert found.averages.mean("raw") == pytest.approx(theirs.mean())
    assert found.averages.mean("centred") == pytest.approx(centred.mean())
    without = stats.kurtosis(h[:, 1:].numpy(), axis=1, fisher=False).mean()
    assert found.averages.mean("without_top") == pytest.approx(without)
    assert found.averages.mean("ratio") == pytest.approx(np.mean([10 / 3, 10 / 3, 10 / 3.5]))
    assert found.contribution.sum() == pytest.approx(theirs.mean())
    assert found.share[0] == pytest.approx(found.averages.mean("top") / theirs.mean())
    assert found.outliers.tolist() == []  # of four coordinates none can lie three deviations out


def test_a_constant_outlier_vanishes_when_centred_and_when_rotated():
    h = rng.normal(size=(300, 64))
    h[:, 5] += 40
    found = kurtosis.profile(h)
    assert found.top == 5 and found.outliers.tolist() == [5] and found.share[0] > 0.95
    assert found.averages.mean("raw") > 50
    for control in ("centred", "without_top"):
        assert found.averages.mean(control) == pytest.approx(3, abs=0.2)
    assert found.averages.mean("rotated") == pytest.approx(3, abs=0.6)


def test_rotations_are_orthogonal_and_follow_their_seed():
    turn = kurtosis.rotation(20, 3)
    np.testing.assert_allclose((turn @ turn.T).numpy(), np.eye(20), atol=1e-12)
    assert (kurtosis.rotation(20, 3) == turn).all() and not (kurtosis.rotation(20, [3, 1]) == turn).all()


def test_random_sets_of_all_coordinates_are_all_coordinates():
    assert kurtosis.subspaces(X, 24, draws=3)[0] == pytest.approx(float(kurtosis.kurtosis(X).mean()))
    assert kurtosis.subspaces(X, 4, draws=3)[0] < kurtosis.largest(4)
    with pytest.raises(UserError, match="d = 25"):
        kurtosis.subspaces(X, 25)


# --- streaming


def test_the_batch_size_changes_nothing():
    small, large = (kurtosis.profile(X, size=size).averages for size in (7, 60))
    for name in ("raw", "centred", "max_z"):
        assert small.mean(name) == pytest.approx(large.mean(name))
        np.testing.assert_allclose(small.draws(name), large.draws(name))


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
        profile = kurtosis.profile(far, resamples=50)
        directions.measure(far, directions.decompose(np.eye(16)), resamples=50)
        cka.cka(far, far, resamples=50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert profile.n == n and max(far.asked) <= streaming.BATCH
    assert peaks[1] < 1.3 * peaks[0]


def test_the_poisson_bootstrap_agrees_with_scipy():
    values = rng.exponential(size=2000)
    averages = streaming.Averages(seed=1)
    for part in np.split(values, 4):
        averages.add({"x": torch.from_numpy(part)})
    mean, low, high, n = averages.interval("x")
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert (mean, n) == (pytest.approx(values.mean()), 2000)
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
        kurtosis.profile(embeddings)


# --- real CLIP


def test_real_clip_has_the_kurtosis_measured_elsewhere(real):
    found = saved.embeddings(real("coco500_clip_vit_b16.npy"))
    images, captions = (rows.of_embeddings(r) for r in found.values())
    for result, raw, without, top in ((images, 87.2, 8.6, 442), (captions, 77.0, 4.4, 362)):
        assert result["metrics"]["raw"][0] == pytest.approx(raw, abs=0.05)
        assert result["metrics"]["without_top"][0] == pytest.approx(without, abs=0.05)
        assert result["notes"]["top"] == top and result["metrics"]["raw"][3] == 500
        assert result["metrics"]["rotated"][0] == pytest.approx(3, abs=0.1)


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


def test_cka_of_the_same_images_turned_and_scaled_is_one():
    x = torch.from_numpy(rng.normal(size=(80, 6)))
    turned = 3 * x @ kurtosis.rotation(6) + 5
    value, low, high, n = cka.cka(x, turned, size=20)
    assert (value, n) == (pytest.approx(1), 4) and low == pytest.approx(1) and high == pytest.approx(1)


def test_cka_of_unrelated_embeddings_is_around_zero_and_of_half_related_ones_between():
    x, y = (rng.normal(size=(2000, 10)) for _ in range(2))
    assert abs(cka.cka(x, y, size=50)[0]) < 0.03
    half = cka.cka(x, np.hstack([x, y]), size=50)[0]
    assert half == pytest.approx(np.sqrt(0.5), abs=0.03)  # of two blocks of the same size one agrees


def test_minibatches_estimate_what_the_full_batch_does():
    x = rng.normal(size=(1500, 5))
    y = x @ rng.normal(size=(5, 5)) + rng.normal(size=(1500, 5))
    small, full = cka.cka(x, y, size=10)[0], cka.cka(x, y, size=1500)
    assert small == pytest.approx(full[0], abs=0.03) and np.isnan(full[1]) and full[3] == 1


@pytest.mark.parametrize(
    "x, y, size, message",
    [
        (X, X[:50], 20, "60 and 50 embeddings"),
        (X, X, 3, "batches of 4 or more"),
        (X, torch.ones(60, 4), 20, "does not vary"),
    ],
)
def test_bad_pairs_are_one_clear_sentence(x, y, size, message):
    with pytest.raises(UserError, match=message):
        cka.cka(x, y, size)
