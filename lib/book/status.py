"""Two generated pieces of the book, made from the executed notebooks and the records when the book is built.

`python -m lib.book.status book/executed` writes exhibits.md (each exhibit, its command, its minutes) and status.md
(what was not run, versions, commit, times, records).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import paths, provenance, store

PAPERS_SCALE = ("imagenet", "places365", "food101")


def main(folder: Path) -> None:
    notebooks = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.ipynb"))}
    (folder / "exhibits.md").write_text(exhibits(notebooks), encoding="utf-8")
    (folder / "status.md").write_text(status(notebooks, records()), encoding="utf-8")


def records() -> list[dict[str, Any]]:
    """The cards of all records, in the order of their files."""
    found = sorted(Path(paths.results_folder("")).glob("*/*.*/*.json"))
    return [card for card in map(store.read_card, found) if card]


def exhibits(notebooks: Mapping[str, dict]) -> str:
    """The table of exhibits. notebooks: executed notebooks by name."""
    lines = ["| exhibit | command | minutes here |", "|:---|:---|---:|"]
    for name, notebook in notebooks.items():
        command = f"`.venv/bin/papermill notebooks/{name}.ipynb out.ipynb`"
        minutes = notebook["metadata"]["papermill"]["duration"] / 60
        lines.append(f"| {{doc}}`executed/{name}` | {command} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def status(notebooks: Mapping[str, dict], cards: Sequence[dict]) -> str:
    """What was not run; versions, commit and machine; the pages with their times; the records, a line a function."""
    source = provenance.source()
    dirty = ", with changes that are not committed" if source["dirty"] else ""
    versions = ", ".join(f"{k} {v}" for k, v in provenance.versions().items())
    lines = ["## Not run", "", *not_run(cards, notebooks), "", "## This build", ""]
    lines += [f"Commit `{source['commit'][:12]}`{dirty}; {provenance.device_name('cpu')}; {versions}.", ""]
    lines += ["| page | executed | seconds |", "|:---|:---|---:|"]
    for name, notebook in notebooks.items():
        run = notebook["metadata"]["papermill"]
        lines.append(f"| {{doc}}`executed/{name}` | {run['start_time'][:16]} | {run['duration']:.0f} |")
    lines += [
        "",
        "## Records",
        "",
        "| dataset | function | records | seconds in all | MB at most | devices | commits |",
    ]
    lines += ["|:---|:---|---:|---:|---:|:---|:---|", *_functions(cards)]
    return "\n".join(lines) + "\n"


def _functions(cards: Sequence[dict]) -> list[str]:
    groups: dict[tuple, list[dict]] = {}
    for card in cards:
        groups.setdefault((card["asked"]["dataset"], card["asked"]["function"].removeprefix("lib.")), []).append(card)
    lines = []
    for (dataset, function), members in groups.items():
        seconds, memory = sum(c["seconds"] for c in members), max(c["peak_memory_mb"] for c in members)
        devices = ", ".join(sorted({c["device"] for c in members}))
        commits = ", ".join(sorted({f"`{c['commit'][:8]}`" + ("*" if c["dirty"] else "") for c in members}))
        lines.append(
            f"| {dataset} | `{function}` | {len(members)} | {seconds:.1f} | {memory} | {devices} | {commits} |"
        )
    return lines


def not_run(cards: Sequence[dict], exhibits: Mapping[str, dict] | Sequence[str] = ()) -> list[str]:
    """What the papers have and these records don't, as lines of Markdown. exhibits: names of the book's pages."""
    import pandas as pd

    models = pd.read_csv(paths.DATA / "models.csv", keep_default_na=False).set_index("name")["sets"].str.split()
    ours = models.index[models.map(lambda sets: "mutual" in sets)]
    done = {(c["asked"]["dataset"], c["asked"]["function"], c["asked"]["model"]) for c in cards}
    lines = []
    for dataset in PAPERS_SCALE:
        missing = [m for m in ours if (dataset, "lib.mutual.observe.table3", m) not in done]
        if missing:
            which = "all models" if len(missing) == len(ours) else ", ".join(missing)
            lines.append(f"- Table 3 at `{dataset}`: {which}")
    elsewhere = {c["exhibit"] for c in cards if c["asked"]["dataset"] in PAPERS_SCALE}
    never = [e for e in exhibits if e not in ("bestiary", "zoo", "table3", "real_encoders") and e not in elsewhere]
    if never:
        lines.append(f"- At the papers' scale: {', '.join(f'{{doc}}`executed/{e}`' for e in never)}")
    return lines or ["Everything was run."]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
