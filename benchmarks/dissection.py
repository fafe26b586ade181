"""What the labels of one layer cost, ours and in the released code's way, on this machine and in one run.

    python benchmarks/dissection.py                    # 50,000 images x 20,000 concepts x 2,048 neurons; 14 GB
    python benchmarks/dissection.py --images 10000 --concepts 4000 --neurons 512 --threads 1

Synthetic embeddings (512-d, of norm 1) and activations. Each way runs in a process of its own, so that its peak memory
is its own, and from embeddings and activations to labels: ours is `similarity.labels`, which the pages run too. Both
are timed by the wall and by the processor: where other work shares the cores, the second, and one thread, are fairer.
Then our labels are compared with the authors' formulas in float64. Rank reorder would take hours for all neurons in the
released way; both ways label the first `--slice` of them.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time

import torch

from lib.dissection import plain, similarity, timing

TARGETS = {"soft_wpmi": 3, "wpmi": 3, "rank_reorder": 4}  # times the released way's speed; its memory a quarter


def inputs(options):
    """Activations, embeddings of images and concepts: the same in every process."""
    sizes = options.images, options.concepts, options.neurons, options.dimensions
    return timing.random_inputs(timing.Problem(*sizes), options.seed)


def clock():
    return time.perf_counter(), time.process_time()


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(options):
    """One way, one function: labels, seconds by the wall and the processor, peak memory in GB."""
    q, images, texts = inputs(options)
    q = q[:, : options.slice] if options.function == "rank_reorder" else q
    start = clock()
    if options.way == "ours":
        labels = similarity.labels(options.function, q, images, texts)[0]
    else:
        labels = plain.scores(options.function, q, images, texts).argmax(1)
    seconds = [now - then for now, then in zip(clock(), start, strict=True)]
    print(json.dumps({"seconds": seconds, "peak": peak(), "labels": labels.tolist()}))


def reference(options):
    """Labels by the formula as it stands, in float64, a part of the concepts at a time."""
    q, images, texts = inputs(options)
    function = REFERENCES[options.function]
    print(json.dumps({"labels": function(images.double(), texts.double(), q, options)}))


def softmax_rows(images, texts, a, width):
    log_z = torch.cat([(a * x @ texts.T).logsumexp(1) for x in images.split(1024)])
    for start in range(0, len(texts), width):
        yield start, (a * images @ texts[start : start + width].T - log_z[:, None]).exp_()


def best_of(parts, neurons):
    """argmax over concepts that come in parts: pairs of a start and scores [neurons, part]."""
    best, where = torch.full((neurons,), -math.inf, dtype=torch.float64), torch.zeros(neurons, dtype=torch.int64)
    for start, scores in parts:
        value, index = scores.max(1)
        better = value > best
        best[better], where[better] = value[better], start + index[better]
    return where.tolist()


def reference_wpmi(images, texts, q, options, soft=False):
    top = torch.topk(q, 100 if soft else 28, dim=0).indices
    p = (0.998 - torch.arange(len(top)) / len(top) * 0.028).double()[:, None]
    lam = 1.0 if soft else 0.6

    def parts():
        for start, S in softmax_rows(images, texts, 10.0 if soft else 2.0, 400):
            rows = (S[top[:, k]] for k in range(q.shape[1]))
            terms = ((1 + p * (x - 1) + 1e-7) if soft else (x + 1e-7) for x in rows)
            L = torch.stack([x.log().sum(0) for x in terms])
            yield start, L - lam * (L.logsumexp(0) - math.log(len(L)))

    return best_of(parts(), q.shape[1])


def reference_rank_reorder(images, texts, q, options):
    n, labels = int(0.05 * len(q)), []
    for k in range(options.slice):
        t, top = torch.topk(q[:, k].double(), n)
        P = images[top] @ texts.T
        error = torch.cat(
            [((t.flip(0)[x.argsort(0).argsort(0)] - t[:, None]).abs() ** 3).mean(0) for x in P.split(1000, 1)]
        )
        labels.append(int((-error / P.mean(0) ** 0.5).argmax()))
    return labels


REFERENCES = {
    "soft_wpmi": lambda *given: reference_wpmi(*given, soft=True),
    "wpmi": reference_wpmi,
    "rank_reorder": reference_rank_reorder,
}


def apart(options, **settings):
    """The same program in a process of its own: what it prints."""
    given = {**vars(options), **settings}
    command = [sys.executable, __file__, *(f"--{k}={v}" for k, v in given.items() if v is not None)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"images": 50000, "concepts": 20000, "neurons": 2048, "dimensions": 512, "slice": 8, "seed": 0}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=["ours", "released", "reference"], help="only this, as JSON")
    parser.add_argument("--function", choices=list(TARGETS), help="only this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        return reference(options) if options.way == "reference" else run(options)
    print(f"{options.images} images, {options.concepts} concepts, {options.neurons} neurons, {options.threads} threads")
    print("| function | neurons | released: s, cpu s, GB | ours | faster: wall, cpu | memory | labels as in float64 |")
    print("|:---|---:|---:|---:|---:|---:|---:|")
    for function in [options.function] if options.function else TARGETS:
        theirs, ours = (apart(options, way=way, function=function) for way in ("released", "ours"))
        exact = apart(options, way="reference", function=function)["labels"]
        wall, cpu = (a / b for a, b in zip(theirs["seconds"], ours["seconds"], strict=True))
        cells = [f"{r['seconds'][0]:.1f}, {r['seconds'][1]:.1f}, {r['peak']:.1f}" for r in (theirs, ours)]
        same = sum(a == b for a, b in zip(ours["labels"], exact, strict=True))
        ratio = f"{wall:.1f}x, {cpu:.1f}x (target {TARGETS[function]}x) | {ours['peak'] / theirs['peak']:.2f}"
        print(f"| {function} | {len(exact)} | {' | '.join(cells)} | {ratio} | {same} of {len(exact)} |", flush=True)


if __name__ == "__main__":
    main()
