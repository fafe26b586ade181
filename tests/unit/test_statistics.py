"""Intervals, differences and correlations against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import statistics
from lib.errors import UserError
from lib.show import published

rng = np.random.default_rng(0)
X = rng.normal(size=7)
Y = X + rng.normal(size=7)


def seen(models: dict[str, float], images: int = 60, classes: int = 12) -> pd.DataFrame:
    """A table as an observe function gives it: each image has its own level, each model adds its own."""
    own = rng.normal(size=images)
    parts = [
        {"model": m, "title": m.upper(), "family": "ViT", "image": i, "class": i % classes, "auc": shift + own[i]}
        for m, shift in models.items()
        for i in range(images)
    ]
    return pd.DataFrame(parts)


def test_the_interval_of_a_mean_agrees_with_scipy():
    values = rng.exponential(size=300)
    found = statistics.estimate(np.append(values, np.nan))
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert (found.value, found.n) == (pytest.approx(values.mean()), 300)
    np.testing.assert_allclose(found[1:3], theirs, atol=0.02)
    assert statistics.estimate(values) == statistics.estimate(values) != statistics.estimate(values, seed=1)


def test_p_is_below_a_level_exactly_when_that_interval_leaves_out_zero():
    draws = np.random.default_rng(0).normal(1.9, 1.0, 1999)
    p = statistics.of_draws(1.9, draws, 1).p
    for level in (p * 0.95, p * 1.05):
        low, high = np.quantile(draws, [level / 2, 1 - level / 2])
        assert (low > 0) == (level > p)
    assert p == pytest.approx(2 * stats.norm.sf(1.9), rel=0.3)
    assert statistics.of_draws(-1.9, -draws, 1).p == p and statistics.of_draws(0.0, np.zeros(9), 1).p == 1
    assert np.isnan(statistics.of_draws(1.0, np.array([]), 1).p)


def test_nothing_has_no_interval_and_a_constant_has_none_to_speak_of():
    assert statistics.estimate([]).n == 0 and np.isnan(statistics.estimate([np.nan]).value)
    assert statistics.estimate([2.0, 2.0])[:4] == (2.0, 2.0, 2.0, 2)


def test_intervals_of_groups_stand_in_the_order_of_the_table():
    table = seen({"b": 1.0, "a": 0.0})
    found = statistics.interval(table, ["auc"], by="title", seed=3)
    assert list(found.index) == ["B", "A"] and list(found["n"]) == [12, 12]
    b = table[table["model"] == "b"]
    b = statistics.estimate(b["auc"], b["class"], seed=3)
    np.testing.assert_allclose(found.loc["B", ["auc", "auc_low", "auc_high"]].tolist(), b[:3])
    two = statistics.interval(table, ["auc"], by=["family", "title"])
    assert two.index.names == ["family", "title"]


def test_a_ratio_of_means_by_hand_and_its_interval_by_scipy():
    draw = np.random.default_rng(1)
    above, span = draw.random(60), 0.5 + draw.random(60)
    table = pd.DataFrame({"title": "M", "above": above, "span": span})
    found = statistics.interval(table, ["above"], under="span").loc["M"]
    assert found["above"] == pytest.approx(above.sum() / span.sum())
    theirs = stats.bootstrap(
        (above, span), lambda a, s, axis: a.mean(axis) / s.mean(axis),
        paired=True, vectorized=True, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found["above_low"], found["above_high"]) == pytest.approx(tuple(theirs), abs=0.015)
    nothing = statistics.interval(table.assign(span=0.0), ["above"], under="span").loc["M"]
    assert np.isnan(nothing["above_low"]) and not np.isfinite(nothing["above"])  # where blurring changes nothing


def test_groups_beside_each_other_keep_their_numbers_bounds_and_order():
    table = pd.concat([seen({"b": 1.0, "a": 0.0}).assign(parts=p, against=q) for p in "xy" for q in ("own", "null")])
    found = statistics.interval(table, ["auc"], by=["title", "parts", "against"])
    wide = statistics.beside(found, ["parts", "against"], "_")
    assert list(wide.index) == ["B", "A"] and wide.index.name == "title"
    for end in ("", "_low", "_high"):
        assert wide.loc["A", f"auc_y_null{end}"] == found.loc[("A", "y", "null"), f"auc{end}"]
    one = statistics.beside(found, "parts")
    assert list(one.index.names) == ["title", "against"]
    assert list(one) == [f"auc, {p}{end}" for end in ("", "_low", "_high") for p in "xy"]


def test_drawing_classes_is_wider_where_a_class_shares_its_value():
    """30 classes of 10 images that are all alike: the standard error is that of 30 numbers, not of 300."""
    levels = rng.normal(size=30)
    table = pd.DataFrame({"title": "m", "class": np.repeat(np.arange(30), 10), "x": np.repeat(levels, 10)})
    by_line = statistics.interval(table, ["x"], cluster=None).iloc[0]
    by_class = statistics.interval(table, ["x"]).iloc[0]  # as wherever a table has classes
    width = by_class["x_high"] - by_class["x_low"]
    assert by_class["n"] == 30 and by_class["x"] == pytest.approx(by_line["x"])
    theirs = stats.bootstrap((levels,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert width == pytest.approx(theirs.high - theirs.low, rel=0.1)
    assert width / (by_line["x_high"] - by_line["x_low"]) == pytest.approx(np.sqrt(10), rel=0.15)


def test_the_difference_of_two_models_is_paired_by_image():
    table = seen({"a": 0.0, "b": 0.5})
    found = statistics.difference(table, "auc", {"model": "b"}, {"model": "a"})
    assert found.n == 12 and found[:3] == pytest.approx((0.5, 0.5, 0.5))  # the images' own levels cancel
    means = statistics.difference(table, "auc", {"model": ["a", "b"]}, {"model": "a"}, cluster=None)
    assert means.value == pytest.approx(0.25) and means.n == 60
    assert np.isnan(statistics.difference(table, "auc", {"model": "c"}, {"model": "a"}).value)


def test_lines_are_drawn_where_no_class_is_known_and_a_class_itself_is_no_cluster():
    table = seen({"a": 0.0}).drop(columns="class")
    assert statistics.interval(table, ["auc"])["n"].tolist() == [60]
    unnamed = table.assign(**{"class": None})  # neurons of a hidden layer belong to none
    assert statistics.interval(unnamed, ["auc"])["n"].tolist() == [60] and statistics.numbered(unnamed) is None
    each = statistics.interval(seen({"a": 0.0}), ["auc"], by="class")
    assert each["n"].tolist() == [5] * 12 and (each["auc_low"] < each["auc_high"]).all()
    with pytest.raises(UserError, match="no column 'clas'"):
        statistics.interval(table, ["auc"], cluster="clas")


def test_many_images_are_drawn_in_chunks():
    means = statistics.resampled_means(rng.normal(size=(1, 20_000)), draws=400)  # two chunks
    assert means.shape == (400, 1) and means.std() == pytest.approx(1 / np.sqrt(20_000), rel=0.15)


def test_a_band_is_the_interval_at_each_point():
    curves = rng.normal(size=(40, 3))
    mean, low, high = statistics.band(curves)
    np.testing.assert_allclose((mean[1], low[1], high[1]), statistics.estimate(curves[:, 1])[:3])


@pytest.mark.parametrize("method, theirs", [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_coefficients_agree_with_scipy(method, theirs):
    ties = np.round(X, 0)
    assert statistics.coefficient(X, Y, method) == pytest.approx(theirs(X, Y).statistic)
    assert statistics.coefficient(ties, Y, method) == pytest.approx(theirs(ties, Y).statistic)
    stacked = statistics.coefficient(np.stack([X, -X]), Y, method)
    assert stacked == pytest.approx([theirs(X, Y).statistic, -theirs(X, Y).statistic])
    assert np.isnan(statistics.coefficient(np.ones(7), Y, method))


def test_an_unknown_method_and_an_unknown_column_are_refused():
    with pytest.raises(UserError, match="'kendall'"):
        statistics.coefficient(X, Y, "kendall")
    with pytest.raises(UserError, match="no column 'ack'. Did you mean 'auc'"):
        statistics.interval(seen({"a": 0.0}), ["ack"])


def test_permutation_p_agrees_with_scipy():
    def size(x):
        return abs(stats.pearsonr(x, Y[:5]).statistic)

    all_orders = {"permutation_type": "pairings", "n_resamples": np.inf, "alternative": "greater"}
    theirs = stats.permutation_test((X[:5],), size, **all_orders)
    assert statistics.permutation_p(X[:5], Y[:5]) == pytest.approx(theirs.pvalue)
    assert statistics.permutation_p(np.arange(4), np.arange(4)) == pytest.approx(2 / 24)
    many = rng.normal(size=(2, 12))
    assert statistics.permutation_p(*many) == pytest.approx(stats.pearsonr(*many).pvalue, abs=0.02)


def test_drawing_models_agrees_with_scipy_and_needs_five():
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    found = statistics.correlation(x, y)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=2000, rng=0,
    ).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(stats.pearsonr(x, y).statistic) and found.n == 30
    np.testing.assert_allclose(found[1:3], theirs, atol=0.03)
    few = statistics.correlation(X[:4], Y[:4])
    assert np.isfinite(few.value) and np.isnan(few[1:3]).all()


def test_drawing_images_covers_the_truth_of_a_simulation():
    """The true means correlate perfectly: the interval is wide with few images and closes with many."""
    truth = np.linspace(0, 1, 6)

    def width(n):
        lines = [
            {"model": str(m), "image": i, "x": t + rng.normal(), "y": t + rng.normal()}
            for m, t in enumerate(truth)
            for i in range(n)
        ]
        found = statistics.correlation_over_images(pd.DataFrame(lines), "x", "y")
        assert found.low <= 1.0 and found.high <= 1.0
        return found.high - found.low

    assert width(2000) < width(20) / 3


def test_a_table_of_correlations_by_family():
    levels = dict(zip("abcdefg", X, strict=True))
    table = seen(levels)
    table["top1"] = table["model"].map(dict(zip("abcdefg", Y, strict=True)))
    table.loc[table["model"].isin(list("ab")), "family"] = "ResNet"
    found = statistics.correlations(table, "auc", "top1")
    assert list(found.index) == [(g, m) for g in ("ViT", "all") for m in ("pearson", "spearman")]
    assert found.loc[("all", "pearson"), "value"] == pytest.approx(stats.pearsonr(X, Y).statistic)
    assert list(found["n"]) == [5, 5, 7, 7] and (found["images_low"] <= found["images_high"]).all()


def test_a_difference_lacking_one_of_its_models_is_none():
    table = seen({"a": 1.0, "b": 0.0})
    assert np.isfinite(statistics.difference(table, "auc", {"model": ["a"]}, {"model": ["b"]}).value)
    assert np.isnan(statistics.difference(table, "auc", {"model": ["a", "c"]}, {"model": ["b"]}).value)


def test_the_published_regression_is_the_one_that_the_paper_prints():
    """Accuracy = 11.24 AUC + 25.97 for ViTs; the paper's rounded table gives 11.25 and 25.90."""
    table = published.averaged()
    fits = statistics.regressions(table, "auc", "top1")
    assert fits.loc["ViT", "slope"] == pytest.approx(11.24, abs=0.05)
    assert fits.loc["ViT", "intercept"] == pytest.approx(25.97, abs=0.15)
    assert np.isnan(fits.loc["ConvNeXt", "slope"]) and fits.loc["ConvNeXt", "models"] == 2
    # the interval by hand: residual variance over the spread of AUC
    vit = table[table["family"] == "ViT"]
    spread = ((vit["auc"] - vit["auc"].mean()) ** 2).sum()
    left = vit["top1"] - fits.loc["ViT", "slope"] * vit["auc"] - fits.loc["ViT", "intercept"]
    half = stats.t.ppf(0.975, 5) * np.sqrt((left**2).sum() / 5 / spread)
    assert fits.loc["ViT", "slope_high"] - fits.loc["ViT", "slope"] == pytest.approx(half)


def test_published_tables_are_those_of_their_dataset():
    assert published.averaged("places365").loc["ViT-L/14", "auc"] == 3.427
    assert len(published.averaged("food101")) == 3 and not len(published.averaged("my/own/folder"))


def test_estimates_are_arranged_as_a_table_of_values_and_bounds():
    found = {("K", "RN50", "minus a"): statistics.Estimate(1, 0, 2), ("K", "RN50", "minus b"): statistics.Estimate(3.0)}
    table = statistics.arranged(found, ["of", "backbone"])
    assert list(table.index) == [("K", "RN50")] and list(table.index.names) == ["of", "backbone"]
    assert table["minus a_high"].item() == 2 and np.isnan(table["minus b_low"].item())
    assert len(statistics.arranged({}, ["of"])) == 0


def test_the_intervals_of_a_table_without_lines_are_a_table_without_lines():
    empty = statistics.interval(pd.DataFrame(), ["mi"], by=["model", "parts"])
    assert list(empty.columns) == ["mi", "mi_low", "mi_high", "n"] and list(empty.index.names) == ["model", "parts"]
