"""Two generated pieces of the book, made from the executed notebooks and the records when the book is built.

`python -m lib.report.status book/executed` writes exhibits.md (each exhibit, its command, its minutes) and
status.md (versions, commit, run times, what was not run).
"""

import json
import sys
from pathlib import Path

from lib import paths
from lib.report import record


def main(folder):
    folder = Path(folder)
    notebooks = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.ipynb"))}
    (folder / "exhibits.md").write_text(exhibits(notebooks), encoding="utf-8")
    (folder / "status.md").write_text(status(notebooks, _all_records()), encoding="utf-8")


def exhibits(notebooks):
    """The table of exhibits. notebooks: dict of name -> executed notebook."""
    lines = ["| exhibit | command | minutes here |", "|:---|:---|---:|"]
    for name, notebook in notebooks.items():
        command = f"`papermill notebooks/{name}.ipynb out.ipynb`"
        lines.append(f"| {{doc}}`executed/{name}` | {command} | {minutes(notebook, name)} |")
    return "\n".join(lines) + "\n"


def status(notebooks, records):
    """Versions, commit and machine; the notebooks with their times; every record; what has no record."""
    source = record.source()
    dirty = ", with changes that are not committed" if source["dirty"] else ""
    versions = ", ".join(f"{k} {v}" for k, v in record.versions().items())
    lines = [
        "## This build",
        "",
        f"Commit `{source['commit'][:12]}`{dirty}; {record.device_name('cpu')}; {versions}.",
        "",
        "| page | executed | seconds |",
        "|:---|:---|---:|",
    ]
    for name, notebook in notebooks.items():
        run = notebook["metadata"]["papermill"]
        lines.append(f"| {{doc}}`executed/{name}` | {run['start_time'][:16]} | {run['duration']:.0f} |")
    lines += ["", "## Rows", "", "| dataset | exhibit | model | images | seconds | MB | device | commit |"]
    lines += ["|:---|:---|:---|---:|---:|---:|:---|:---|"]
    lines += [_line(r) for r in records]
    return "\n".join([*lines, "", "## Not run", "", *not_run(records, notebooks)]) + "\n"


def not_run(records, exhibits=()):
    """What the papers have and these records don't, a list of Markdown lines. exhibits: names of the book's pages."""
    import pandas as pd

    models = pd.read_csv(paths.DATA / "models.csv", keep_default_na=False).set_index("name")["sets"].str.split()
    ours = models.index[models.map(lambda sets: "mutual" in sets)]
    done = {(r["dataset"], r["exhibit"], r["model"]) for r in records}
    lines = []
    for dataset in ("imagenet", "places365", "food101"):
        missing = [m for m in ours if (dataset, "table3", m) not in done]
        if missing:
            which = "all models" if len(missing) == len(ours) else ", ".join(missing)
            lines.append(f"- Table 3 at `{dataset}`: {which}")
    elsewhere = {exhibit for dataset, exhibit, _ in done if dataset != "bestiary"}
    never = [e for e in exhibits if e not in ("bestiary", "zoo", "table3") and e not in elsewhere]
    if never:
        lines.append(f"- At the papers' scale: {', '.join(f'{{doc}}`executed/{e}`' for e in never)}")
    return lines or ["Everything was run."]


def minutes(notebook, name):
    """Minutes that the page took: its own run, and that of the rows that were computed for it beforehand."""
    seconds = notebook["metadata"]["papermill"]["duration"]
    rows = [r["wall_seconds"] for r in record.read_all("bestiary", name)]
    return f"{(seconds + sum(rows)) / 60:.1f}"


def _all_records():
    folders = sorted(p for p in Path(paths.results_folder("")).glob("*") if p.is_dir())
    return [r for folder in folders for r in record.read_all(folder.name)]


def _line(r):
    dirty = "*" if r["dirty"] else ""
    cells = (
        r["dataset"],
        r["exhibit"],
        r["title"],
        r["images"],
        f"{r['wall_seconds']:.1f}",
        r["peak_memory_mb"],
    )
    return "| " + " | ".join(map(str, (*cells, r["device"], f"`{r['commit'][:8]}`{dirty}"))) + " |"


if __name__ == "__main__":
    main(sys.argv[1])
