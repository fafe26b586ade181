# One job a page of the book, and one a model for Table 3, whose records several pages then find. Run by `make book`.
# On a cluster: `snakemake --executor slurm --jobs 13` (see book/your_own.md).
#
# A job's output is a stamp, not the page or record itself: Snakemake deletes outputs before a job and after a failure,
# while a page or record here is moved into place whole, and the last good one stays until then.
import csv
import os
import sys
from pathlib import Path

RESULTS = os.environ.get("COMPANION_RESULTS", "data/results")
PAGES = "book/executed"
# page -> the rooms of lib that it stands on, besides those that all stand on
EXHIBITS = {
    "bestiary": "bestiary",
    "zoo": "bestiary",
    "table1": "mutual",
    "table2": "mutual",
    "table3": "mutual",
    "table5": "mutual",
    "figure3": "mutual",
    "foreground": "mutual",
    "matching": "mutual",
    "ground_truth": "mutual",
    "explain": "mutual",
    "sensitivity": "mutual",
    "kurtosis": "outliers",
    "privileged_directions": "outliers",
    "concepts": "outliers",
    "effective_robustness": "outliers",
    "outlier_twins": "outliers",
    "dissection": "dissection",
    "dissection_places": "dissection",
    "dissection_timing": "dissection",
    "missing_concepts": "dissection",
    "neurons": "dissection",
    "describe_class": "dissection",
}
# pages that find what others have measured
AFTER = {"effective_robustness": ["zoo", "kurtosis", "privileged_directions", "concepts"]}
AFTER |= {"outlier_twins": ["effective_robustness"]}
AFTER |= {page: ["describe_class"] for page in ("dissection", "dissection_places", "missing_concepts", "neurons")}
FROM_TABLE3 = ["table2", "table3", "figure3", "ground_truth", "explain", "matching", "sensitivity"]
MODELS = [row["name"] for row in csv.DictReader(open("data/models.csv")) if "mutual" in row["sets"].split()]


def files(*patterns):
    return sorted(str(p) for pattern in patterns for p in Path(".").glob(pattern) if p.is_file())


COMMON = files("lib/*.py", "lib/data/*.py", "lib/models/*.py", "lib/bestiary/*.py", "data/*.csv", "data/*.toml")
COMMON += files("data/bestiary/configs/*")
SHOWN = files("lib/show/*.py", "lib/book/pages.py", "lib/book/ledger.py", "data/published/*")
ZOO = files("data/bestiary/zoo/*", "data/bestiary/training/*", "data/bestiary/bottlenecks/*")
ZOO += files("data/bestiary/twins/*")
ROWS = expand(f"{RESULTS}/.done/table3/{{model}}", model=MODELS)
PYTHON = f"OMP_NUM_THREADS={{threads}} {Path(sys.executable).parent}/python"


rule book:
    input:
        expand(f"{PAGES}/.done/{{exhibit}}", exhibit=EXHIBITS),
        files("lib/book/*.py", "book/*.md", "book/references.bib", "book/_static/*", "book/mathjax/*", "_*.yml", "*.md"),
    output:
        touch("_build/.done"),
    shell:
        "python=" + sys.executable + f"; $python -m lib.book.status {PAGES} && $python -m lib.book.ledger {PAGES}"
        f" && $python -m lib.book.front {PAGES} && $python -m lib.book.api {PAGES} && $(dirname $python)/jupyter-book build . -W -n --keep-going --quiet"


rule row:
    input:
        COMMON,
        files("lib/mutual/*.py"),
        lambda job: files(f"data/bestiary/zoo/{job.model}.*"),
    output:
        touch(f"{RESULTS}/.done/table3/{{model}}"),
    shell:
        PYTHON + " -m lib.run mutual.table3 --model {wildcards.model}"


rule page:
    input:
        COMMON,
        SHOWN,
        "notebooks/{exhibit}.ipynb",
        lambda job: files(f"lib/{EXHIBITS[job.exhibit]}/*.py"),
        lambda job: [] if job.exhibit == "bestiary" else ZOO,
        lambda job: ROWS if job.exhibit in FROM_TABLE3 else [],
        lambda job: [f"{PAGES}/.done/{other}" for other in AFTER.get(job.exhibit, [])],
    output:
        touch(f"{PAGES}/.done/{{exhibit}}"),
    shell:
        PYTHON + f" -m lib.book.pages {{wildcards.exhibit}} {PAGES}/{{wildcards.exhibit}}.ipynb --of {len(EXHIBITS)}"
