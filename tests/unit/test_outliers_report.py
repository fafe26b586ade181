"""What the pages on the second paper show: differences, correlations, regions and verdicts, on made-up rows."""

import types

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import paths
from lib.errors import UserError
from lib.outliers import concepts, robustness
from lib.report import outliers, published
from lib.report import robustness as under_shift

rng = np.random.default_rng(5)
NAMES = ["RN50-supervised", "RN50", "RN50-finetuned", "ViT-B-32", "ViT-B-32-supervised", "RN50-yfcc", "ViT-L-14"]


def made_up(names=NAMES, **columns):
    frame = pd.DataFrame({"title": names, "family": "", "reason": "", **columns}, index=names)
    return outliers.described(frame.rename_axis("model"))


ROWS = made_up()
VALUES = dict(zip(NAMES, [3.0, 5, 4, 9, 2, 1, 7], strict=True))
DRAWS = {m: VALUES[m] + rng.normal(size=200) for m in NAMES}


def test_rows_are_described_and_put_in_the_order_of_the_groups():
    assert list(ROWS["group"]) == ["zero-shot"] * 4 + ["fine-tuned"] + ["supervised"] * 2
    assert ROWS.loc["RN50-yfcc", "backbone"] == "RN50" and ROWS.loc["RN50-yfcc", "data"] == "15M"
    assert made_up(["torchvision/resnet50"])["group"].item() == "supervised"
    assert made_up(["RN50:random"]).loc["RN50:random", "backbone"] == "RN50"


def test_counterparts_start_from_the_backbones_own_zero_shot_model():
    assert outliers.counterparts(ROWS) == {
        "RN50": {"zero-shot": "RN50", "fine-tuned": "RN50-finetuned", "supervised": "RN50-supervised"},
        "ViT-B-32": {"zero-shot": "ViT-B-32", "supervised": "ViT-B-32-supervised"},
    }


def test_contrasts_by_hand():
    assert outliers.contrast(ROWS, VALUES, DRAWS, ["supervised"])[0] == ((5 - 3) + (9 - 2)) / 2
    value, low, high, n = outliers.contrast(ROWS, VALUES, DRAWS, ["fine-tuned", "supervised"])
    assert value == pytest.approx((1 + 2 + 7) / 3) and n == 3 and low < value < high
    assert np.isnan(outliers.contrast(ROWS, VALUES, DRAWS, ["captions"])[0])
    assert outliers.contrast(ROWS, VALUES, DRAWS, ["fine-tuned"], group="supervised")[0] == 3 - 4
    assert outliers.signs(ROWS, VALUES, ["fine-tuned", "supervised"]) == (3, 3)
    assert outliers.against(ROWS, VALUES, DRAWS, ("yfcc", "cc12m"))[0] == 5 - 1


def test_paired_draws_give_narrow_differences():
    shared = rng.normal(size=200)
    draws = {m: VALUES[m] + shared for m in NAMES}
    value, low, high, _ = outliers.contrast(ROWS, VALUES, draws, ["supervised"])
    assert low == pytest.approx(value) and high == pytest.approx(value)


def test_pairs_and_pretraining_data_as_tables():
    table = outliers.pairs(ROWS, {"K": (VALUES, DRAWS)}, ".1f")
    assert list(table["backbone"]) == ["RN50", "ViT-B-32", "mean"]
    assert table.loc[0, "minus supervised"].startswith("2.0 [") and table.loc[1, "minus fine-tuned"] == "–"
    data = outliers.by_data(ROWS, VALUES, DRAWS)
    assert len(data) == 1 and data.loc[0, "difference"].startswith("4.00 [")
    assert outliers.by_data(ROWS, {}, {}).iloc[0, 0] == "none of this run's models"


def concept_arrays(best):
    best = np.array(best, dtype=np.float32)
    drawn = np.tile((best >= 0.9).astype(np.uint8), (10, 1))
    return {"best": best, "inside": np.array([1, 1, 1, 0]), "drawn": drawn, "polysemanticity": np.array([1.0, 0, 2])}


ARRAYS = {
    "RN50": concept_arrays([0.95, 0.9, 0.2, 0.99]),
    "RN50-finetuned": concept_arrays([0.95, 0.1, 0.2, 0.99]),
    "RN50-supervised": concept_arrays([0.1, 0.2, 0.91, 0.1]),
}
KINDS = {m: {"kinds": ["part", "part", "scene", "species"], "dropped": {"a hat": (1, 9)}} for m in ARRAYS}


def test_concepts_are_counted_without_the_classes():
    values, draws = outliers.counted(ARRAYS)
    assert values == {"RN50": 2, "RN50-finetuned": 1, "RN50-supervised": 1} and draws["RN50"].tolist() == [2] * 10
    assert outliers.polysemanticity(ARRAYS)[0]["RN50"] == 1


def test_regions_stand_beside_the_published_ones():
    table = outliers.venn(made_up(list(ARRAYS)), ARRAYS, concepts.overlap)
    line = table.iloc[0]
    assert line["zero-shot"] == "507 / 2" and line["zs+ft only"] == "46 / 1" and line["sup only"] == "51 / 1"
    ours = [int(str(x).split(" / ")[1]) for x in line.iloc[4:]]
    assert sum(ours) == 3  # the union


