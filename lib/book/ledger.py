"""The ledger of claims: every claim of the papers with its published evidence and its verdict at each scale that ran.

`python -m lib.book.ledger book/executed` writes claims_ledger.md for the page "claims" from data/claims.toml and from
what the book's own runs kept in results/<dataset>/claims/<exhibit>.json.
"""

import json
import sys
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import paths, provenance, statistics
from lib.errors import UserError, note
from lib.show import published
from lib.show.tables import estimate
from lib.statistics import Estimate
from lib.store import replace

PAPERS = {
    "sammani2024interpreting": "Mutual knowledge",
    "crabbe2024interpreting": "Outlier features",
    "oikarinen2023clipdissect": "CLIP-Dissect",
}
MINIATURE = "bestiary"
VERDICTS = ("holds", "fails", "inconclusive", "cannot be tested", "not run")
DIRECTIONS = ("positive", "negative")
NOT_RUN = {"verdict": "not run"}


def claims(exhibit: str | None = None) -> list[dict]:
    """The papers' claims, of all exhibits or of one: the tables of data/claims.toml.

    One with `of` is about that ("real encoders") at no scale of its own, and counted apart.
    """
    found = tomllib.loads((paths.DATA / "claims.toml").read_text(encoding="utf-8"))["claim"]
    return [c for c in found if exhibit in (None, c["exhibit"])]


