"""Differences, correlations and tables of the outlier wing, on made-up observations."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.book import ledger
from lib.outliers import concepts, contrasts, directions, summaries
from lib.outliers.contrasts import Drawn
from lib.run import Found
from lib.show import published

rng = np.random.default_rng(5)
NAMES = ["RN50-supervised", "RN50", "RN50-finetuned", "ViT-B-32", "ViT-B-32-supervised", "RN50-yfcc", "ViT-L-14"]
VALUES = dict(zip(NAMES, [3.0, 5, 4, 9, 2, 1, 7], strict=True))


def observed(noise=None, names=NAMES, n=50):
    """One line an image, "raw" its model's value and some noise; the same for all models where it is given."""
    parts = []
    for m in names:
        own = rng.normal(size=n) if noise is None else noise
        own = own - own.mean()
        parts.append(pd.DataFrame({"model": m, "title": m, "image": np.arange(n), "raw": VALUES.get(m, 0) + own}))
    return contrasts.described(pd.concat(parts, ignore_index=True))


TABLE = observed()
MODELS = contrasts.models_of(TABLE)
RAW = contrasts.means(TABLE, "raw")


def test_lines_are_described_and_put_in_the_order_of_the_groups():
    assert list(MODELS["group"]) == ["zero-shot"] * 4 + ["fine-tuned"] + ["supervised"] * 2
    assert MODELS.loc["RN50-yfcc", "backbone"] == "RN50" and MODELS.loc["RN50-yfcc", "data"] == "15M"
    strange = ["torchvision/resnet50", "RN50:random", "ViT-B-32/laion2b_e16", "my embeddings"]
    found = contrasts.models_of(observed(names=strange))
    assert found["group"].to_dict() == dict(zip(strange, ["supervised", *["zero-shot"] * 2, "saved"], strict=True))
    assert found.loc["RN50:random", "backbone"] == "RN50" and found["own"].all()  # no comparison but with each other
    assert len(contrasts.models_of(contrasts.described(pd.DataFrame()))) == 0


def test_pairs_start_from_the_backbones_own_zero_shot_model():
    assert contrasts.pairs(MODELS, ["supervised"]) == [
        ("RN50", "RN50-supervised"),
        ("ViT-B-32", "ViT-B-32-supervised"),
    ]
    assert contrasts.pairs(MODELS, ["fine-tuned"], group="supervised") == [("RN50-supervised", "RN50-finetuned")]
    assert contrasts.pairs(MODELS, ["captions"]) == []
    assert contrasts.by_pretraining(MODELS) == [("RN50", "RN50-yfcc")]
    assert contrasts.by_pretraining(MODELS, ["cc12m"]) == []


def test_differences_by_hand():
    value, low, high, n = RAW.difference(contrasts.pairs(MODELS, ["fine-tuned", "supervised"]))[:4]
    assert value == pytest.approx((1 + 2 + 7) / 3) and n == 3 and low < value < high
    assert RAW.difference(contrasts.pairs(MODELS, ["fine-tuned"], group="supervised")).value == pytest.approx(3 - 4)
    assert np.isnan(RAW.difference(contrasts.pairs(MODELS, ["captions"])).value)
    assert RAW.mean(["RN50", "ViT-L-14", "no model"])[:4:3] == (pytest.approx(6), 2)
    assert RAW.apply(np.log10).mean(["RN50"]).value == pytest.approx(np.log10(5))


def test_paired_draws_give_narrow_differences():
    raw = contrasts.means(observed(noise=rng.normal(size=50)), "raw")
    value, low, high = raw.difference([("RN50", "RN50-supervised")])[:3]
    assert low == pytest.approx(value) and high == pytest.approx(value)
    assert raw.mean(["RN50"]).high - raw.mean(["RN50"]).low > 0.3


def test_differences_within_backbones_as_a_table():
    table = contrasts.within({"K": RAW}, MODELS)
    assert list(table.index) == [("K", "RN50"), ("K", "ViT-B-32"), ("K", "mean")]
    line = table.loc["K", "mean"]
    assert line["minus supervised"] == pytest.approx((2 + 7) / 2) and np.isnan(line["minus captions"])
    assert line["minus supervised_low"] < line["minus supervised"]
    assert not len(contrasts.within({"K": RAW}, MODELS[:0]))


def test_a_summary_of_images_has_intervals_and_that_of_a_file_its_own():
    table = TABLE.assign(d=96, before_d=96.0, outliers=0)
    assert contrasts.summary(table).loc["RN50", "raw"] == pytest.approx(5)
    line = contrasts.summary(table).loc["RN50"]
    assert line["raw_low"] < line["raw"] < line["raw_high"] and line["d"] == 96
    file = pd.DataFrame({"title": ["mine"], "raw": [3.0], "raw_low": [2.0], "raw_high": [4.0]})
    assert contrasts.summary(file).loc["mine", "raw_low"] == 2
    assert not len(contrasts.means(file, "raw").values)