@pytest.mark.parametrize("model", ["RN50", "RN101", "ViT-B-16", "ViT-B-32"])
def test_published_totals_are_the_sums_of_their_regions(model):
    table = published.load("outlier_features").loc[model]
    numbers = table.set_index("metric")["value"].astype(float)
    for position, group in enumerate(("zero-shot", "fine-tuned", "supervised")):
        parts = [numbers[metric] for pattern, metric in outliers.REGIONS.items() if pattern[position]]
        assert sum(parts) == numbers[outliers.TOTALS[group]]


def test_kinds_and_what_was_left_out():
    table = outliers.kinds(made_up(list(ARRAYS)), ARRAYS, KINDS).set_index("kind")
    assert table.loc["part", "zero-shot (%)"] == "100 [100, 100]"
    assert table.loc["part", "fine-tuned (%)"] == "50 [50, 50]"
    assert table.loc["scene", "supervised (%)"] == "100 [100, 100]" and table.loc["part", "tested"] == "2"
    assert outliers.left_out(KINDS) == "a hat (1 with, 9 without)" and outliers.left_out({}) == "none"


# --- robustness


def accuracies(n=400):
    names = [*NAMES, "RN101-supervised", "RN50-supervised-half"]
    rates = np.linspace(0.4, 0.9, len(names))
    drawn = {m: (rng.random(n) < r, rng.random(n) < r**2) for m, r in zip(names, rates, strict=True)}
    hits = {m: {"top1": 100.0 * top1, "v2": 100.0 * v2} for m, (top1, v2) in drawn.items()}
    return under_shift.Accuracies(hits, draws=100)


def test_effective_robustness_of_the_run_is_that_of_its_means():
    found = accuracies()
    names = ["RN50-supervised", "RN101-supervised", "RN50-supervised-half", "ViT-B-32-supervised"]
    baselines = under_shift.own_baselines(found, names)
    values, lines = under_shift.effective(found, baselines, robustness)
    x, y = (np.array([found.value[s][m] for m in names]) for s in ("top1", "v2"))
    line = robustness.fit(x, y)
    assert lines["v2"].slope == pytest.approx(line.slope)
    expected = found.value["v2"]["RN50"] - line(found.value["top1"]["RN50"])
    value, draws = values["v2"]["RN50"]
    assert value == pytest.approx(expected) and draws.shape == (100,) and abs(draws.mean() - value) < 3
    assert values["mean"]["RN50"][0] == pytest.approx(expected)
    one_line, _ = under_shift.effective(found, baselines, robustness, line="of mean")
    assert one_line["mean"]["RN50"][0] == pytest.approx(expected)  # of a single shift
    table = under_shift.choices(ROWS, found, baselines, robustness)
    assert len(table) == len(ROWS) and table.loc[0, "logit"] != table.loc[0, "linear"]


def test_the_baseline_of_the_mean_takes_models_that_have_all_shifts():
    table = pd.DataFrame({"top1": [70.0, 80, 90], "V2": [60.0, 70, 80], "R": [30.0, np.nan, 50]}, index=list("abc"))
    found = under_shift.testbed_baselines(table, {"imagenet-v2": "V2", "imagenet-r": "R"})
    assert found["imagenet-r"].names == ["a", "c"] and found["mean"].y.tolist() == [45, 65]
    assert found["mean"].x_draws is None


def test_correlations_agree_with_scipy():
    x = {m: (VALUES[m], DRAWS[m]) for m in NAMES}
    y = {m: (VALUES[m] ** 2 + k, DRAWS[m] + k) for k, m in enumerate(NAMES)}
    table = under_shift.correlations(x, y, NAMES).set_index("method")
    a, b = ([v[m][0] for m in NAMES] for v in (x, y))
    assert table.loc["pearson", "value"] == pytest.approx(stats.pearsonr(a, b).statistic)
    assert table.loc["spearman", "value"] == pytest.approx(stats.spearmanr(a, b).statistic)
    assert len(under_shift.correlations(x, y, NAMES[:2])) == 0


def test_a_partial_correlation_takes_the_common_cause_out():
    z = np.arange(200.0)
    a, b = rng.permutation(200) * 0.5 + z, rng.permutation(200) * 0.5 + z
    x, y, common = ({str(k): (v, None) for k, v in enumerate(values)} for values in (a, b, z))
    models = [str(k) for k in range(200)]
    assert stats.spearmanr(a, b).statistic > 0.5
    assert abs(under_shift.partial(x, y, common, models)) < 0.2
    ranks = [stats.rankdata(v) for v in (a, b, z)]
    r = np.corrcoef(ranks)
    formula = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert under_shift.partial(x, y, common, models) == pytest.approx(formula)
    assert np.isnan(under_shift.partial(x, y, common, models[:3]))


