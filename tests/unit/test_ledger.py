"""The ledger of claims: every claim once, evidence and verdicts by hand, and the statistics behind them."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from lib.report import ledger, mutual, published, record

CLAIM = {
    "id": "x",
    "paper": "sammani2024interpreting",
    "where": "Table 9",
    "statement": "A | B.",
    "exhibit": "table3",
    "statistic": "mean",
    "direction": "positive",
}
ENTRY = {"value": 1.0, "low": 0.5, "high": 1.5, "n": 9, "verdict": "holds"}


def test_every_claim_of_the_file_is_in_the_ledger_once():
    text = ledger.ledger(published.claims(), {})
    for claim in published.claims():
        assert text.count(claim["statement"].replace("|", r"\|") + "<br>") == 1
    assert "not run" in text


def test_claims_have_what_the_ledger_needs_and_ids_of_their_own():
    claims = published.claims()
    ids = [claim["id"] for claim in claims]
    assert len(set(ids)) == len(ids)
    for claim in claims:
        assert {"paper", "where", "statement", "exhibit", "statistic", "direction"} <= set(claim)
        assert claim["direction"] in published.DIRECTIONS and claim["paper"] in ledger.PAPERS


def test_a_line_by_hand():
    found = {"bestiary": {"x": ENTRY}, "imagenet": {"x": ENTRY | {"verdict": "fails", "value": -1.0, "low": None}}}
    line = ledger.ledger([CLAIM | {"evidence": "3 of 4"}], found, {"table3"}).splitlines()[-1]
    assert line == (
        r"| A \| B.<br>*Table 9*; {doc}`executed/table3` | 3 of 4 | **holds**<br>1.00 [0.50, 1.50], n = 9 | "
        "imagenet: **fails**<br>-1.00 no interval, n = 9 |"
    )
    assert "`table3`" in ledger.ledger([CLAIM], {}) and "{doc}" not in ledger.ledger([CLAIM], {})  # no page, no link


def test_the_balance_counts_verdicts():
    claims = [CLAIM | {"id": str(k)} for k in range(4)]
    kept = {str(k): ENTRY | {"verdict": v} for k, v in enumerate(("holds", "holds", "inconclusive"))}
    assert ledger._balance(claims, kept, {})[2] == "| Mutual knowledge, miniature | 4 | 2 | 0 | 1 | 1 |"


def test_a_verdict_without_a_number_says_so():
    assert (
        ledger._entry({"verdict": "inconclusive", "value": None, "low": None, "high": None, "n": 2})
        == "**inconclusive**"
    )


def test_verdicts_are_read_from_the_results_and_damaged_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    for exhibit, content in (
        ("table3", {"exhibit": "table3", "dataset": "bestiary", "claims": {"x": ENTRY}}),
        ("table2", []),
    ):
        record.replace(record.claims_path("bestiary", exhibit), json.dumps(content).encode())
    found = ledger.verdicts()
    assert found == {"bestiary": {"x": ENTRY | {"exhibit": "table3"}}}
    assert "table2/claims.json are damaged" in capsys.readouterr().err
    (tmp_path / "table3.ipynb").write_text("{}")
    ledger.main(tmp_path)
    assert "{doc}`executed/table3`" in (tmp_path / "claims_ledger.md").read_text()


def test_published_evidence_is_computed_from_the_published_table():
    claims = {c["id"]: c for c in published.claims()}
    text = ledger.evidence(claims["mk-auc-accuracy-vit"])
    table = published.averaged()
    vits = table[table["family"] == "ViT"]
    assert text.startswith(f"r = {pearsonr(vits['auc'], vits['top1'])[0]:.2f}") and "n = 7" in text
    assert "too few models" in ledger.evidence(claims["mk-auc-accuracy-resnet"])
    # AUC of L/14 (4.47 + 4.37) / 2, of B/16 (3.62 + 3.53) / 2
    assert "+0.84" in ledger.evidence(claims["mk-larger-model"])


def test_statistics_of_claims_by_hand():
    rng = np.random.default_rng(0)
    names = ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-B-16-dfn", "RN50", "RN101", "RN50x4", "RN50x16"]
    family = ["ViT"] * 5 + ["ResNet"] * 4
    rows = pd.DataFrame({"family": family}, index=names)
    images = {n: {"auc": k + rng.random(50), "top1": 10.0 * k + rng.random(50)} for k, n in enumerate(names)}
    found = mutual.claim_statistics("table3", rows, images)
    means = {n: (v["auc"].mean(), v["top1"].mean()) for n, v in images.items()}
    value, low, high, n = found["mk-auc-accuracy-vit"]
    assert value == pytest.approx(pearsonr(*zip(*(means[m] for m in names[:5]), strict=True))[0]) and n == 5
    assert low <= value <= high
    assert np.isnan(found["mk-auc-accuracy-resnet"][1]) and found["mk-auc-accuracy-resnet"][3] == 4  # four are too few
    value, low, high, n = found["mk-vit-above-resnet"]
    expected = np.mean([means[m][0] for m in names[:4]]) - np.mean([means[m][0] for m in names[5:]])
    assert value == pytest.approx(expected) and low < value < high and n == 50
    few = mutual.claim_statistics("figure3", rows.loc[["RN50"]], {"RN50": images["RN50"]})
    assert all(np.isnan(v[0]) for v in few.values())


def test_published_counterparts_of_table_3():
    places = mutual.published_table3("places365")
    assert places.loc["ViT-L/14@336px", ["top1", "mi", "auc"]].tolist() == [40.36, 9.073, 3.450]
    assert mutual.published_table3("food101").loc["ViT-B/16-dfn", "auc"] == 3.763
    assert (
        not len(mutual.published_table3("photos")) and mutual.published_table3("imagenet").loc["RN50", "top1"] == 58.42
    )
    assert "auc" in mutual.table3_columns("places365") and "auc" not in mutual.table3_columns("imagenet")
