"""Peak memory of kurtosis, importance, pruning and CKA on saved embeddings, for growing numbers of images.

    python benchmarks/embeddings_memory.py --images 10000,100000,1000000

For each number a file of random embeddings with an outlier coordinate is written, and each measure runs on it in a
process of its own, so that its peak is its own. What counts is the peak above a process that has imported the same
and read a first batch. Exits with 1 if the largest file needs over 1.5 times the memory of the smallest (but never
for less than 20 MB).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MEASURES = ("nothing", "kurtosis", "importance", "pruning", "cka")


def write(path, images, width, seed=0):
    """A file of embeddings, written a stretch at a time: what this process holds counts in those that it starts."""
    rng = np.random.default_rng(seed)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (images, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, images, 10_000):
            part = rng.normal(size=(min(10_000, images - start), width)).astype(np.float32)
            part[:, 7] += 30
            part.tofile(file)


def measure(name, path):
    """Run one measure on a file and print the process's peak memory in MB."""
    import resource

    from lib.outliers import cka, directions, kurtosis, saved, streaming

    (rows,) = saved.embeddings(path).values()
    next(streaming.batches(rows))
    weight = np.random.default_rng(1).normal(size=(100, rows.shape[1]))
    found = directions.decompose(weight)
    if name == "kurtosis":
        kurtosis.averaged(rows)
    elif name == "importance":
        directions.measure(rows, found)
    elif name == "pruning":
        ways, averages = {"singular": [directions.ordered(found, found.values.numpy())]}, streaming.Averages()
        for part in directions.prune(rows, weight, np.zeros(len(weight)), ways, [len(found), len(found) // 5]):
            averages.add(part)
    elif name == "cka":
        cka.cka(cka.terms(rows, rows).mean(axis=0))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", default="10000,100000,1000000")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--measure", default="")
    parser.add_argument("--file", default="")
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments.measure, arguments.file)
    print(f"peak MB above an idle process (seconds), width {arguments.width}, float32")
    print(f"{'images':>9} {'file MB':>8} " + " ".join(f"{name:>16}" for name in MEASURES[1:]))
    peaks = []
    for images in map(int, arguments.images.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.npy"
            write(path, images, arguments.width)
            found = {name: _in_its_own_process(name, path) for name in MEASURES}
            size = os.path.getsize(path) / 2**20
        idle = found["nothing"][0]
        peaks.append([max(found[name][0] - idle, 20) for name in MEASURES[1:]])
        cells = [f"{found[n][0] - idle:8.0f} ({found[n][1]:4.0f} s)" for n in MEASURES[1:]]
        print(f"{images:>9} {size:>8.0f} " + " ".join(f"{cell:>16}" for cell in cells))
    growth = np.max(np.array(peaks[-1]) / np.array(peaks[0]))
    print(f"largest growth {growth:.2f} (allowed 1.5)")
    return 0 if growth <= 1.5 else 1


def _in_its_own_process(name, path):
    start = time.perf_counter()
    command = [sys.executable, __file__, "--measure", name, "--file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]), time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
