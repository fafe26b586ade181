"""The front page's moving parts, on a ledger of three claims."""

import base64
import json

from lib import paths
from lib.book import front, ledger

CLAIM = {"paper": "sammani2024interpreting", "exhibit": "table3", "quantity": "points", "front": True}
CLAIMS = [CLAIM | {"id": k, "statement": f"Claim {k} <b>."} for k in "abc"]
ENTRY = {"value": 1.25, "low": 0.5, "high": 2.0, "p": 0.001, "n": 9, "verdict": "holds"}


def test_the_balance_counts_verdicts_and_says_what_was_not_run():
    text = front.balance(CLAIMS, ledger.corrected({"a": ENTRY, "b": ENTRY | {"verdict": "fails"}}))
    assert text == "**3 claims in the miniature: 1 hold, 1 fail, 1 not run; none was run at the papers' scale.**"
    text = front.balance(CLAIMS, ledger.corrected({"a": ENTRY | {"p": 0.2}}), ["imagenet"])
    assert "run at the papers' scale: imagenet" in text and "1 of these verdicts are open too" in text


def test_every_claim_is_a_square_that_leads_to_its_page_and_harms_nothing():
    text = front.claim_map(CLAIMS, {"a": ENTRY}, {"table3"})
    assert text.count('<a href="executed/table3.html"') == 3 and text.count('class="holds" title="holds: Claim a') == 1
    assert "<b>" not in text and "<a " not in front.claim_map(CLAIMS, {}, ())


def test_findings_are_the_marked_claims_that_were_run_with_number_and_interval():
    text = front.front([*CLAIMS[:2], CLAIMS[2] | {"front": False}], {"bestiary": {"a": ENTRY, "c": ENTRY}}, {"table3"})
    assert text.count("\n- ") == 1 and "**Holds**: points, 1.2 [0.5, 2.0]. {doc}`executed/table3`" in text
    assert sum(c.get("front", False) for c in ledger.claims()) == 6


def test_the_picture_is_what_the_tagged_cell_of_one_page_drew(tmp_path):
    output = {"data": {"image/png": base64.b64encode(b"png").decode()}}
    cells = [{"metadata": {}, "outputs": []}, {"metadata": {"tags": ["front"]}, "outputs": [{}, output]}]
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": cells}))
    assert front.picture([tmp_path / "page.ipynb"]) == b"png" and front.picture([]) is None
    tagged = [p.stem for p in (paths.ROOT / "notebooks").glob("*.ipynb") if '"front"' in p.read_text()]
    assert tagged == ["explain"]
