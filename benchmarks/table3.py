"""What Table 3 costs on this machine, from nothing and from its records.

    python benchmarks/table3.py --cores 2

Computes all rows with an empty cache and no records, as `make book` does (one process a model, `--cores` at a time),
then runs the notebook for one model, which finds its record. Prints wall times and the largest process' memory.
The targets are those of the project: five minutes, 8 GB, 30 seconds.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def timed(command, **environment):
    """Run a command in the project's folder; returns its seconds. Its output is shown only when it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--model", default="ViT-L-14", help="the row that is run again from its record")
    options = parser.parse_args()
    rows = csv.DictReader((ROOT / "data" / "models.csv").open())
    models = [row["name"] for row in rows if "mutual" in row["sets"].split()]
    with tempfile.TemporaryDirectory() as folder:
        places = {"COMPANION_CACHE": f"{folder}/cache", "COMPANION_RESULTS": f"{folder}/results"}
        stamps = [f"{folder}/results/.done/table3/{name}" for name in models]
        snakemake = [BIN / "python", "-m", "snakemake", "--cores", str(options.cores), "--nolock", *stamps]
        cold = timed(snakemake, **places)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        notebook = [BIN / "papermill", "notebooks/table3.ipynb", f"{folder}/out.ipynb", "-p", "model", options.model]
        warm = timed(notebook, **places)
    print(f"| all {len(models)} rows, empty cache, {options.cores} cores | {cold:.0f} s | at most 300 s |")
    print(f"| largest process | {memory:.1f} GB | at most 8 GB for {options.cores} |")
    print(f"| papermill, {options.model}, from its record | {warm:.0f} s | at most 30 s |")


if __name__ == "__main__":
    main()
