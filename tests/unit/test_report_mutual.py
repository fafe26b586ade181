"""What the pages on Table 3 and Figure 3 print, against scipy and against the published figures."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.bestiary import Bestiary
from lib.report import figures, gallery, mutual, published

matplotlib.use("Agg")


@pytest.fixture
def rows_and_arrays():
    """Six made-up models of two families whose AUC rises with accuracy, 40 images each."""
    rng, rows, arrays = np.random.default_rng(0), {}, {}
    for k in range(6):
        labels = np.zeros(40, int)
        predicted = (rng.random(40) > 0.3 + 0.1 * k).astype(int)
        curves = np.sort(rng.random((40, 4)) + 0.3 * k, axis=1)[:, ::-1]
        ids = rng.permuted(np.tile(np.arange(12), (40, 1)), axis=1)[:, :3]
        language = np.tile(np.arange(5), (40, 1))
        arrays[f"m{k}"] = {
            "curves": curves,
            "curves_kmeans": curves,
            "ids_kmeans": ids,
            "predicted": predicted,
            "labels": labels,
            "language": language,
            "mi_wrong_class_kmeans": np.full(40, 0.2),
            "auc_wrong_class_kmeans": np.full(40, 0.1),
        }
        top1 = 100 * (predicted == labels).mean()
        rows[f"m{k}"] = {"title": f"M{k}", "family": "ViT" if k < 4 else "ResNet", "top1": top1, "auc": curves.mean()}
    return pd.DataFrame.from_dict(rows, orient="index"), arrays


def test_matches_are_counted_by_hand(rows_and_arrays):
    _, arrays = rows_and_arrays
    found = mutual.by_image(arrays["m0"])
    by_hand = [len(set(ids) & set(range(5))) for ids in arrays["m0"]["ids_kmeans"].tolist()]
    assert found["matches"].tolist() == by_hand


def test_correlations_are_those_of_scipy(rows_and_arrays):
    rows, arrays = rows_and_arrays
    found = mutual.correlations(rows, arrays).set_index(["x", "group", "method"])
    auc = [arrays[m]["curves"].mean() for m in rows.index]
    assert found.loc[("auc", "all", "pearson"), "value"] == pytest.approx(stats.pearsonr(auc, rows["top1"])[0])
    assert found.loc[("auc", "ViT", "spearman"), "value"] == pytest.approx(
        stats.spearmanr(auc[:4], rows["top1"][:4])[0]
    )
    assert set(found.reset_index()["group"]) == {"ViT", "all"}  # two ResNets are too few
    low, high = found.loc[("auc", "all", "pearson"), ["images_low", "images_high"]]
    assert low <= found.loc[("auc", "all", "pearson"), "value"] <= high


def test_published_correlations_are_those_of_the_specification():
    theirs = published.load("mutual_knowledge_table3")
    found = mutual.published_correlations(published.averaged()).set_index(["x", "group", "method"])["value"]
    vit = theirs[theirs["family"] == "ViT"]
    mean = vit[["auc_pca", "auc_kmeans"]].mean(axis=1)
    assert found["auc", "ViT", "pearson"] == pytest.approx(stats.pearsonr(mean, vit["top1"])[0])
    assert found["auc", "ViT", "spearman"] == pytest.approx(1.0)


def test_published_fit_is_the_one_that_the_paper_prints():
    # the paper: accuracy = 11.24 AUC + 25.97 for ViTs; its rounded table gives 11.25 and 25.90
    fits = mutual.regressions(published.averaged(), published.averaged()).set_index("family")
    assert fits.loc["ViT", "slope_published"] == pytest.approx(11.24, abs=0.05)
    assert fits.loc["ViT", "intercept_published"] == pytest.approx(25.97, abs=0.15)
    assert pd.isna(fits.loc["ConvNeXt", "slope_ours"])
    # the interval by hand: residual variance over the spread of AUC
    vit = published.averaged().query("family == 'ViT'")
    spread = ((vit["auc"] - vit["auc"].mean()) ** 2).sum()
    left = vit["top1"] - fits.loc["ViT", "slope_published"] * vit["auc"] - fits.loc["ViT", "intercept_published"]
    half = stats.t.ppf(0.975, 5) * np.sqrt((left**2).sum() / 5 / spread)
    assert fits.loc["ViT", "slope_published_high"] - fits.loc["ViT", "slope_published"] == pytest.approx(half)


def test_correlation_table_puts_published_beside_ours(rows_and_arrays):
    rows, arrays = rows_and_arrays
    found = mutual.correlations(rows, arrays)
    table = mutual.correlation_table(found, mutual.published_correlations(published.averaged()), "tab-x", "Caption.")
    first = table.cells.iloc[0]
    assert first["with top-1"] == "AUC"
    assert first["models"] == "ViT (4)"
    assert float(first["published"]) > 0.9
    assert "too few" not in table.markdown()


def test_two_models_give_no_correlation(rows_and_arrays):
    rows, arrays = rows_and_arrays
    found = mutual.correlations(rows.iloc[:2], arrays)
    table = mutual.correlation_table(found, mutual.published_correlations(published.averaged()), "tab-x", "Caption.")
    assert "needs three models" in table.markdown()
    assert mutual.pooled(found, "x") == {"x_pearson": "–", "x_spearman": "–"}


def test_measures_come_with_their_intervals(rows_and_arrays):
    rows, _ = rows_and_arrays
    measured = {"m0": {"released": (np.arange(5.0), np.ones(5)), "consistent": (np.zeros(5), np.ones(5))}}
    lines, columns = mutual.measure_rows(rows, measured)
    assert columns == {
        "mi_released": "MI, ln(NMK)",
        "auc_released": "AUC, ln(NMK)",
        "mi_consistent": "MI, ln K",
        "auc_consistent": "AUC, ln K",
    }
    assert lines.loc[0, "mi_released"] == 2
    assert lines.loc[0, "mi_released_low"] < 2 < lines.loc[0, "mi_released_high"]


def test_seed_columns_are_named_for_the_reader():
    spread = pd.DataFrame(columns=["title", "mi_seed0", "mi_seed0_low", "auc_seed0", "mi_range"])
    assert mutual.seed_columns(spread) == {"mi_seed0": "MI, seed 0", "auc_seed0": "AUC, seed 0", "mi_range": "MI range"}


def test_figures_draw_every_model(rows_and_arrays):
    rows, arrays = rows_and_arrays
    axes = figures.above_chance(rows, arrays)
    assert [len(ax.texts) for ax in axes] == [6, 6]
    rows = rows.assign(sketch=rows["top1"] / 2)
    panels = figures.shift_accuracy(rows, ["sketch"])
    assert len(panels) == 1


def test_gallery_sheets_hold_their_pictures():
    val = Bestiary("val", 48)
    axes = gallery.portraits(val)
    assert sum(len(ax.images) for ax in axes.flat) == 48
    assert sum(len(ax.images) for ax in gallery.masks(val, [0, 1]).flat) == 4
    coloured = gallery.coloured(val, 0)
    assert (coloured[~np.any(list(val.part_masks(0).values()), axis=0)] == 1).all()


def test_base_rates_count_species():
    val = Bestiary("val", 48)
    ax = gallery.base_rates(val)
    heights = {label.get_text(): bar.get_height() for label, bar in zip(ax.get_xticklabels(), ax.patches, strict=True)}
    assert heights["a bushy tail"] == sum("a bushy tail" in texts for texts in val.descriptors)
    assert len(heights) == len({text for texts in val.descriptors for text in texts})


def test_models_above_chance_are_counted():
    columns = {f"{q}_kmeans": [1.0, 2.0] for q in ("mi", "auc", "matches", "last_hit")}
    rows = pd.DataFrame(columns | {f"{q}_wrong_class_kmeans": [1.5, 1.5] for q in ("mi", "auc", "matches", "last_hit")})
    found = mutual.above_chance(rows, "t")
    assert found == {"t_mi_above": 1, "t_auc_above": 1, "t_matches_above": 1, "t_models": 2, "t_last_hit_earlier": 1}