def test_correlations_agree_with_scipy():
    y = RAW.apply(lambda x: x**2)
    other = Drawn(RAW.rows.copy())
    other.rows.iloc[0] = rng.normal(size=7)
    table = contrasts.goes_with({"accuracy": y, "other": other}, RAW, MODELS)
    for method, theirs in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        line = table.loc["accuracy", "all", method]
        assert line["value"] == pytest.approx(theirs(y.values, RAW.values).statistic) and line["n"] == 7
        assert line["value_low"] <= line["value"] + 1e-9 and line["other models"].startswith("[")
    assert np.isnan(table.loc["accuracy", "all", "spearman"]["given"])
    given = contrasts.goes_with({"accuracy": other, "squared": y}, RAW, MODELS).loc["squared", "all", "spearman"]
    assert given["given"] == pytest.approx(1)
    assert ("accuracy", "zero-shot", "spearman") in table.index
    assert not len(contrasts.goes_with({"accuracy": y}, RAW, MODELS[:2]))
    assert contrasts.over_models(y, RAW, NAMES).n == 7 and contrasts.over_models(y, RAW, NAMES[:2]).n == 2
    inside = contrasts.inside_backbones({"accuracy": y}, RAW, MODELS)
    assert inside.index.tolist() == ["RN50"] and inside.loc["RN50", "accuracy"].startswith("1.00 (p")


def test_a_partial_correlation_takes_the_common_cause_out():
    z = np.arange(200.0)
    a, b = rng.permutation(200) * 0.5 + z, rng.permutation(200) * 0.5 + z
    x, y, common = (Drawn(pd.DataFrame([v])) for v in (a, b, z))
    assert stats.spearmanr(a, b).statistic > 0.5
    assert abs(contrasts.partial(x, y, common, range(200))) < 0.2
    r = np.corrcoef([stats.rankdata(v) for v in (a, b, z)])
    formula = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert contrasts.partial(x, y, common, range(200)) == pytest.approx(formula)
    assert np.isnan(contrasts.partial(x, y, common, range(3)))


# --- summaries of observations


def test_curves_fall_from_the_largest():
    table = summaries.ranked({"a": np.array([1.0, 3, 2])}, "z")
    assert table["z"].tolist() == [3, 2, 1] and table["rank"].tolist() == [1, 2, 3]
    assert not len(summaries.ranked({}, "z"))


def test_likeness_is_the_ratio_of_means_over_minibatches():
    terms = pd.DataFrame({"model": "a", "xy": [1.0, 3.0], "xx": [4.0, 4.0], "yy": [1.0, 3.0]})
    found = summaries.likeness(Found(terms, {"a": {}}, {"a": {}}))
    assert found.values["a"] == pytest.approx(2 / np.sqrt(4 * 2)) and len(found.rows) == 1 + 2000
    assert set(found.rows["a"][1:].round(3)) == {0.5, 0.707, 0.866}  # of both, and of one of the two batches twice
    assert not len(summaries.likeness(Found(pd.DataFrame())).values)


def heads():
    parts = [
        pd.DataFrame({"model": "a", "head": h, "importance": x, "direction": range(3)})
        for h, x in zip(directions.HEADS, ([2.0, 8.0, 1.0], [1.0, 1.0, 2.0]), strict=True)
    ]
    tensors = {"ratio": np.array([[3.0, 5.0], [1.0, 3.0]]), "share": np.array([[0.7, 0.8], [0.4, 0.6]])}
    return Found(pd.concat(parts, ignore_index=True), {"a": tensors}, {"a": {}})


def test_how_far_a_direction_stands_out():
    assert (
        summaries.stand_out(heads()).values["a"] == 4 and summaries.stand_out(heads(), "row-centred").values["a"] == 2
    )
    assert summaries.stand_out(heads(), how="share").values["a"] == pytest.approx(8 / 11)
    assert summaries.stand_out(heads(), "row-centred").rows["a"].tolist()[1:] == [1, 3]
    table = summaries.over_median(heads().table)
    first = table[table["head"] == "as it is"]
    assert first["direction"].tolist() == [1, 0, 2] and first["over_median"].tolist() == [4, 1, 0.5]


