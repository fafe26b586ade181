"""One row of each of this wing's exhibits: what a model's embeddings, its head and its accuracies say.

`of_embeddings` and `of_head` need no model: they take embeddings (and a head) as tensors, arrays or rows of a file.
Everything that pages compare between models comes with its bootstrap draws, which are paired: every model sees the
same images with the same weights.
"""

import numpy as np
import torch

from lib import models
from lib.data import shifted
from lib.errors import UserError
from lib.models import heads
from lib.outliers import cka, concepts, directions, kurtosis, probes, saved
from lib.report.statistics import of_draws

VERSION = 1  # raise it when a row's numbers change: records of another version are computed anew
COMMON_WIDTH = 64  # at which models of different widths are compared; no miniature is narrower
# shares of the directions to prune; 0 and 0.8 (the paper's) are what tables compare
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
CHANCE_DRAWS = 5


# --- kurtosis


def of_embeddings(rows, seed=0):
    """Kurtosis and what carries it, of embeddings [n, d]: the result of a row, see `kurtosis.profile`."""
    found = kurtosis.profile(rows, seed)
    names = ("raw", "centred", "rotated", "without_top", "max_z", "centred_max_z", "ratio")
    metrics = {name: found.averages.interval(name) for name in names}
    scaled = kurtosis.relative(found.averages.draws("raw"), found.d)
    metrics["relative"] = of_draws(kurtosis.relative(metrics["raw"][0], found.d), scaled, found.n)
    magnitudes = np.log10(found.averages.draws("ratio"))
    metrics["magnitude"] = of_draws(np.log10(metrics["ratio"][0]), magnitudes, found.n)
    metrics |= {"share": found.share, "outliers": float(len(found.outliers)), "d": float(found.d)}
    if found.d >= COMMON_WIDTH:
        metrics["common"] = kurtosis.subspaces(rows, COMMON_WIDTH, seed=seed)
    arrays = {f"draws_{name}": found.averages.draws(name) for name in ("raw", "centred")}
    arrays |= {"draws_magnitude": magnitudes, "contribution": found.contribution, "z": found.z}
    arrays = {name: np.asarray(x, dtype=np.float32) for name, x in arrays.items()}
    return {"metrics": metrics, "arrays": arrays, "notes": {"top": found.top, "d": found.d}}


def of_model(model, data, seed=0):
    """A row of the kurtosis exhibit: `of_embeddings` after the projection, raw and centred before it.

    A classifier without such a projection has no second pair.
    """
    result = of_embeddings(model.embed_images(data), seed)
    try:
        before = kurtosis.profile(model.embed_images(data, projected=False), seed)
    except UserError:
        result["notes"]["before"] = "no projection"
        return result
    result["metrics"]["before"] = before.averages.interval("raw")
    result["metrics"]["before_centred"] = before.averages.interval("centred")
    result["metrics"]["before_d"] = float(before.d)
    return result


def likeness(model, data, seed=0, size=cka.BATCH):
    """CKA between a model and the zero-shot model of its backbone, over minibatches in random order.

    nan, with the reason among the notes, where that model cannot be had.
    """
    try:
        other = models.load(model.backbone, dataset=data.name, device=str(model.device), seed=seed)
    except UserError as error:
        return {"metrics": {"cka": np.nan}, "notes": {"reason": str(error)}}
    order = np.random.default_rng([seed, 109]).permutation(len(data))
    pair = (m.embed_images(data)[order] for m in (model, other))
    return {"metrics": {"cka": cka.cka(*pair, size=size, seed=seed)}}


# --- privileged directions


