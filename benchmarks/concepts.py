"""Which direction encodes which concept: ours against a plain loop with scikit-learn, on the same images, in one run.

    python benchmarks/concepts.py --model RN50

The plain side calls `average_precision_score` for each direction, sign, concept and draw of negatives; ours ranks
the images by each direction once and counts. Both get the same projections and the same samples; neither embeds
an image within its time. Both run in turn, `--repeats` times, and the best of each counts. Exits with 1 if the
ratio is below the target or the average precisions differ by more than 1e-6. Without `--model` the embeddings are
random; `--images`, `--directions` and `--concepts` then choose their numbers.
"""

import argparse
import sys
import time

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from lib.outliers import concepts

TARGET = 20.0


def plainly(scores, labels, columns, how):
    """Average precision of each sign, direction and concept, averaged over draws: float64 [2, D, C]."""
    found = np.empty((2, scores.shape[1], len(columns)))
    for c, column in enumerate(columns):
        drawn, k = concepts.samples(labels, column, how)
        truth = np.arange(2 * k) < k
        for d in range(scores.shape[1]):
            for s, sign in enumerate((1, -1)):
                values = [average_precision_score(truth, sign * scores[images, d]) for images in drawn]
                found[s, d, c] = np.mean(values)
    return found


def of_model(name, images):
    """Projections of a model's embeddings on its head's directions, and the labels of the images."""
    from lib import data, models
    from lib.models import heads
    from lib.outliers import directions, probes

    model, val = models.load(name), data.load("bestiary")
    probe = probes.beyond(val, images)
    weight, _ = heads.head(model, val)
    right = directions.decompose(weight).right
    return concepts.project(model.embed_images(probe.images), right), probe.labels, probe.names


def of_chance(images, directions, count, seed=0):
    """Random projections, and labels of concepts between one and thirty per cent of the images."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, count)) < rng.uniform(0.01, 0.3, count)
    return rng.normal(size=(images, directions)), labels, [f"concept {c}" for c in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--directions", type=int, default=48)
    parser.add_argument("--concepts", type=int, default=60)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.model:
        scores, labels, names = of_model(arguments.model, arguments.images)
    else:
        scores, labels, names = of_chance(arguments.images, arguments.directions, arguments.concepts)
    columns, how = concepts.choose(labels, names)[0], concepts.Sampling(arguments.draws)
    ours, plain = [], []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        found = concepts.precisions(concepts.ranks(scores), labels, columns, how)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        expected = plainly(scores, labels, columns, how)
        plain.append(time.perf_counter() - start)
    difference, ratio = np.abs(found - expected).max(), min(plain) / min(ours)
    size = f"{scores.shape[0]} images, {scores.shape[1]} directions, {len(columns)} concepts, {arguments.draws} draws"
    print(f"{arguments.model or 'random embeddings'}: {size}, {torch.get_num_threads()} threads")
    print(f"scikit-learn, one by one   {min(plain):8.2f} s")
    print(f"ours                       {min(ours):8.2f} s")
    print(f"ratio                      {ratio:8.1f}     (target {TARGET:g})")
    print(f"largest difference         {difference:8.1e}     (allowed 1e-6)")
    return 0 if ratio >= TARGET and difference <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
