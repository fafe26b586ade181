# One job per page of the book, and one per model for Table 3, whose records the pages then find.
# Run by `make book`. On a cluster: `snakemake --executor slurm --jobs 13` (see book/your_own.md).
#
# A job's output is a stamp, not the page or record itself: Snakemake deletes outputs before a job and after a failure,
# while a page or record here is moved into place whole, and the last good one stays until then.
import csv
import os
import sys
from pathlib import Path

RESULTS = os.environ.get("COMPANION_RESULTS", "data/results")
PAGES = "book/executed"
EXHIBITS = ["bestiary", "zoo", "table3", "figure3"]
MODELS = [row["name"] for row in csv.DictReader(open("data/models.csv"))]


def files(*patterns):
    return sorted(str(p) for pattern in patterns for p in Path(".").glob(pattern) if p.is_file())


COMMON = files("lib/*.py", "lib/bestiary/*.py", "data/*.csv", "data/*.toml", "data/bestiary/configs/*")
MUTUAL = files("lib/mutual/*.py")
REPORT = files("lib/report/*.py", "data/published/*")
ZOO = files("data/bestiary/zoo/*", "data/bestiary/training/*")
NEEDS = {"bestiary": [], "zoo": ZOO, "table3": MUTUAL + ZOO, "figure3": MUTUAL + ZOO}
ROWS = expand(f"{RESULTS}/bestiary/table3/.done/{{model}}", model=MODELS)
BIN = Path(sys.executable).parent
RUN = f"OMP_NUM_THREADS={{threads}} {BIN}/python -m lib.notebook"


rule book:
    input:
        expand(f"{PAGES}/.done/{{exhibit}}", exhibit=EXHIBITS),
        files("book/*.md", "book/references.bib", "book/_static/*", "book/mathjax/*", "_config.yml", "_toc.yml"),
    output:
        touch("_build/.done"),
    shell:
        f"{BIN}/python -m lib.report.status {PAGES} && {BIN}/jupyter-book build . -W -n --keep-going --quiet"


rule row:
    input:
        COMMON,
        MUTUAL,
        files("lib/report/record.py"),
        "notebooks/table3.ipynb",
        lambda job: files(f"data/bestiary/zoo/{job.model}.*"),
    output:
        touch(f"{RESULTS}/bestiary/table3/.done/{{model}}"),
    shell:
        RUN + " table3 -p model {wildcards.model}"


rule page:
    input:
        COMMON,
        REPORT,
        "notebooks/{exhibit}.ipynb",
        lambda job: NEEDS[job.exhibit],
        lambda job: ROWS if job.exhibit in ("table3", "figure3") else [],
    output:
        touch(f"{PAGES}/.done/{{exhibit}}"),
    shell:
        RUN + f" {{wildcards.exhibit}} {PAGES}/{{wildcards.exhibit}}.ipynb"