def test_pruned_accuracies_become_changes():
    rows = made_up(["RN50"], top1=70.0)
    arrays = {"RN50": {"hit": np.array([[70.0, 66.0]]), "draws_hit": np.array([[[70.0, 66.0]], [[72.0, 66.0]]])}}
    arrays["RN50"] |= {"v2_hit": np.array([[60.0, 50.0]]), "v2_draws": np.array([[60.0, 50.0], [60.0, 52.0]])}
    notes = {"RN50": {"ways": ["importance"], "shift_ways": ["importance"], "shares": [0.0, 0.8]}}
    same = robustness.fit([20.0, 50, 80], [20.0, 50, 80])
    found = under_shift.pruned_change(rows, arrays, notes, {"v2": same}, robustness)
    assert found.loc["RN50", "hit_change"] == -4 and found.loc["RN50", "er_mean"] == pytest.approx(-10)
    assert found.loc["RN50", "er_change"] == pytest.approx((50 - 66) - (60 - 70))
    np.testing.assert_allclose(found.attrs["er_change"]["RN50"], [-6, -2])
    claims = outliers.directions_claims(found.assign(ratio=3.0), {"RN50": {"draws_ratio": np.ones(2)}}, found)
    assert claims["of-pruning-accuracy"][0] == -3 and claims["of-pruning-accuracy"][3] == 1


def test_changes_of_each_way_by_hand():
    notes = {"ways": ["importance", "pca"], "shares": [0.0, 0.8]}
    hit = np.array([[70.0, 66.0], [69.0, 60.0]])
    arrays = {"RN50": {"hit": hit, "draws_hit": np.stack([hit, hit])}}
    arrays["ViT-B-32"] = {"hit": hit + [[0, 2]], "draws_hit": np.stack([hit, hit]) + [[0, 2]]}
    found = outliers.pruned_at(made_up(["RN50", "ViT-B-32"]), arrays, dict.fromkeys(arrays, notes), 0.8)
    assert list(found.columns) == ["kept by", "zero-shot (2)"]
    assert list(found["zero-shot (2)"]) == ["-3.0 [-3.0, -3.0]", "-9.0 [-9.0, -9.0]"]  # each against the full head
    without = {m: notes | {"shares": [0.0, 0.5]} for m in arrays}
    assert len(outliers.pruned_at(made_up(["RN50"]), arrays, without, 0.8)) == 1


def test_statistics_belong_to_the_claims_of_their_exhibit():
    arrays = {m: {"draws_raw": DRAWS[m], "draws_magnitude": DRAWS[m]} for m in NAMES}
    rows = made_up(raw=list(VALUES.values()), magnitude=1.5)
    kurtosis = outliers.kurtosis_claims(rows, arrays)
    assert kurtosis.keys() == {c["id"] for c in published.claims("kurtosis")}
    assert kurtosis["of-orders-of-magnitude"][0] == pytest.approx(0.5) and kurtosis["of-openai-extreme"][3] == 1
    counted, poly = outliers.counted(ARRAYS), outliers.polysemanticity(ARRAYS)
    found = outliers.concepts_claims(made_up(list(ARRAYS)), counted, poly)
    assert found.keys() == {c["id"] for c in published.claims("concepts")}
    assert found["of-concepts-above-finetuned"][0] == 1 and found["of-supervised-above-finetuned"][0] == 0
    er = {m: (VALUES[m], DRAWS[m]) for m in NAMES}
    robust = under_shift.claims(ROWS, {"er": er, "kurtosis": er, "concepts": er})
    assert robust.keys() == {c["id"] for c in published.claims("effective_robustness")}
    assert robust["of-outliers-indicate-robustness"][0] == 1


def test_what_cannot_be_had_becomes_a_card():
    def missing():
        raise UserError("no network")

    results, reason = outliers.public(missing, None)
    assert outliers.real_table(results, reason, "tab-x", "Real").cells.iloc[0, 0] == "no network"
    assert outliers.real_directions(*under_shift.public_head(missing, None, []), "tab-x", "Real").cells.shape == (1, 1)
    testbed = types.SimpleNamespace(public_accuracies=missing, effective=None)
    assert "could not be fetched" in under_shift.public_table(testbed, "tab-x", "Public").cells.iloc[0, 0]
    assert outliers.kurtosis_prose(ROWS, ({}, {}), ({}, {}), {})["kurtosis_real_images"] == "not run"


def test_a_strange_shift_has_no_baseline():
    found = under_shift.Accuracies({"a": {"top1": np.ones(4), "fog": np.ones(4)}}, draws=2)
    with pytest.raises(UserError, match="no baseline for fog"):
        under_shift.baselines(found, "imagenet", None)


def test_baseline_models_are_the_supervised_ones():
    names = under_shift.baseline_names("bestiary")
    assert "RN50-supervised" in names and "RN50-supervised-quarter" in names and "RN50-finetuned" not in names
    assert under_shift.baseline_names("imagenet") == []
    standard = pd.read_csv(paths.DATA / "published" / "imagenet_testbed_standard.csv")
    assert len(standard) == 85 and standard["model"].is_unique
