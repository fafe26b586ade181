"""What is seen of the concepts that a model's directions encode."""

import numpy as np
import pandas as pd
import torch

from lib.data import broden
from lib.given import Given
from lib.models import heads
from lib.outliers import concepts as method
from lib.outliers.directions import CHANCE_DRAWS, decompose
from lib.outliers.kurtosis import rotation
from lib.outliers.options import Concepts
from lib.outliers.probes import APART, IMAGES, Probe, beyond
from lib.outliers.streaming import batches
from lib.store import Seen

PER_CLASS = 50  # images of the probe for each class of a run with a limit


def concepts(given: Given, options: Concepts) -> Seen:
    """One line a concept of the probe and choice of directions and images: see `encoded`.

    The directions are those of the model's head; the probe is fresh images of the bestiary, elsewhere Broden's.
    """
    probe = open_probe(given, options)
    weight, _ = heads.head(given.model, given.images)
    return encoded(given.model.embed_images(probe.images), weight, probe, options, given.seed)


def open_probe(given: Given, options: Concepts) -> Probe:
    """The images whose concepts are known that belong to a run. Raises UserError where Broden is not on disk."""
    count = options.concept_images or PER_CLASS * given.limit
    if given.dataset == "bestiary":
        return beyond(given.open_images(options.concept_stream, limit=0), min(count or IMAGES, IMAGES))
    images = given.open_broden(count)
    return Probe(images, *broden.labels(images))


def encoded(rows: torch.Tensor, weight: torch.Tensor, probe: Probe, options: Concepts, seed: int = 0) -> Seen:
    """Which concepts of a Probe the directions of a head [classes, d] encode in embeddings [n, d].

    One line a concept and choice: kind, positives, average precision `ap` by the best direction, its sign and number.
    Choices: "head" (its directions, both signs, balanced negatives), and what differs from it: "one sign", "all
    negatives", "axes" of the space instead of directions, the "row-centred head", "new images" (the best direction of
    half of the images, judged on the other half), the "first direction" alone, and "random 1", ... (as many random
    directions). Tensors: "drawn <choice>" uint8 [resamples, concepts], whether each is encoded when the images are
    drawn again, and "by direction" [D], how many concepts (no species) each direction of the head encodes.
    """
    columns, dropped = method.choose(probe.labels, probe.names, options.minimum)
    fair = method.Sampling(options.negatives, seed=seed)
    about = {"concept": np.array(probe.names)[columns], "kind": np.array(probe.kinds)[columns]}
    about["positives"] = probe.labels[:, columns].sum(0)
    right, d = decompose(weight).right, rows.shape[1]
    asked = [
        ("head", right, fair, 2),
        ("one sign", right, fair, 1),
        ("all negatives", right, method.Sampling(0, seed=seed), 2),
        ("axes", torch.eye(d, dtype=torch.float64), fair, 2),
        ("row-centred head", decompose(weight, centred=True).right, fair, 2),
        ("first direction", right[:, :1], fair, 2),
        *((f"random {k + 1}", rotation(d, seed, k)[:, : right.shape[1]], fair, 2) for k in range(CHANCE_DRAWS)),
    ]
    frames, tensors = [], {}
    for choice, ways, how, signs in asked:
        along = [(chunk @ ways.to(chunk.device)).cpu() for chunk in batches(rows)]
        ranked = method.ranks(torch.cat(along))
        if choice != "one sign":  # which is of those of the head
            found = method.precisions(ranked, probe.labels, columns, how)
        found = found[:signs]
        ap, sign, direction = method.best(found)
        frames.append(pd.DataFrame({**about, "choice": choice, "ap": ap, "sign": 1 - 2 * sign, "direction": direction}))
        if choice == "head":
            encoded = found[:, :, about["kind"] != APART].max(axis=0) >= options.threshold  # in either sign
            tensors["by direction"] = encoded.sum(axis=1)
            ap, drawn = method.best_on_new_images(ranked, probe.labels, columns, how)
            frames.append(pd.DataFrame({**about, "choice": "new images", "ap": ap}))
            tensors["drawn new images"] = (drawn >= options.threshold).astype(np.uint8)
        if not choice.startswith(("first", "random")):
            drawn = method.resampled(ranked, probe.labels, columns, (sign, direction), how)
            tensors[f"drawn {choice}"] = (drawn >= options.threshold).astype(np.uint8)
    notes = {"dropped": dropped, "images": len(rows), "directions": right.shape[1]}
    return Seen(pd.concat(frames, ignore_index=True), tensors, notes)