def of_head(rows, weight, bias, labels=None, shares=SHARES, seed=0):
    """Privileged directions of a head [classes, d] on embeddings [n, d]: the result of a row.

    For the head as it is, and row-centred: how far the first importance stands out. Pruned accuracies (with labels)
    and agreements with the full head are arrays [ways, shares].
    """
    weight = directions.checked_head(weight, rows.shape[-1])
    metrics, arrays, notes, ways = {}, {}, {}, {}
    for name, centred in (("", False), ("_centred", True)):
        found = directions.decompose(weight, centred)
        moments = directions.measure(rows, found, seed)
        values = found.values.cpu().numpy()
        keys = {"singular": values, "cosine": moments.cosines}
        keys["importance"] = directions.importance(values, moments.cosines)
        drawn = directions.importance(values, moments.averages.draws("cosine"))
        chances = directions.concentration(drawn)
        for key, value in directions.concentration(keys["importance"]).items():
            metrics[f"{key}{name}"] = of_draws(value, chances[key], len(rows))
        arrays |= {f"{key}{name}": x for key, x in keys.items()} | {f"draws_ratio{name}": chances["ratio"]}
        notes[f"directions{name}"] = len(found)
        orders = directions.ORDERS if not centred else directions.ORDERS[:2]
        ways |= {f"{order}{name}": directions.ordered(found, keys[order]) for order in orders}
        first = found.right[:, int(keys["importance"].argmax())].cpu().numpy()
        metrics[f"mean_link{name}"] = float(abs(first @ _unit(weight.mean(0).cpu().numpy())))
        if not centred:
            plain, second, count = found, moments.second, len(found)
            top = kurtosis.profile(rows, seed, resamples=1).top
            metrics["outlier_link"] = float(first[top] ** 2 * len(first))
    ways |= controls(plain, weight, second, seed)
    pruned = directions.prune(rows, weight, bias, ways, shares, count, labels, seed)
    arrays |= curves(pruned, labels is not None)
    notes |= {"ways": pruned.ways, "shares": list(map(float, shares)), "outlier": top}
    if labels is not None:
        hits = hits_without(rows, weight, bias, labels, top)
        metrics["top1_without_outlier"] = 100.0 * hits
        metrics |= losses(pruned)
    metrics |= losses(pruned, "agree")
    return {"metrics": metrics, "arrays": {k: np.asarray(x, np.float32) for k, x in arrays.items()}, "notes": notes}


def under_head(path):
    """`of_head` with the head of a file, for rows of saved embeddings. Raises UserError for a bad file, or none."""
    if not path:
        raise UserError("Saved embeddings need a head here; give its file with `-p head FILE`, [classes, coordinates].")
    weight, bias = saved.head(path)
    return lambda rows, seed=0, shares=SHARES, **_: of_head(rows, weight, bias, None, shares, seed)


def controls(found, weight, second, seed):
    """The ways of pruning that the paper lacks: dict of name to factors (several for random ones)."""
    orders = [np.random.default_rng([seed, 110, k]).permutation(len(found)) for k in range(CHANCE_DRAWS)]
    return {
        "pca": directions.by_pca(weight, second.to(weight.device)),
        "regression": directions.by_regression(weight, second.to(weight.device)),
        "random": [directions.ordered(found, order) for order in orders],
        "subspace": [directions.by_chance(weight, 1000 * seed + k) for k in range(CHANCE_DRAWS)],
    }


def curves(pruned, with_labels, kept_draws=300):
    """Pruned accuracy and agreement as arrays: means [ways, shares], and draws [draws, ways, shares]."""
    names = ("hit", "agree") if with_labels else ("agree",)
    found = {name: pruned.averages.mean(name) for name in names}
    bounds = {name: np.quantile(pruned.averages.draws(name), [0.025, 0.975], axis=0) for name in names}
    found |= {f"{name}_{side}": bounds[name][k] for name in names for k, side in enumerate(("low", "high"))}
    return found | {f"draws_{name}": pruned.averages.draws(name)[:kept_draws] for name in names}


def losses(pruned, name="hit", share=0.8):
    """What the paper's pruning keeps at a share: accuracy (or agreement) unpruned and pruned, and their difference."""
    if share not in pruned.shares or 0.0 not in pruned.shares:
        return {}
    way, at, full = pruned.ways.index("importance"), pruned.shares.index(share), pruned.shares.index(0.0)
    mean, draws, n = pruned.averages.mean(name)[way], pruned.averages.draws(name)[:, way], pruned.averages.n
    label = "top1" if name == "hit" else "agree"
    return {
        label: of_draws(mean[full], draws[:, full], n),
        f"{label}_pruned": of_draws(mean[at], draws[:, at], n),
        f"{label}_change": of_draws(mean[at] - mean[full], draws[:, at] - draws[:, full], n),
    }


