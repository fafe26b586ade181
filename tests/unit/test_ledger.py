"""The ledger of claims: every claim once, evidence and verdicts by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from lib import paths
from lib.book import ledger
from lib.errors import UserError
from lib.show import published
from lib.statistics import Estimate

CLAIM = {
    "id": "x",
    "paper": "sammani2024interpreting",
    "where": "Table 9",
    "statement": "A | B.",
    "exhibit": "table3",
    "statistic": "mean",
    "quantity": "points",
    "direction": "positive",
}
ENTRY = {"value": 1.0, "low": 0.5, "high": 1.5, "p": 0.01, "n": 9, "verdict": "holds"}


def test_every_claim_of_the_file_is_in_the_ledger_once():
    text = ledger.ledger(ledger.claims(), {})
    for claim in ledger.claims():
        assert text.count(claim["statement"].replace("|", r"\|") + "<br>") == 1
    assert "not run" in text


def test_claims_are_complete_and_name_known_models_pages_and_tables():
    claims, names = ledger.claims(), set(pd.read_csv(paths.DATA / "models.csv")["name"])
    assert len({claim["id"] for claim in claims}) == len(claims)
    for claim in claims:
        assert {"paper", "where", "statement", "exhibit", "statistic", "quantity", "direction"} <= set(claim)
        assert claim["direction"] in ledger.DIRECTIONS and claim["paper"] in ledger.PAPERS
        assert {*claim.get("greater", []), *claim.get("less", [])} <= names
        assert (paths.ROOT / "notebooks" / f"{claim['exhibit']}.ipynb").is_file()
        if "published" in claim:  # what only the miniature can test has no published evidence
            published.load(claim["published"], index=None)
    assert all(c["exhibit"] == "figure3" for c in ledger.claims("figure3"))


def test_verdicts():
    assert ledger.verdict(0.1, 0.5) == "holds" and ledger.verdict(-0.5, -0.1) == "fails"
    assert ledger.verdict(-0.1, 0.5) == "inconclusive" and ledger.verdict(np.nan, np.nan) == "cannot be tested"
    assert ledger.verdict(-0.5, -0.1, "negative") == "holds"
    with pytest.raises(UserError, match="'up'"):
        ledger.verdict(0, 1, "up")


def test_statistics_become_entries_and_none_may_be_missing_or_foreign(monkeypatch):
    monkeypatch.setattr(ledger, "claims", lambda exhibit=None: [CLAIM, CLAIM | {"id": "y", "direction": "negative"}])
    found = ledger.judged("table3", {"x": Estimate(1.0, 0.5, 1.5, 9, 0.01), "y": Estimate(np.nan)})
    nothing = {"value": None, "low": None, "high": None, "p": None, "n": 0, "verdict": "cannot be tested"}
    assert found == {"x": ENTRY, "y": nothing}
    assert ledger.lines("table3", found)["statistic"].tolist() == ["1.00 [0.50, 1.50]", "–"]
    for wrong in ({"x": Estimate(1.0)}, {"x": Estimate(1.0), "y": Estimate(1.0), "z": Estimate(1.0)}):
        with pytest.raises(UserError, match="The claims of table3 are x, y; '[yz]' is not in both"):
            ledger.judged("table3", wrong)


def test_a_line_by_hand():
    found = {"bestiary": {"x": ENTRY}, "imagenet": {"x": ENTRY | {"value": -1.0, "low": None}}}
    line = ledger.ledger([CLAIM | {"evidence": "3 of 4"}], found, {"table3"}).splitlines()[-1]
    assert line == (
        r"| A \| B.<br>*Table 9*; {doc}`executed/table3` | 3 of 4 | **holds**<br>points: 1.00 [0.50, 1.50], n = 9 | "
        "imagenet: **cannot be tested with 9**<br>points: -1.00 |"
    )
    assert "`table3`" in ledger.ledger([CLAIM], {}) and "{doc}" not in ledger.ledger([CLAIM], {})  # no page, no link


def test_the_balance_counts_verdicts():
    claims = [CLAIM | {"id": str(k)} for k in range(4)]
    kept = {str(k): ENTRY | {"verdict": v} for k, v in enumerate(("holds", "holds", "inconclusive"))}
    text = ledger.ledger(claims, {"bestiary": kept})
    assert "| Mutual knowledge, miniature | 4 | 2 | 0 | 1 | 0 | 1 | 2 |" in text.splitlines()


def test_a_verdict_that_chance_explains_among_many_claims_is_marked():
    # Benjamini and Hochberg by hand: 0.04 is the second smallest of four, 0.04 * 4 / 2 = 0.08; 0.01 * 4 / 1 = 0.04
    p = {"a": 0.01, "b": 0.04, "c": 0.5, "d": 0.9, "e": None}
    found = ledger.corrected(
        {k: ENTRY | {"p": x, "verdict": "holds" if x and x < 0.05 else "inconclusive"} for k, x in p.items()}
    )
    assert [round(entry["adjusted"], 4) for entry in found.values()][:3] == [0.04, 0.08, 0.6667]
    assert [entry["corrected"] for entry in found.values()] == ["holds", *["inconclusive"] * 4]
    text = ledger.ledger([CLAIM | {"id": k} for k in p], {"bestiary": found})
    assert text.count("**holds** alone, not among all claims") == 1


def test_claims_about_something_else_than_a_scale_are_counted_apart():
    claims = [CLAIM, CLAIM | {"id": "y", "of": "real encoders"}, CLAIM | {"id": "z", "of": "real encoders"}]
    lines = ledger.ledger(claims, {"bestiary": {"x": ENTRY}, "real encoders": {"y": ENTRY}}).splitlines()
    assert "| Mutual knowledge, miniature | 1 | 1 | 0 | 0 | 0 | 0 | 1 |" in lines
    assert "| Mutual knowledge, real encoders | 2 | 1 | 0 | 0 | 0 | 1 | 1 |" in lines
    shown = [line.split(" | ", 2)[2] for line in lines if line.startswith("| A ") for line in [line.replace(r"\|", "")]]
    assert [line.count("not asked") for line in shown] == [0, 1, 1]
    assert "real encoders: **holds**" in shown[1] and shown[2].endswith("not asked | not run |")


def test_kept_verdicts_are_read_again_and_damaged_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    ledger.keep("bestiary", "table3", {"x": ENTRY})
    (tmp_path / "bestiary" / "claims" / "table2.json").write_text("[]")
    assert ledger.verdicts() == {"bestiary": {"x": ENTRY | {"exhibit": "table3"}}}
    assert "table2.json are damaged" in capsys.readouterr().err
    assert json.loads((tmp_path / "bestiary" / "claims" / "table3.json").read_text())["commit"]


def test_published_evidence_is_computed_from_the_published_table():
    claims = {c["id"]: c for c in ledger.claims()}
    text = ledger.evidence(claims["mk-auc-accuracy-vit"])
    table = published.averaged()
    vits = table[table["family"] == "ViT"]
    assert text.startswith(f"r = {pearsonr(vits['auc'], vits['top1'])[0]:.2f}") and "n = 7" in text
    assert "too few models" in ledger.evidence(claims["mk-auc-accuracy-resnet"])
    # AUC of L/14 (4.47 + 4.37) / 2, of B/16 (3.62 + 3.53) / 2
    assert "+0.84" in ledger.evidence(claims["mk-larger-model"])
