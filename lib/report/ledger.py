"""The ledger of claims: every claim of the papers with its published evidence and its verdict at each scale that ran.

`python -m lib.report.ledger book/executed` writes claims_ledger.md for the page "claims" from data/claims.toml and from
the claims.json files that `run.verdicts` left among the results.
"""

import json
import sys
from pathlib import Path

import numpy as np

from lib import paths
from lib.report import published, record, statistics
from lib.report.mutual import groups_of

PAPERS = {
    "sammani2024interpreting": "Mutual knowledge",
    "crabbe2024interpreting": "Outlier features",
    "oikarinen2023clipdissect": "CLIP-Dissect",
}
MINIATURE = "bestiary"
VERDICTS = ("holds", "fails", "inconclusive", "not run")
NOT_RUN = {"verdict": "not run"}


def main(folder):
    pages = {page.stem for page in Path(folder).glob("*.ipynb")}
    text = ledger(published.claims(), verdicts(), pages)
    Path(folder, "claims_ledger.md").write_text(text, encoding="utf-8")


def verdicts():
    """What `run.verdicts` has kept: dict of dataset to dict of claim to its entry. A damaged file counts as none."""
    root, found = Path(paths.results_folder("")), {}
    for path in sorted(root.glob(f"*/*/{record.CLAIMS}")):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            entries = {name: {**entry, "exhibit": kept["exhibit"]} for name, entry in kept["claims"].items()}
            found.setdefault(kept["dataset"], {}).update(entries)
        except (ValueError, KeyError, TypeError) as reason:
            print(f"The verdicts {path} are damaged ({reason}) and are left out.", file=sys.stderr)
    return found


def ledger(claims, found, pages=()):
    """The page's Markdown: the balance, then a table a paper.

    claims: list of dicts of data/claims.toml; found: from `verdicts`; pages: names of the executed notebooks.
    """
    mini = found.get(MINIATURE, {})
    others = {name: kept for name, kept in found.items() if name != MINIATURE}
    lines = [*_balance(claims, mini, others), ""]
    papers = list(dict.fromkeys(claim["paper"] for claim in claims))
    for paper in sorted(papers, key=lambda p: list(PAPERS).index(p) if p in PAPERS else len(PAPERS)):
        lines += [f"## {PAPERS.get(paper, paper)}", "", f"{{cite:t}}`{paper}`", ""]
        lines += ["| claim | published | miniature | papers' scale |", "|:---|:---|:---|:---|"]
        lines += [_line(c, mini.get(c["id"], NOT_RUN), others, pages) for c in claims if c["paper"] == paper]
        lines.append("")
    return "\n".join(lines)


def _balance(claims, mini, others):
    """How many claims hold, fail, stay open or were not run, a line a paper and scale."""
    lines = ["| | claims | " + " | ".join(VERDICTS) + " |", "|:---|---:|" + "---:|" * len(VERDICTS)]
    for paper in [*dict.fromkeys(c["paper"] for c in claims)]:
        ids = [c["id"] for c in claims if c["paper"] == paper]
        for scale, kept in {"miniature": mini, **others}.items():
            given = [kept.get(name, NOT_RUN)["verdict"] for name in ids]
            counts = " | ".join(str(given.count(v)) for v in VERDICTS)
            lines.append(f"| {PAPERS.get(paper, paper)}, {scale} | {len(ids)} | {counts} |")
    return lines


def _line(claim, mini, others, pages):
    exhibit = claim["exhibit"]
    page = f"{{doc}}`executed/{exhibit}`" if exhibit in pages else f"`{exhibit}`"
    where = f"{claim['statement']}<br>*{claim['where']}*; {page}"
    paper_scale = [f"{name}: {_entry(kept[claim['id']])}" for name, kept in others.items() if claim["id"] in kept]
    cells = (where, evidence(claim), _entry(mini), "<br>".join(paper_scale) or "not run")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _entry(entry):
    if entry["verdict"] == "not run" or entry.get("value") is None:
        return f"**{entry['verdict']}**" if entry["verdict"] != "not run" else "not run"
    low, high = entry["low"], entry["high"]
    interval = "no interval" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return f"**{entry['verdict']}**<br>{entry['value']:.2f} {interval}, n = {entry['n']}"


def evidence(claim):
    """The published evidence for a claim in a few words: its own `evidence`, or what its published table says."""
    if "evidence" in claim:
        return claim["evidence"]
    table = claim.get("published")
    if table == "mutual_knowledge_table3" and claim["statistic"] == "correlation":
        return _published_correlation(claim, published.averaged())
    if table == "mutual_knowledge_table3" and claim["statistic"] == "difference":
        return _published_difference(claim, published.averaged())
    return "stated in words" if table is None else "in words; see the page"


def _published_correlation(claim, table):
    models = groups_of(table)[claim["group"]]
    x, y = table.loc[models, claim["x"]], table.loc[models, claim["y"]]
    value = float(statistics.coefficient(x, y, claim.get("method", "pearson")))
    low, high = statistics.over_models(x, y, claim.get("method", "pearson"))
    interval = f"[{low:.2f}, {high:.2f}] over models" if np.isfinite(low) else "too few models for an interval"
    return f"r = {value:.2f}, {interval}, n = {len(models)}"


def _published_difference(claim, table):
    from lib import models

    titles = models.catalogue()["title"]
    means = [table.loc[[titles[name] for name in claim[side]], claim["metric"]].mean() for side in ("greater", "less")]
    return f"difference {means[0] - means[1]:+.2f}, no interval"


if __name__ == "__main__":
    main(sys.argv[1])