def hits_without(rows, weight, bias, labels, coordinate):
    """Whether each image is classified rightly when one coordinate of all embeddings is set to zero: float [n]."""
    weight, bias = weight.clone(), torch.as_tensor(bias).to(torch.float64)
    weight[:, coordinate] = 0
    hits = []
    for chunk in directions.batches(rows):
        logits = chunk @ weight.to(chunk.device).T + bias.to(chunk.device)
        hits.append(logits.argmax(1).cpu().numpy())
    return (np.concatenate(hits) == np.asarray(labels)).astype(float)


def of_pruning(model, data, shifts=None, shares=SHARES, limit=0, seed=0):
    """A row of the privileged-directions exhibit: `of_head` on the data, and its pruned accuracy under each shift.

    shifts: see `lib.data.shifted`; limit: classes of each, 0 for all.
    """
    weight, bias = heads.head(model, data)
    rows = model.embed_images(data)
    result = of_head(rows, weight, bias, data.labels, shares, seed)
    found = directions.decompose(weight)
    second = directions.measure(rows, found, seed, resamples=1).second
    keys = {key: result["arrays"][key] for key in directions.ORDERS}
    ways = {order: directions.ordered(found, keys[order]) for order in directions.ORDERS}
    ways |= controls(found, directions.checked_head(weight), second, seed)
    for k, (name, (pictures, _)) in enumerate(shifted(data, shifts, limit, seed).items()):
        moved = directions.prune(
            model.embed_images(pictures), weight, bias, ways, shares, len(found), pictures.labels, [seed, k + 1]
        )
        drawn = curves(moved, True)
        paper = drawn["draws_hit"][:, list(ways).index("importance")]  # of the shifts the paper's way alone
        result["arrays"] |= {f"{name}_hit": np.float32(drawn["hit"]), f"{name}_draws": np.float32(paper)}
    result["notes"]["shift_ways"] = list(ways)
    return result


def _unit(vector):
    return vector / max(np.linalg.norm(vector), np.finfo(float).tiny)


# --- accuracy under shifts


def robustness(model, data, shifts=None, limit=0, seed=0):
    """A row of the effective-robustness exhibit: top-1 on the data and under each shift, image by image, in per cent.

    limit: classes of each shift, 0 for all. Under a shift that has some of the classes, these compete alone.
    """
    weight, bias = heads.head(model, data)
    moved = shifted(data, shifts, limit, seed)
    if not moved:
        raise UserError(f"No shifts of {data.name} are given; name folders of shifted images with `-p shifts A,B`.")
    sets = {"top1": (data, np.arange(len(weight)))} | moved
    metrics = {}
    for name, (pictures, present) in sets.items():
        logits = (model.embed_images(pictures) @ weight.T + bias)[:, present]
        labels = np.searchsorted(present, pictures.labels)
        metrics[name] = 100.0 * heads.top_k_hits(logits, labels).float().cpu().numpy()
    return {"metrics": metrics}


# --- concepts


def concept_options(images=0, stream="val", threshold=0.9, minimum=20, draws=3, limit=0):
    """The parameters of `of_concepts`, the same on every page.

    images: 0 stands for all of Broden, or 2400 of the bestiary; with a `limit` for 32 a class of it.
    """
    count = images or min(probes.IMAGES, 32 * limit)
    return {"count": count, "stream": stream, "threshold": threshold, "minimum": minimum, "draws": draws}


def of_concepts(model, data, count=0, stream="val", threshold=0.9, minimum=20, draws=3, most=500, seed=0):
    """A row of the concepts exhibit: how many concepts the head's directions encode, and what chance gives.

    count, stream: see `probes.load`; the others: see `concepts`. Species (classes of the head) are counted apart.
    Arrays: the best AP of each concept (also for random directions), draws of which are encoded, and what each
    direction encodes.
    """
    probe = probes.load(data.name, count, stream)
    rows, (weight, _) = model.embed_images(probe.images), heads.head(model, data)
    right = directions.decompose(weight).right
    options = {"draws": draws, "most": most, "seed": seed}
    result = encoded(rows, right, probe, threshold, minimum, options)
    variants = {
        "centred": directions.decompose(weight, centred=True).right,
        "coordinates": torch.eye(rows.shape[1], dtype=torch.float64),
    }
    for name, other in variants.items():
        found = concepts.ranks(concepts.project(rows, other))
        result["metrics"][name] = count_of(found, probe, threshold, minimum, options)
    return result


