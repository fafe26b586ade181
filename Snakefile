# One job a page of the book, and one a model for Table 3, whose records several pages then find. Run by `make book`.
# On a cluster: `snakemake --executor slurm --jobs 13` (see book/your_own.md).
#
# `--config dataset=imagenet models=ViT-B-16,RN50` builds the book at the papers' scale into _build/imagenet, where a page
# that lacks something says so; `weights=small` or `weights=random` rehearses that, each page with the parameters that
# its metadata has for it, on the images of COMPANION_DATASETS. The miniature is the default.
#
# A job's output is a stamp, not the page or record itself: Snakemake deletes outputs before a job and after a failure,
# while a page or record here is moved into place whole, and the last good one stays until then.
import csv
import json
import os
import re
import sys
from pathlib import Path

DATASET, WEIGHTS = str(config.get("dataset", "bestiary")), config.get("weights", "published")
ASKED = str(config.get("models", "") or "")  # names with commas, in place of the books' own
MINIATURE, REHEARSAL = DATASET == "bestiary", WEIGHTS != "published"
BOOK = "rehearsal" if REHEARSAL else re.sub(r"[^\w.-]+", "_", DATASET).strip("_")
FOLDER = "." if MINIATURE else f"_build/{BOOK}"
PAGES = "book/executed" if MINIATURE else f"{FOLDER}/book/executed"
if REHEARSAL:  # its records are nobody's
    os.environ["COMPANION_RESULTS"] = str(Path(FOLDER, "results").resolve())
RESULTS = os.environ.get("COMPANION_RESULTS", "data/results")
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
    "real_encoders": "outliers",
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
MODELS = ASKED.split(",") if ASKED else MODELS
WANTED = str(config.get("pages", "") or "")  # some of the pages, with commas
EXHIBITS = {page: room for page, room in EXHIBITS.items() if not WANTED or page in WANTED.split(",")}
EXHIBITS = {page: room for page, room in EXHIBITS.items() if MINIATURE or room != "bestiary"}  # its own pages
AFTER = {page: [other for other in others if other in EXHIBITS] for page, others in AFTER.items()}


def files(*patterns):
    return sorted(str(p) for pattern in patterns for p in Path(".").glob(pattern) if p.is_file())


COMMON = files("lib/*.py", "lib/statistics/*.py", "lib/data/*.py", "lib/models/*.py", "lib/bestiary/*.py", "data/*.csv", "data/*.toml")
COMMON += files("data/bestiary/configs/*", "data/rehearsal/configs/*")
SHOWN = files("lib/show/*.py", "lib/book/pages.py", "lib/book/ledger.py", "data/published/*")
ZOO = files("data/bestiary/zoo/*", "data/bestiary/training/*", "data/bestiary/bottlenecks/*")
ZOO += files("data/bestiary/twins/*")
ROWS = [] if REHEARSAL else expand(f"{RESULTS}/.done/{BOOK}/table3/{{model}}", model=MODELS)
PYTHON = f"OMP_NUM_THREADS={{threads}} {Path(sys.executable).parent}/python"
BANNERS = {"random": "A rehearsal with random weights: its numbers mean nothing.", "published": f"The book of {DATASET}."}
BANNERS["small"] = BANNERS["random"]


def parameters(exhibit):
    """What a page is run with: of the book's dataset, weights and models."""
    if MINIATURE:
        return ""
    cells = json.loads(Path("notebooks", f"{exhibit}.ipynb").read_text(encoding="utf-8"))["cells"]
    every = any('model = "all"' in "".join(cell["source"]) for cell in cells)  # else it has models of its own
    options = ["--or-card", "--set rehearsal" if REHEARSAL else "", f"-p dataset {DATASET} -p weights {WEIGHTS}"]
    return " ".join([*options, f"-p model '{ASKED}'" if ASKED and every else ""])


rule book:
    input:
        expand(f"{PAGES}/.done/{{exhibit}}", exhibit=EXHIBITS),
        files("lib/book/*.py", "book/*.md", "book/references.bib", "book/_static/*", "book/mathjax/*", "_*.yml", "*.md"),
    output:
        touch("_build/.done" if MINIATURE else f"{FOLDER}/.done"),
    params:
        source="" if MINIATURE else f"$python -m lib.book.source {FOLDER} --banner '{BANNERS[WEIGHTS]}' &&",
        strict="-W -n" if MINIATURE else "",  # elsewhere a page that was not run lacks what others point to
    shell:
        "python=" + sys.executable + f"; {{params.source}} $python -m lib.book.status {PAGES} && $python -m lib.book.ledger"
        f" {PAGES} && $python -m lib.book.front {PAGES} && $python -m lib.book.api {PAGES} && $(dirname $python)/jupyter-book build {FOLDER} {{params.strict}}"
        " --keep-going --quiet"


rule row:
    input:
        COMMON,
        files("lib/mutual/*.py"),
        lambda job: files(f"data/bestiary/zoo/{job.model}.*"),
    output:
        touch(f"{RESULTS}/.done/{BOOK}/table3/{{model}}"),
    shell:
        PYTHON + f" -m lib.run mutual.table3 --model '{{wildcards.model}}' --dataset {DATASET}"


rule page:
    input:
        COMMON,
        SHOWN,
        "notebooks/{exhibit}.ipynb",
        lambda job: files(f"lib/{EXHIBITS[job.exhibit]}/*.py"),
        lambda job: ZOO if MINIATURE and job.exhibit != "bestiary" else [],
        lambda job: ROWS if job.exhibit in FROM_TABLE3 else [],
        lambda job: [f"{PAGES}/.done/{other}" for other in AFTER.get(job.exhibit, [])],
    output:
        touch(f"{PAGES}/.done/{{exhibit}}"),
    params:
        lambda job: parameters(job.exhibit),
    shell:
        PYTHON + f" -m lib.book.pages {{wildcards.exhibit}} {PAGES}/{{wildcards.exhibit}}.ipynb --of {len(EXHIBITS)} {{params}}"
