"""Intervals and correlations against scipy."""

import numpy as np
import pytest
from scipy import stats

from lib.errors import UserError
from lib.report import statistics

rng = np.random.default_rng(0)
X = rng.normal(size=7)
Y = X + rng.normal(size=7)


def test_interval_agrees_with_scipy():
    values = rng.exponential(size=300)
    mean, low, high, n = statistics.interval(np.append(values, np.nan))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert (mean, n) == (pytest.approx(values.mean()), 300)
    np.testing.assert_allclose([low, high], theirs, atol=0.015)
    assert statistics.interval(values) == statistics.interval(values) != statistics.interval(values, seed=1)


def test_interval_of_nothing_and_of_a_constant():
    assert statistics.interval([])[3] == 0 and np.isnan(statistics.interval([np.nan])[0])
    assert statistics.intervals([[np.nan, np.nan], [1.0, np.nan]])[1] == (1.0, 1.0, 1.0, 1)
    assert statistics.interval([2.0, 2.0])[:3] == (2.0, 2.0, 2.0)


def test_many_images_are_resampled_in_chunks():
    values = rng.normal(size=(1, 20_000))
    means = statistics.resampled_means(values, resamples=400)  # two chunks
    assert means.shape == (400, 1) and means.std() == pytest.approx(values.std() / np.sqrt(20_000), rel=0.15)


def test_band_is_the_interval_at_each_point():
    curves = rng.normal(size=(40, 3))
    mean, low, high = statistics.band(curves)
    np.testing.assert_allclose((mean[1], low[1], high[1]), statistics.interval(curves[:, 1])[:3])


@pytest.mark.parametrize("method, theirs", [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_coefficients_agree_with_scipy(method, theirs):
    ties = np.round(X, 0)
    assert statistics.coefficient(X, Y, method) == pytest.approx(theirs(X, Y).statistic)
    assert statistics.coefficient(ties, Y, method) == pytest.approx(theirs(ties, Y).statistic)
    stacked = statistics.coefficient(np.stack([X, -X]), Y, method)
    assert stacked == pytest.approx([theirs(X, Y).statistic, -theirs(X, Y).statistic])
    assert np.isnan(statistics.coefficient(np.ones(7), Y, method))


def test_an_unknown_method_is_refused():
    with pytest.raises(UserError, match="'kendall'"):
        statistics.coefficient(X, Y, "kendall")


def test_permutation_p_agrees_with_scipy():
    def size(x):
        return abs(stats.pearsonr(x, Y[:5]).statistic)

    all_orders = {"permutation_type": "pairings", "n_resamples": np.inf, "alternative": "greater"}
    theirs = stats.permutation_test((X[:5],), size, **all_orders)
    assert statistics.permutation_p(X[:5], Y[:5]) == pytest.approx(theirs.pvalue)
    assert statistics.permutation_p(np.arange(4), np.arange(4)) == pytest.approx(2 / 24)
    many = rng.normal(size=(2, 12))
    assert statistics.permutation_p(*many) == pytest.approx(stats.pearsonr(*many).pvalue, abs=0.02)


def test_resampling_models_agrees_with_scipy_and_needs_five():
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    low, high = statistics.over_models(x, y)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    np.testing.assert_allclose([low, high], theirs, atol=0.03)
    assert np.isnan(statistics.over_models(X[:4], Y[:4])).all()


def test_resampling_images_covers_the_truth_of_a_simulation():
    """The true means correlate perfectly: the interval is wide with few images and closes with many."""
    truth = np.linspace(0, 1, 6)

    def width(n):
        x, y = (truth[:, None] + rng.normal(size=(6, n)) for _ in range(2))
        low, high = statistics.over_images(x, y)
        assert low <= 1.0 and high <= 1.0
        return high - low

    assert width(2000) < width(20) / 3


def test_a_table_of_correlations():
    x, y = dict(zip("abcdefg", X, strict=True)), dict(zip("abcdefg", Y, strict=True))
    images = {m: rng.normal(v, 1, 50) for m, v in x.items()}, {m: rng.normal(v, 1, 50) for m, v in y.items()}
    table = statistics.correlations(x, y, {"all": list(x), "few": ["a", "b", "c"], "pair": ["a", "b"]}, *images)
    assert list(table["group"]) == ["all", "all", "few", "few"] and list(table["n"]) == [7, 7, 3, 3]
    assert table.loc[0, "value"] == pytest.approx(stats.pearsonr(X, Y).statistic)
    assert np.isnan(table.loc[2, "models_low"]) and (table["images_low"] <= table["images_high"]).all()
