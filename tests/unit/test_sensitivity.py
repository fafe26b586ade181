"""Every switch between paper and code: what it changes, and what is counted of the conclusions."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from lib import data
from lib.mutual import sensitivity
from lib.mutual.options import Options
from lib.show import published
from lib.statistics import correlation


def test_every_switch_of_the_options_is_turned():
    readings = sensitivity.readings(data.load("bestiary"))
    turned = {name for change in (*readings.values(), *sensitivity.FINDINGS.values()) for name in change}
    assert turned == {field.name for field in fields(Options)}
    base = replace(Options(), parts_by="kmeans")
    for change in (*readings.values(), *sensitivity.FINDINGS.values()):
        assert replace(base, **change) != base


def test_the_length_of_lists_follows_the_bank():
    readings = sensitivity.readings(data.load("bestiary"))
    assert readings["half as long a language list"] == {"top_u": 5}
    assert readings["twice as long a language list"] == {"top_u": 20}
    assert readings["candidates: a quarter of the bank"]["top"] == 14  # of 54


def test_means_over_the_part_methods_and_matches_above_chance_by_hand():
    about = {"model": "m", "title": "M", "family": "ViT", "class": "c"}
    lines = [
        about | {"image": i, "parts": parts, "against": against, "top1": 100.0, "mi": k, "auc": 2 * k, "matches": k}
        for i in (0, 1)
        for parts, extra in (("pca", 0.0), ("kmeans", 1.0))
        for against, k in (("predicted class", 3 + i + extra), ("true class", 9.0), ("wrong class", 1.0))
    ]
    found = sensitivity.by_image(pd.DataFrame(lines))
    assert found["matches"].tolist() == [3.5, 4.5] and found["auc"].tolist() == [7, 9]
    assert found["above_chance"].tolist() == [2.5, 3.5]
    assert sensitivity.by_image(pd.DataFrame(lines), "true class")["above_chance"].tolist() == [8, 8]


@pytest.fixture
def made_up():
    """Five ViTs and three ResNets; AUC follows accuracy under "base" and runs against it under "turned"."""
    rng, parts = np.random.default_rng(0), []
    top1 = pd.Series({f"m{k}": 50.0 + 5 * k for k in range(8)})
    for k, model in enumerate(top1.index):
        for switch, slope in (("base", 0.5), ("turned", -0.5)):
            values = {q: 5 + slope * k + rng.normal(0, 0.1, 40) for q in ("mi", "auc", "above_chance")}
            about = {"switch": switch, "model": model, "family": "ViT" if k < 5 else "ResNet", "image": range(40)}
            parts.append(pd.DataFrame(about | values))
    return pd.concat(parts, ignore_index=True), top1


def test_a_conclusion_that_turns_does_not_survive(made_up):
    found = sensitivity.conclusions(*made_up)
    table = found.set_index(["switch", "conclusion"])
    assert table.loc[("base", "AUC ~ accuracy, all"), "sign"] == "▲"
    assert table.loc[("turned", "AUC ~ accuracy, ViT"), "sign"] == "▼"
    assert table.loc[("base", "larger model"), "sign"] == ""  # its models were not run
    survived = sensitivity.survival(found)
    assert survived.loc["K above chance", "verdict"] == "survives"
    assert survived.loc["AUC ~ accuracy, all", "verdict"] == "depends on the switch"
    assert survived.loc["AUC ~ accuracy, all", ["interval above zero", "interval below zero"]].tolist() == [1, 1]
    assert "larger model" not in survived.index


def test_a_correlation_is_pearsons_and_needs_all_models_of_its_family(made_up):
    seen, top1 = made_up
    found = sensitivity.conclusions(seen, top1).set_index(["switch", "conclusion"])
    means = seen[seen["switch"] == "base"].groupby("model")["auc"].mean()
    value = correlation(means, top1[means.index]).value
    assert found.loc[("base", "AUC ~ accuracy, all"), "value"] == pytest.approx(value)
    seen = seen[~((seen["model"] == "m0") & (seen["switch"] == "turned"))]
    found = sensitivity.conclusions(seen, top1).set_index(["switch", "conclusion"])
    assert found.loc[("turned", "AUC ~ accuracy, all"), "sign"] == ""
    assert found.loc[("turned", "AUC ~ accuracy, ResNet"), "sign"] == "▼"


def test_the_models_of_the_differences_are_those_of_the_claims():
    from lib.book import ledger

    titles = {"mk-vit-above-resnet": "ViT > ResNet", "mk-larger-model": "larger model"}
    titles |= {"mk-more-patches": "more patches", "mk-better-data": "better data"}
    known = {c["id"]: c for c in ledger.claims()}
    for claim, title in titles.items():
        greater, less = sensitivity.DIFFERENCES[title]
        assert list(greater) == known[claim]["greater"] and list(less) == known[claim]["less"]


def test_the_papers_second_dataset_contradicts_its_first():
    imagenet, places = published.averaged(), published.load("mutual_knowledge_places365")
    vit = imagenet[imagenet["family"] == "ViT"]
    assert correlation(vit["auc"], vit["top1"]).value == pytest.approx(0.91, abs=0.005)
    assert correlation(vit["auc"], vit["top1"], "spearman").value == pytest.approx(1.0)
    assert correlation(places["auc"], places["top1"]).value == pytest.approx(-0.17, abs=0.005)
