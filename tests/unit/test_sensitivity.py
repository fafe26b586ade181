"""Every switch between paper and code: what it changes, where it applies, and what is counted of the conclusions."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from lib import models
from lib.data import load as load_images
from lib.errors import UserError
from lib.mutual import sensitivity, table3
from lib.mutual.information import overlap_counts
from lib.report import sensitivity as show

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def clip():
    return models.load("RN50")


@pytest.fixture(scope="module")
def data():
    """Four pictures of each of three species."""
    return load_images("bestiary").subset([k + 48 * i for k in range(3) for i in range(4)])


@pytest.fixture(scope="module")
def row(clip, data):
    return sensitivity.row(clip, data, classes=2)


def of(row, quantity, switch):
    return row["metrics"][f"{quantity}_{sensitivity.key(switch)}"]


@pytest.mark.parametrize(
    ("switch", "options"),
    [
        ("base", {}),
        ("removal shortens the list", {"removal": "drop"}),
        ("ln(NM/K), as written", {"measure": "definition"}),
        ("ln K, consistent", {"measure": "consistent"}),
        ("relevance: median + 0.02", {"relevance_rule": "paper"}),
        ("matching: nearest of the bank", {"matching_method": "top"}),
        ("1 descriptor a part", {"per_part": 1}),
        ("candidates: of any part", {"candidate_rule": "union", "top": 14}),
    ],
)
def test_a_switch_is_table_3_with_that_switch(clip, data, row, switch, options):
    other = table3.row(clip, data, **table3.SWITCHES | options)["metrics"]
    for quantity in ("mi", "auc", "matches"):
        np.testing.assert_allclose(of(row, quantity, switch), other[f"{quantity}_kmeans"], atol=1e-9)


@pytest.mark.parametrize(
    ("switch", "options"),
    [
        (sensitivity.SUBSET, {}),
        ("decomposed image by image", {"scope": "image"}),
        ("3 parts", {"parts": 3}),
        ("groups by prediction", {"group": "predicted"}),
        ("foreground: released default", {"setting": "published"}),
        ("K-means, another seed", {"seed": 1}),
    ],
)
def test_a_switch_that_finds_the_parts_anew_is_table_3_on_the_subset(clip, data, row, switch, options):
    few = data.subset(sensitivity.subset(data.labels, 2))
    other = table3.row(clip, few, **table3.SWITCHES | options)["metrics"]
    np.testing.assert_allclose(of(row, "auc", switch), other["auc_kmeans"], atol=1e-9)


def test_pca_is_a_switch(clip, data, row):
    other = table3.row(clip, data, **table3.SWITCHES)["metrics"]
    np.testing.assert_allclose(of(row, "mi", "parts by PCA"), other["mi_pca"])


def test_every_switch_of_table_3_is_turned():
    turned = {k for change in (*sensitivity.READINGS.values(), *sensitivity.FINDINGS.values()) for k in change}
    names = {"size": "top_u", "method": "matching_method"}
    assert {names.get(k, k) for k in turned} >= set(table3.SWITCHES)


def test_the_subset_has_whole_classes():
    labels = np.repeat([0, 1, 2, 3], 5)
    members = sensitivity.subset(labels, 2)
    assert len(members) == 10 and len(set(labels[members])) == 2
    assert np.array_equal(sensitivity.subset(labels, 0), np.arange(20))
    with pytest.raises(UserError, match="classes = -1"):
        sensitivity.subset(labels, -1)


def test_a_switch_that_does_not_apply_has_no_value(clip, row):
    assert "auc_keys_without_their_bias" not in row["metrics"]  # no attention keys in a ResNet's last stage
    assert "auc_outline_by_the_crf" not in row["metrics"]  # not asked for
    keys = models.load("ViT-B-16")
    found = sensitivity.finding(keys, sensitivity.FINDINGS["keys without their bias"])
    assert found["setting"]["feature"] == "keys_no_bias"


def test_matches_with_every_class_by_loop():
    rng = np.random.default_rng(0)
    ids = np.array([[3, 1, -1], [0, 4, 2]])
    language = np.stack([rng.permutation(6)[:3] for _ in range(4)])
    own, chance = sensitivity.shared(ids, language, np.array([2, 0]), 6)
    every = [[overlap_counts(ids[i : i + 1], language[k : k + 1])[2][0] for k in range(4)] for i in range(2)]
    assert own.tolist() == [every[0][2], every[1][0]]
    assert chance.tolist() == [np.mean([every[0][k] for k in (0, 1, 3)]), np.mean(every[1][1:])]


# --- what the page shows


@pytest.fixture
def made_up():
    """Five ViTs and three ResNets; AUC follows accuracy under "base" and runs against it under "turned"."""
    rng, rows, arrays = np.random.default_rng(0), {}, {}
    for k in range(8):
        rows[f"m{k}"] = {"title": f"M{k}", "family": "ViT" if k < 5 else "ResNet", "top1": 50.0 + 5 * k}
        arrays[f"m{k}"] = {}
        for switch, slope in (("base", 0.5), ("turned", -0.5)):
            for quantity in ("mi", "auc", "above_chance"):
                arrays[f"m{k}"][f"{quantity}_{switch}"] = 5 + slope * k + rng.normal(0, 0.1, 40)
    return pd.DataFrame.from_dict(rows, orient="index"), arrays


def test_a_conclusion_that_turns_does_not_survive(made_up):
    found = show.conclusions(*made_up, ["base", "turned"], sensitivity.key)
    table = found.set_index(["switch", "conclusion"])
    assert table.loc[("base", "AUC ~ accuracy, all"), "verdict"] == "holds"
    assert table.loc[("turned", "AUC ~ accuracy, ViT"), "verdict"] == "fails"
    assert table.loc[("base", "larger model"), "verdict"] == ""  # its models were not run
    survived = show.survival(found).set_index("conclusion")
    assert survived.loc["K above chance", "verdict"] == "survives"
    assert survived.loc["AUC ~ accuracy, all", "verdict"] == "depends on the switch"
    assert survived.loc["AUC ~ accuracy, all", ["interval above zero", "interval below zero"]].tolist() == [1, 1]
    cells = show.conclusion_table(found, "t", "c").cells
    assert cells.loc[1, "AUC ~ accuracy, all"].endswith("▼") and cells.loc[0, "larger model"] == "–"


def test_a_correlation_needs_all_models_of_its_family(made_up):
    rows, arrays = made_up
    del arrays["m0"]["auc_turned"]
    table = show.conclusions(rows, arrays, ["turned"], sensitivity.key).set_index("conclusion")
    assert (
        table.loc["AUC ~ accuracy, all", "verdict"] == "" and table.loc["AUC ~ accuracy, ResNet", "verdict"] == "fails"
    )


def test_the_papers_second_dataset_contradicts_its_first():
    table = show.published_datasets().set_index("dataset")
    assert table.loc["ImageNet", "Pearson"].startswith("0.91") and table.loc["ImageNet", "Spearman"].startswith("1.00")
    assert table.loc["Places365", "Pearson"].startswith("-0.17")


def test_levels_and_strips_are_drawn(made_up, row):
    rows = pd.DataFrame([{k: np.mean(v) for k, v in row["metrics"].items()}])
    levels = show.levels(rows, ["base", *sensitivity.READINGS, *sensitivity.FINDINGS], sensitivity.key)
    assert "outline by the CRF" not in set(levels["switch"]) and levels.loc[0, "models"] == 1
    assert np.isfinite(show.seed_shift(rows, sensitivity.key))
    found = show.conclusions(*made_up, ["base", "turned"], sensitivity.key)
    assert len(show.strips(found)) == 2
    words = show.summary(show.survival(found), found, 96, "s")
    assert words["s_turned"] == "turned" and words["s_same_sign"] == "1" and "K above chance" in words["s_survive"]