def test_changes_of_each_way_by_hand():
    hit = np.array([[[100, 100, 0, 0], [100, 0, 0, 0]], [[0, 0, 0, 0], [100, 100, 100, 100]]], dtype=np.uint8)
    notes = {"ways": ["importance", "pca"], "shares": [0.0, 0.8]}
    table = pd.DataFrame({"way": ["importance", "pca"], "top1": 0.0, "share": 0.0})
    found = Found(table, {m: {"val": hit} for m in ("RN50", "ViT-B-32")}, dict.fromkeys(("RN50", "ViT-B-32"), notes))
    assert summaries.hits(found, "val", "importance", 0.8)["RN50"].tolist() == [100, 0, 0, 0]
    change = summaries.pruned(found, MODELS, 0.8)
    assert change["zero-shot (2)"].tolist() == [-25, 50] and list(change.index.names) == [
        "kept by"
    ]  # against the full head
    assert summaries.pruned(found, MODELS, 0.5)["zero-shot (2)"].isna().all()  # a share that was not pruned
    file = pd.DataFrame(
        {"title": "mine", "way": ["pca"], "share": 0.8, "agree": 90.0, "agree_low": 80, "agree_high": 95}
    )
    assert summaries.pruned(Found(file, {"mine": {}}, {"mine": {}}), MODELS, 0.8)["agree"].tolist() == [-10]


AP = {
    "RN50": [0.95, 0.9, 0.2, 0.99],
    "RN50-finetuned": [0.95, 0.1, 0.2, 0.99],
    "RN50-supervised": [0.1, 0.2, 0.91, 0.1],
}
KINDS = ["part", "part", "scene", "species"]


def encoding():
    parts = []
    for m, ap in AP.items():
        for choice, found in (("head", ap), ("random 1", [0.95, 0, 0, 0]), ("random 2", [0.95, 0.95, 0.95, 0])):
            line = {"model": m, "title": m, "concept": list("abcd"), "kind": KINDS, "choice": choice, "ap": found}
            parts.append(pd.DataFrame(line))
    drawn = {m: np.tile(np.array(ap) >= 0.9, (10, 1)).astype(np.uint8) for m, ap in AP.items()}
    tensors = {m: {"drawn head": d, "by direction": np.array([1, 0, 2])} for m, d in drawn.items()}
    return Found(contrasts.described(pd.concat(parts, ignore_index=True)), tensors, {m: {} for m in AP})


def test_concepts_are_counted_without_the_classes_of_the_head():
    found = summaries.encoded(encoding(), 0.9)
    assert found.values.to_dict() == {"RN50": 2, "RN50-finetuned": 1, "RN50-supervised": 1}
    assert found.rows["RN50"].tolist() == [2] * 11
    assert summaries.encoded(encoding(), 0.9, kind="species").values["RN50"] == 1
    counts = summaries.counted(encoding().table, 0.9).loc["RN50"]
    assert counts["head"] == 2 and counts["tested"] == 3
    assert counts[list(summaries.RANDOM)].tolist() == [2, 1, 3]
    poly = summaries.polysemanticity(encoding())
    assert poly.values["RN50"] == 1 and 0 <= poly.mean(["RN50"]).low < 1 < poly.mean(["RN50"]).high
    assert not len(summaries.counted(contrasts.described(pd.DataFrame()), 0.9))


def test_kinds_by_hand():
    found = encoding()
    table = summaries.kinds(found, contrasts.models_of(found.table), 0.9)
    assert table.loc["part"].iloc[0][["zero-shot", "fine-tuned", "supervised"]].tolist() == [100, 50, 0]
    assert table.loc["scene", "supervised"].item() == 100 and table.index.get_level_values("tested")[0] == 2


def test_regions_of_the_venn_diagram_are_those_of_sets():
    found = encoding()
    line = summaries.venn(found.table, contrasts.models_of(found.table), 0.9).loc["RN50"]
    assert list(line.index) == list(summaries.FIGURE4)
    assert (
        line[list(summaries.TRIO)].tolist() == [2, 1, 1]
        and line["zs+ft only"] == line["zs only"] == line["sup only"] == 1
    )
    assert line[list(summaries.REGIONS)].sum() == 3  # the union
    assert not len(summaries.venn(found.table, contrasts.models_of(found.table).iloc[:1], 0.9))


@pytest.mark.parametrize("model", ["RN50", "RN101", "ViT-B-16", "ViT-B-32"])
def test_published_totals_are_the_sums_of_their_regions(model):
    numbers = published.load("outlier_features").loc[model].set_index("metric")["value"].astype(float)
    for position, group in enumerate(summaries.TRIO):
        parts = [numbers[summaries.FIGURE4[name]] for name, who in summaries.REGIONS.items() if who[position]]
        assert sum(parts) == numbers[summaries.FIGURE4[group]]


def test_overlaps_do_not_depend_on_who_is_named_first():
    first, second = (rng.random(30) < 0.5 for _ in range(2))
    assert concepts.overlap(first, second)[True, False] == concepts.overlap(second, first)[False, True]


@pytest.mark.parametrize("exhibit", ["kurtosis", "privileged_directions", "concepts", "effective_robustness"])
def test_a_page_judges_the_claims_of_its_exhibit(exhibit):
    from lib.paths import ROOT

    page = (ROOT / "notebooks" / f"{exhibit}.ipynb").read_text(encoding="utf-8")
    assert all(f'\\"{claim["id"]}\\"' in page for claim in ledger.claims(exhibit))
