"""What is seen of one model, of one file of embeddings, or of the public ones, as tables of observations."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.bestiary import SHIFTS
from lib.data import ImageDataset, Shift, aligned, published_shifts
from lib.errors import UserError, note
from lib.given import Given
from lib.models import heads
from lib.outliers import cka, saved
from lib.outliers import directions as method
from lib.outliers import kurtosis as shape
from lib.outliers.options import Pruning, Saved, Shifts
from lib.outliers.streaming import Averages
from lib.seeds import rng
from lib.statistics import of_draws
from lib.store import Seen

PUBLIC = "coco500_clip_vit_b16"  # 500 photographs and a caption of each by OpenAI's ViT-B/16 (Liang et al. 2022)
PUBLIC_SETS = ("photographs", "captions")


# --- kurtosis


def kurtosis(given: Given, options: Saved) -> Seen:
    """One line an image: what `kurtosis.measures` asks, and raw and centred before the projection.

    d, before_d and outliers (coordinates with a mean |z| above 3) are the same in all lines. Of a set of embeddings in
    a file, `given.name`, there is one line in all: means with their intervals, as so many rows may lie there that
    nothing can be kept of each. Tensors: mean |z| [d] of each coordinate.
    """
    if options.embeddings:
        line, z = _streamed(_of_file(given, options), given.seed)
        return Seen(pd.DataFrame([line]), {"z": z})
    model, images = given.model, given.images
    about, each = shape.each(model.embed_images(images), given.seed)
    table = _named(images).assign(**each, d=len(about.z), outliers=len(about.outliers))
    try:
        rows = model.embed_images(images, projected=False)
        before = shape.each(rows, given.seed)[1]
        table = table.assign(before=before["raw"], before_centred=before["centred"], before_d=float(rows.shape[1]))
    except UserError:  # a classifier without such a projection has no second pair
        table = table.assign(before=np.nan, before_centred=np.nan, before_d=np.nan)
    return Seen(table, {"z": about.z})


def real_kurtosis(given: Given) -> Seen:
    """The line of each public set; no lines where the file cannot be had, and the reason in the notes."""
    found, reason = _public(given)
    lines = {name: _streamed(rows, given.seed) for name, rows in found.items()}
    table = pd.DataFrame([{"embeddings_of": name, **line} for name, (line, _) in lines.items()])
    return Seen(table, {name: z for name, (_, z) in lines.items()}, {"reason": reason})


def _streamed(rows: saved.Rows, seed: int) -> tuple[dict[str, float], np.ndarray]:
    """The line of a set of embeddings, with `share`, what the top coordinate carries of K (%); and mean |z| [d]."""
    about, found = shape.averaged(rows, seed)
    line: dict[str, float] = {"images": about.n, "d": len(about.z), "outliers": len(about.outliers)}
    line["top_coordinate"] = about.top
    numbers = {name: (found.mean(name), found.draws(name)) for name in found.names}
    top, raw = numbers["top"], numbers["raw"]
    numbers["share"] = (100 * top[0] / raw[0], 100 * top[1] / raw[1])
    for name, (value, draws) in numbers.items():
        line[name], line[f"{name}_low"], line[f"{name}_high"], *_ = of_draws(float(value), draws, 0)
    return line, about.z


def likeness(given: Given) -> Seen:
    """The HSICs of a model with the zero-shot model of its backbone: one line a minibatch, see `cka.terms`.

    No lines where that model cannot be had, and the reason in the notes.
    """
    model, images, columns = given.model, given.images, list(cka.TERMS)
    try:
        other = given.open_model(model.backbone)
    except UserError as error:
        return Seen(pd.DataFrame(columns=columns, dtype=float), {}, {"reason": str(error)})
    order = rng(given.seed, "minibatches").permutation(len(images))
    return Seen(pd.DataFrame(cka.terms(*(m.embed_images(images)[order] for m in (model, other))), columns=columns))


# --- privileged directions


def directions(given: Given, options: Saved) -> Seen:
    """One line a direction of a head, as it is and row-centred: see `_directions`."""
    rows, weight, _, _ = _opened(given, options)
    return _directions(rows, weight, given.seed)


def real_directions(given: Given, options: Pruning) -> Seen:
    """The same of the public captions as the head on the photographs: which caption does a photograph get?

    Tensors also hold "hit" [heads, shares, photographs], in per cent, pruned by importance. As `real_kurtosis`.
    """
    found, reason = _public(given)
    if not found:
        return Seen(pd.DataFrame(), {}, {"reason": reason})
    photographs, captions = (torch.from_numpy(np.asarray(found[n][:], np.float64)) for n in PUBLIC_SETS)
    seen = _directions(photographs, captions, given.seed)
    factors, ks = method.ways(photographs, captions, given.seed), _ranks(captions, options)
    both = {way: factors[way] for way in ("importance", "importance, row-centred head")}
    none, labels = torch.zeros(len(captions)), np.arange(len(photographs))
    hits = torch.cat([x["hit"] for x in method.prune(photographs, captions, none, both, ks, labels)])
    return Seen(seen.table, seen.tensors | {"hit": hits.permute(1, 2, 0).numpy()}, {"reason": ""})


def _directions(rows: Any, weight: Any, seed: int) -> Seen:
    """One line a direction and head: singular value, mean |cos| with the embeddings (cosine), importance, links.

    mean_link: |cos| with the mean row of the head. outlier_link: squared weight on the top coordinate of the kurtosis,
    times d, so that 1 is chance. Tensors: ratio and share [heads, draws], how far the first importance stands out when
    the images are drawn again.
    """
    weight = method.checked_head(weight, rows.shape[-1])
    top, mean = shape.coordinates(rows).top, weight.mean(0) / weight.mean(0).norm().clamp_min(1e-300)
    found = {name: method.decompose(weight, name == "row-centred") for name in method.HEADS}
    averages, frames, drawn = method.cosines(rows, found, seed), [], []
    for name, of_head in found.items():
        values, right = of_head.values.cpu(), of_head.right
        frame = pd.DataFrame({"singular": values, "cosine": averages.mean(name)}).rename_axis("direction").reset_index()
        frame["importance"] = method.importance(values, frame["cosine"])
        frame["mean_link"] = (right.T @ mean).abs().cpu().numpy()
        frame["outlier_link"] = right[top].square().cpu().numpy() * len(right)
        frames.append(frame.assign(head=name))
        drawn.append(method.concentration(method.importance(values, averages.draws(name))))
    ratio, share = (np.stack(x) for x in zip(*drawn, strict=True))
    return Seen(pd.concat(frames, ignore_index=True), {"ratio": ratio, "share": share}, {"outlier": top})


def _ranks(weight: torch.Tensor, options: Pruning) -> list[int]:
    """How many directions of a head are kept for each share."""
    count = len(method.decompose(weight))
    return [method.kept(count, share) for share in options.pruned]


def pruning(given: Given, options: Pruning) -> Seen:
    """One line a split (val and its shifts), way of pruning and share: top-1 and agreement with the full head.

    Both in per cent; of a file agreement alone, with its interval, and val alone. Tensors: for each split its hits
    uint8 [ways, shares, images] in per cent (random ways hit by a part of their draws); of val also "agree", alike, and
    "without_outlier" [images], the hits with the top coordinate of the kurtosis set to zero in all embeddings.
    """
    rows, weight, bias, model = _opened(given, options)
    weight = method.checked_head(weight, rows.shape[-1])
    factors, ks = method.ways(rows, weight, given.seed), _ranks(weight, options)
    grid = pd.MultiIndex.from_product([factors, options.pruned], names=["way", "share"]).to_frame(index=False)
    if model is None:
        averages = Averages(given.seed)
        for part in method.prune(rows, weight, bias, factors, ks):
            averages.add(part)
        low, high = np.quantile(averages.draws("agree"), [0.025, 0.975], axis=0)
        bounds = {"agree": averages.mean("agree").ravel(), "agree_low": low.ravel(), "agree_high": high.ravel()}
        return Seen(grid.assign(split="val", **bounds))
    images, frames, tensors = given.images, [], {}
    for split, shift in {"val": Shift.none(images), **shifted(given, images, options)}.items():
        present, embedded = shift.present, model.embed_images(shift.images)
        own = {way: [(a, b[:, present]) for a, b in several] for way, several in factors.items()}
        parts = list(method.prune(embedded, weight[present], bias[present], own, ks, shift.right))
        hits, agree = (torch.cat([p[name] for p in parts]).permute(1, 2, 0).numpy() for name in ("hit", "agree"))
        frames.append(grid.assign(split=split, top1=hits.mean(2).ravel(), agree=agree.mean(2).ravel()))
        tensors[split] = hits.round().astype(np.uint8)
        if split == "val":
            tensors["agree"] = agree.round().astype(np.uint8)
    mask = torch.arange(weight.shape[1], device=rows.device) != shape.coordinates(rows).top
    tensors["without_outlier"] = _hits(rows * mask, weight.to(rows), bias, images.labels).astype(np.uint8)
    return Seen(pd.concat(frames, ignore_index=True), tensors, {"ways": list(factors), "shares": list(options.pruned)})


def _opened(given: Given, options: Saved) -> tuple[Any, torch.Tensor, torch.Tensor, Any]:
    """Embeddings, head and bias of a model, and the model; or those of files, and None."""
    if not options.embeddings:
        model, images = given.model, given.images
        return model.embed_images(images), *heads.head(model, images), model
    weight, bias = saved.head(given.open_file(options.head) if options.head else "")
    return _of_file(given, options), torch.from_numpy(weight), torch.from_numpy(bias), None


# --- accuracy under shifts


def robustness(given: Given, options: Shifts) -> pd.DataFrame:
    """One line an image of each split, val and its shifts: top1, 100 where it is classified rightly, else 0.

    Under a shift that has some of the classes, these compete alone. Raises UserError where no shifts are given.
    """
    model, images = given.model, given.images
    weight, bias = heads.head(model, images)
    moved, frames = shifted(given, images, options), []
    if not moved:
        raise UserError(f"No shifts of {images.name} are there; name folders of shifted images with `-p shifts A,B`.")
    for split, shift in {"val": Shift.none(images), **moved}.items():
        top1 = shift.hits(model.embed_images(shift.images) @ weight[shift.present].T + bias[shift.present])
        frames.append(_named(shift.images).assign(split=split, top1=top1))
    return pd.concat(frames, ignore_index=True)


def shifted(given: Given, images: ImageDataset, options: Shifts) -> dict[str, Shift]:
    """The shifted versions of the run's images by name. Labels are those of `images`.

    At the bestiary splits; elsewhere the published shifts that are on disk, or image folders by their last name. Raises
    UserError for other class folders, and for a shift that was asked for and is not there.
    """
    if images.name == "bestiary":
        return {name: Shift.none(given.open_images(name)) for name in options.names or SHIFTS}
    found = {}
    for path in options.paths or published_shifts(images.name):
        try:
            found[path.rpartition("/")[2]] = aligned(given.open_images(dataset=path), images)
        except UserError as error:
            if options.paths:
                raise
            note(f"{path} is left out: {error}")
    return found


def _hits(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    return 100.0 * heads.top_k_hits(rows @ weight.T + bias, labels).float().cpu().numpy()


# --- files


def _of_file(given: Given, options: Saved) -> saved.Rows:
    found = saved.embeddings(given.open_file(options.embeddings))
    if given.name not in found:
        raise UserError(f"{options.embeddings} has no set of embeddings '{given.name}'; it has {', '.join(found)}.")
    return found[given.name]


def _public(given: Given) -> tuple[dict[str, saved.Rows], str]:
    """The public sets of embeddings, or none and why."""
    try:
        path = given.open_file(PUBLIC)
    except UserError:
        return {}, (
            f"{PUBLIC}.npy could not be fetched; with a network, or with the file in the folder that "
            "COMPANION_DOWNLOADS names, this page shows it."
        )
    return dict(zip(PUBLIC_SETS, saved.embeddings(path).values(), strict=True)), ""


def _named(images: ImageDataset) -> pd.DataFrame:
    return pd.DataFrame({"image": np.arange(len(images)), "class": [images.classes[k] for k in images.labels]})