def encoded(rows, right, probe, threshold=0.9, minimum=20, options=None):
    """Which concepts of a Probe the directions [d, D] encode in embeddings [n, d]: the result of a row."""
    options = options or {}
    choice = concepts.choose(probe.labels, probe.names, minimum)
    inside = ~probe.apart[choice.columns]
    ranked = concepts.ranks(concepts.project(rows, right))
    precision = concepts.precisions(ranked, probe.labels, choice, **options)
    best, sign, direction = concepts.best(precision)
    drawn = concepts.resampled(ranked, probe.labels, choice, (sign, direction), **options) >= threshold
    chance = np.stack([best_of_chance(rows, right.shape[1], probe, minimum, options, k) for k in range(CHANCE_DRAWS)])
    new, new_drawn = concepts.best_on_new_images(ranked, probe.labels, choice, **options)
    by_chance = concepts.unique(chance, threshold)
    metrics = {
        "unique": of_draws(concepts.unique(best[inside], threshold), drawn[:, inside].sum(1), len(rows)),
        "species": of_draws(concepts.unique(best[~inside], threshold), drawn[:, ~inside].sum(1), len(rows)),
        "tested": float(inside.sum()),
        "dropped": float(len(choice.dropped)),
        "polysemanticity": concepts.by_direction(precision[:, :, inside], threshold).astype(float),
        "chance": (by_chance.mean(), by_chance.min(), by_chance.max(), CHANCE_DRAWS),
        "new_images": counted(new[inside], new_drawn[:, inside], threshold, len(rows) // 2),
        "all_images": count_of(ranked, probe, threshold, minimum, {"balanced": False}),
        "one_sign": count_of(ranked, probe, threshold, minimum, options, signs=1),
        "directions": float(right.shape[1]),
    }
    arrays = {"best": best, "best_chance": chance, "best_new": new}
    arrays = {name: x.astype(np.float32) for name, x in arrays.items()}
    arrays |= {"drawn": drawn.astype(np.uint8), "inside": inside.astype(np.uint8), "direction": direction}
    notes = {
        "concepts": choice.names,
        "kinds": [probe.kinds[c] for c in choice.columns],
        "dropped": choice.dropped,
        "signs": sign.tolist(),
        "threshold": threshold,
        "positives": probe.labels[:, choice.columns].sum(axis=0).tolist(),
        "first": best_of_direction(precision[:, 0], choice.names, inside),
    }
    return {"metrics": metrics, "arrays": arrays, "notes": notes}


def best_of_direction(precision, names, inside, most=3):
    """The concepts that one direction [2, C] finds best: list of (name, AP, sign)."""
    score, sign = precision.max(axis=0), precision.argmax(axis=0)
    order = [c for c in np.argsort(-score) if inside[c]][:most]
    return [(names[c], round(float(score[c]), 3), "+-"[sign[c]]) for c in order]


def counted(best, drawn, threshold, n):
    """Unique concepts from AP [C] and its draws [resamples, C]: (value, low, high, n)."""
    return of_draws(concepts.unique(best, threshold), concepts.unique(drawn, threshold), n)


def count_of(ranked, probe, threshold, minimum, options, signs=2):
    """Unique concepts that are no classes of the head, by ranked projections: (value, low, high, images)."""
    choice = concepts.choose(probe.labels, probe.names, minimum)
    precision = concepts.precisions(ranked, probe.labels, choice, **options)[:signs]
    best, *chosen = concepts.best(precision)
    drawn = concepts.resampled(ranked, probe.labels, choice, chosen, **options)
    inside = ~probe.apart[choice.columns]
    return counted(best[inside], drawn[:, inside], threshold, ranked.shape[1])


def best_of_chance(rows, count, probe, minimum, options, draw):
    """AP of each concept that is no class of the head by the best of some random orthonormal directions: [C]."""
    turn = kurtosis.rotation(rows.shape[1], [options.get("seed", 0), draw])
    choice = concepts.choose(probe.labels, probe.names, minimum)
    ranked = concepts.ranks(concepts.project(rows, turn[:, :count]))
    best = concepts.best(concepts.precisions(ranked, probe.labels, choice, **options))[0]
    return best[~probe.apart[choice.columns]]
