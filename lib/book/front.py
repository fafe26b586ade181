"""The front page's moving parts: `python -m lib.book.front book/executed` writes front.md and its picture.

The balance of the ledger, each claim as a square that leads to its page, the claims that data/claims.toml marks with
`front = true`, and the picture that the cell tagged "front" drew on one of the pages.
"""

import base64
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

from lib.book.ledger import MINIATURE, NOT_RUN, PAPERS, claims, corrected, verdicts
from lib.show.tables import estimate
from lib.store import replace

MARKS = {"holds": "✓", "fails": "✗", "inconclusive": "○", "cannot be tested": "–", "not run": "·"}
MEANING = {"inconclusive": "are open", "cannot be tested": "cannot be tested with so few models", "not run": "not run"}
PICTURE = "front.png"
TAG = "front"


def front(claims: Sequence[dict], found: Mapping[str, Mapping[str, dict]], pages: Collection[str] = ()) -> str:
    """Markdown: the balance in a sentence, the map of claims, the findings. Arguments as of `ledger.ledger`."""
    about = {c.get("of", MINIATURE) for c in claims}
    mini = {name: entry for where in about for name, entry in corrected(found.get(where, {})).items()}
    text = [balance(claims, mini, [name for name in found if name not in about]), "", claim_map(claims, mini, pages)]
    text += ["", "## Findings", "", "Each with its 95 % interval.", ""]
    text += [finding(c, mini[c["id"]], pages) for c in claims if c.get("front") and c["id"] in mini]
    return "\n".join(text) + "\n"


def balance(claims: Sequence[dict], mini: Mapping[str, dict], others: Sequence[str] = ()) -> str:
    """How the claims stand, in a sentence."""
    given = [mini.get(c["id"], NOT_RUN)["verdict"] for c in claims]
    counts = [f"{given.count(v)} {MEANING.get(v, v.removesuffix('s'))}" for v in MARKS if v in given]
    lost = sum(e["corrected"] != e["verdict"] for e in mini.values())
    alone = f" Corrected for their number, {lost} of these verdicts are open too." if lost else ""
    elsewhere = f"run at the papers' scale: {', '.join(others)}" if others else "none was run at the papers' scale"
    apart = sum("of" in c for c in claims)
    real = f" and {apart} on embeddings of real encoders" if apart else ""
    return f"**{len(claims) - apart} claims in the miniature{real}: {', '.join(counts)}; {elsewhere}.**{alone}"


def claim_map(claims: Sequence[dict], mini: Mapping[str, dict], pages: Collection[str] = ()) -> str:
    """The ledger at a glance: a square a claim, by paper, with its verdict; HTML."""
    rows = []
    for paper in dict.fromkeys(c["paper"] for c in claims):
        squares = []
        for claim in (c for c in claims if c["paper"] == paper):
            verdict = mini.get(claim["id"], NOT_RUN)["verdict"]
            about = f'class="{verdict.replace(" ", "-")}" title="{verdict}: {escape(claim["statement"])}"'
            there = claim["exhibit"] in pages
            tag = f'a href="executed/{claim["exhibit"]}.html"' if there else "span"
            squares.append(f"<{tag} {about}>{MARKS[verdict]}</{tag.split()[0]}>")
        rows.append(f"<dt>{PAPERS.get(paper, paper)}</dt><dd>{''.join(squares)}</dd>")
    key = " ".join(f'<span class="{v.replace(" ", "-")}">{mark}</span> {v}' for v, mark in MARKS.items())
    return f'<dl class="claim-map">{"".join(rows)}</dl>\n<p class="claim-map">{key}</p>'


def finding(claim: dict, entry: dict, pages: Collection[str] = ()) -> str:
    """A claim with verdict, number and interval, as an item of a list."""
    page = f" {{doc}}`executed/{claim['exhibit']}`" if claim["exhibit"] in pages else ""
    spec = ".1f" if abs(entry["value"]) >= 1 else ".2f"
    number = estimate((entry["value"], entry["low"], entry["high"]), spec)
    return f"- *{claim['statement']}* **{entry['verdict'].capitalize()}**: {claim['quantity']}, {number}.{page}"


def picture(pages: Sequence[Path]) -> bytes | None:
    """The PNG that the first cell tagged "front" drew, on one of the executed pages."""
    for page in pages:
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            if TAG in cell["metadata"].get("tags", []):
                for output in cell.get("outputs", []):
                    if "image/png" in output.get("data", {}):
                        return base64.b64decode(output["data"]["image/png"])
    return None


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    written = sorted(folder.glob("*.ipynb"))
    text, drawn = front(claims(), verdicts(), {page.stem for page in written}), picture(written)
    if drawn:
        replace(folder / PICTURE, drawn)
        about = "A drawn animal, the parts found in it, a red circle around each, and the descriptors chosen for it."
        text = f"```{{figure}} /book/executed/{PICTURE}\n:alt: {about}\n:name: fig-front\n\n" + (
            "One picture explained: what both towers know about it. Bold descriptors are also those of the predicted\n"
            "class; {doc}`executed/explain` goes through every step.\n```\n\n" + text
        )
    replace(folder / "front.md", text.encode())