def verdict(low: float, high: float, direction: str = "positive") -> str:
    """One of "holds", "fails", "inconclusive": on which side of zero the interval lies; none: "cannot be tested".

    A claim of direction "positive" holds when the whole interval is above zero and fails when it is below.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"direction is {direction!r}, but it must be one of {DIRECTIONS}.")
    if not (np.isfinite(low) and np.isfinite(high)):
        return "cannot be tested"
    if direction == "negative":
        low, high = -high, -low
    return "holds" if low > 0 else "fails" if high < 0 else "inconclusive"


def judged(exhibit: str, found: Mapping[str, Estimate]) -> dict[str, dict]:
    """Each claim of an exhibit with its statistic and verdict: claim -> value, low, high, p, n, verdict.

    Raises UserError for a claim that the exhibit does not have, or one of its claims left out.
    """
    mine = {c["id"]: c for c in claims(exhibit)}
    for name in found.keys() ^ mine.keys():
        raise UserError(f"The claims of {exhibit} are {', '.join(mine)}; '{name}' is not in both.")
    entries = {}
    for name, claim in mine.items():
        about = found[name]
        numbers = {k: float(x) if np.isfinite(x) else None for k, x in about._asdict().items() if k != "n"}
        entries[name] = {**numbers, "n": int(about.n), "verdict": verdict(about.low, about.high, claim["direction"])}
    return entries


def lines(exhibit: str, entries: Mapping[str, dict]) -> pd.DataFrame:
    """The verdicts of an exhibit as a table of strings: claim, statistic, n, verdict."""
    mine = {c["id"]: c for c in claims(exhibit)}
    return pd.DataFrame(
        {
            "claim": mine[name]["statement"],
            "statistic": estimate((e["value"], e["low"], e["high"])),
            "n": str(e["n"] or "–"),
            "verdict": e["verdict"],
        }
        for name, e in entries.items()
    )


def keep(dataset: str, exhibit: str, entries: Mapping[str, dict]) -> None:
    """Keep the verdicts of the book's own run for the ledger. Says so where they cannot be written."""
    path = Path(paths.results_folder(provenance.file_name(dataset))) / "claims" / f"{exhibit}.json"
    content = {"exhibit": exhibit, "dataset": dataset, "claims": entries, **provenance.source()}
    try:
        replace(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        note(f"The verdicts are not kept: {path.parent} cannot be written ({error.strerror}).")


def corrected(entries: Mapping[str, dict]) -> dict[str, dict]:
    """The same entries with `adjusted`, their p among all of them, and `corrected`, the verdict that this leaves."""
    adjusted = statistics.false_discoveries([entry.get("p") or np.nan for entry in entries.values()])
    found = {}
    for (name, entry), p in zip(entries.items(), adjusted, strict=True):
        chance = entry["verdict"] in ("holds", "fails") and not p < 0.05
        found[name] = {**entry, "adjusted": p, "corrected": "inconclusive" if chance else entry["verdict"]}
    return found


def verdicts() -> dict[str, dict[str, dict]]:
    """What `keep` has kept: dataset to claim to its entry. A damaged file counts as none and is named."""
    found: dict[str, dict[str, dict]] = {}
    for path in sorted(Path(paths.results_folder("")).glob("*/claims/*.json")):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            entries = {name: {**entry, "exhibit": kept["exhibit"]} for name, entry in kept["claims"].items()}
            found.setdefault(kept["dataset"], {}).update(entries)
        except (ValueError, KeyError, TypeError) as reason:
            note(f"The verdicts {path.name} are damaged ({reason}) and are left out.")
    return found


def ledger(claims: Sequence[dict], found: Mapping[str, Mapping[str, dict]], pages: Collection[str] = ()) -> str:
    """The page's Markdown: the balance, then a table a paper.

    claims: of data/claims.toml; found: from `verdicts`; pages: names of the executed notebooks.
    """
    others = {name: corrected(kept) for name, kept in found.items()}
    mini = others.pop(MINIATURE, {})
    text = [*_balance(claims, mini, others), ""]
    papers = list(dict.fromkeys(claim["paper"] for claim in claims))
    for paper in sorted(papers, key=lambda p: list(PAPERS).index(p) if p in PAPERS else len(PAPERS)):
        text += [f"## {PAPERS.get(paper, paper)}", "", f"{{cite:t}}`{paper}`", ""]
        text += ["| claim | published | miniature | papers' scale |", "|:---|:---|:---|:---|"]
        text += [_line(c, mini.get(c["id"], NOT_RUN), others, pages) for c in claims if c["paper"] == paper]
        text.append("")
    return "\n".join(text)


def _balance(claims: Sequence[dict], mini: Mapping, others: Mapping[str, Mapping]) -> list[str]:
    """How many claims hold, fail, stay open or were not run, a line a paper and scale."""
    text = ["| | claims | " + " | ".join(VERDICTS) + " | kept after correction |"]
    text.append("|:---|---:|" + "---:|" * (len(VERDICTS) + 1))
    apart = {c["of"] for c in claims if "of" in c}
    for paper in dict.fromkeys(c["paper"] for c in claims):
        for scale, kept in {"miniature": mini, **others}.items():
            asked = [c for c in claims if c["paper"] == paper and c.get("of") == (scale if scale in apart else None)]
            some = [kept.get(c["id"], NOT_RUN) for c in asked]
            counts = " | ".join(str(sum(e["verdict"] == v for e in some)) for v in VERDICTS)
            counts += f" | {sum(e.get('corrected') in ('holds', 'fails') for e in some)}"
            text += [f"| {PAPERS.get(paper, paper)}, {scale} | {len(asked)} | {counts} |"] * bool(asked)
    return text


def _line(claim: dict, mini: Mapping, others: Mapping[str, Mapping], pages: Collection[str]) -> str:
    exhibit = claim["exhibit"]
    page = f"{{doc}}`executed/{exhibit}`" if exhibit in pages else f"`{exhibit}`"
    where = f"{claim['statement']}<br>*{claim['where']}*; {page}"
    unit = claim["quantity"]
    paper_scale = [f"{name}: {_entry(kept[claim['id']], unit)}" for name, kept in others.items() if claim["id"] in kept]
    small = "not asked" if "of" in claim else _entry(mini, unit)
    cells = (where, evidence(claim), small, "<br>".join(paper_scale) or "not run")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _entry(entry: Mapping, quantity: str) -> str:
    if entry["verdict"] == "not run":
        return "not run"
    if entry.get("value") is None:
        return f"**{entry['verdict']}**"
    low, high, n = entry["low"], entry["high"], entry["n"]
    if low is None or high is None:
        return f"**cannot be tested with {n}**<br>{quantity}: {entry['value']:.2f}"
    doubt = "" if entry["corrected"] == entry["verdict"] else " alone, not among all claims"
    return f"**{entry['verdict']}**{doubt}<br>{quantity}: {entry['value']:.2f} [{low:.2f}, {high:.2f}], n = {n}"


def evidence(claim: dict) -> str:
    """The published evidence for a claim in a few words: its own `evidence`, or what its published table says."""
    if "evidence" in claim:
        return claim["evidence"]
    table = claim.get("published")
    if table == "mutual_knowledge_table3" and claim["statistic"] == "correlation":
        return _published_correlation(claim, published.averaged())
    if table == "mutual_knowledge_table3" and claim["statistic"] == "difference":
        return _published_difference(claim, published.averaged())
    return "stated in words" if table is None else "in words; see the page"


def _published_correlation(claim: dict, table: pd.DataFrame) -> str:
    group = table if claim["group"] == "all" else table[table["family"] == claim["group"]]
    found = statistics.correlation(group[claim["x"]], group[claim["y"]], claim.get("method", "pearson"))
    interval = f"[{found.low:.2f}, {found.high:.2f}] over models"
    return f"r = {found.value:.2f}, {interval if np.isfinite(found.low) else 'too few models'}, n = {found.n}"


def _published_difference(claim: dict, table: pd.DataFrame) -> str:
    titles = pd.read_csv(paths.DATA / "models.csv", index_col="name")["title"]
    means = [table.loc[[titles[name] for name in claim[side]], claim["metric"]].mean() for side in ("greater", "less")]
    return f"difference {means[0] - means[1]:+.2f}, no interval"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    written = {page.stem for page in folder.glob("*.ipynb")}
    (folder / "claims_ledger.md").write_text(ledger(claims(), verdicts(), written), encoding="utf-8")
