"""Cards: what a run is about at the top of a page, and where its numbers come from at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lib import provenance

COLUMNS = ("record of", "model", "options", "device", "precision", "seconds", "MB", "opened", "commit", "written")


@dataclass
class Card:
    """A piece of HTML that a notebook shows."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def of_facts(facts: Mapping[str, Any], banner: str = "") -> Card:
    """A list of facts, under a banner where there is one."""
    warning = f'<p class="banner">{escape(banner)}</p>' if banner else ""
    cells = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return Card(f'<div class="run-card">{warning}<dl>{cells}</dl></div>')


def of_records(records: Sequence[Mapping[str, Any]], exhibit: str, seconds: float) -> Card:
    """The provenance of a page: this run, and each record (its card, as stored) that its numbers come from."""
    source = provenance.source()
    facts = {
        "Exhibit": exhibit,
        "Commit": source["commit"][:12] + (" with uncommitted changes" if source["dirty"] else ""),
        "Versions": ", ".join(f"{k} {v}" for k, v in provenance.versions().items()),
        "This run": f"{seconds:.0f} s, {provenance.peak_memory_mb('cpu')} MB at its peak",
    }
    card = of_facts(facts).html
    if not records:
        return Card(card)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in _row(r)) + "</tr>" for r in records)
    head = "".join(f"<th>{h}</th>" for h in COLUMNS)
    return Card(card.removesuffix("</div>") + f"<table><tr>{head}</tr>{body}</table></div>")


def _row(r: Mapping[str, Any]) -> tuple:
    asked = r["asked"]
    options = ", ".join(f"{k}={v}" for k, v in asked["options"].items())
    opened = "; ".join(f"{' '.join(map(str, request))} {sha[:8]}" for request, sha in r["opened"])
    commit = r["commit"][:8] + ("*" if r["dirty"] else "")
    machine = (r["device"], asked["precision"], r["seconds"], r["peak_memory_mb"])
    return (asked["function"].removeprefix("lib."), asked["model"], options, *machine, opened, commit, r["written"])
