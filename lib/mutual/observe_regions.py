"""Tables 1 and 5: explanations blurred and revealed step by step, and how well trained bottlenecks classify.

The published explanations are parts by PCA and by K-means, the attention of MM-CBM's and MM-ProtoSim's strongest
descriptors, and Feature Maps. The controls are ours: for each of them random regions of the same areas, where the truth
is known the animal's true parts, and the whole image as a single region, than which nothing can change more.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib import data, store
from lib.data import ImageDataset
from lib.given import Given
from lib.models import Clip, heads
from lib.mutual import baselines, bottlenecks, explain, faithfulness
from lib.mutual.options_regions import RegionOptions, Training
from lib.progress import progress
from lib.store import Seen

TRAINED = {"MM-CBM": "mm_cbm", "MM-ProtoSim": "mm_protosim", "Feature Maps": "feature_maps"}
PARTS = {"PCA parts": "pca", "K-means parts": "kmeans"}
TRUE, WHOLE = "true parts", "whole image"
BATCH = 32  # images whose steps are in memory together
CLASSIFIERS = {
    "Zero-shot CLIP": "",
    "Standard (MLP on vision features)": "standard",
    "MLP on the image embedding": "standard_embedding",
    "LF-CBM": "lf_cbm",
    "MM-CBM": "mm_cbm",
    "MM-ProtoSim": "mm_protosim",
    "MM-CBM, random queries": "mm_cbm_random",
    "MM-ProtoSim, random queries": "mm_protosim_random",
}
# what is tried in place of the page's definitions: of the regions and steps, and of what is read from them
REGIONS_CHANGED: dict[str, dict[str, Any]] = {
    "default": {},
    "blur 0.15": {"blur": 0.15},
    "blur 0.6": {"blur": 0.6},
    "insertion from blurred parts": {"start": "parts"},
    "ranked by the part alone": {"rank": "part"},
    "regions at half the maximum": {"threshold": 0.5},
}
READING_CHANGED = {
    "probability instead of cosine": {"score": "probability"},
    "curves stop at the last part": {"short": "stop"},
    "accuracy against the prediction": {"correct": "predicted"},
}


@dataclass
class Regions:
    """The regions of an explanation in n images, and what is said about each.

    masks: bool [n, L, h, w], empty where an image has fewer. embedded: float32 [n, L, c], the region's red-circle
    prompts. descriptors: int64 [n, L], the descriptor of each region, -1 for none.
    """

    masks: torch.Tensor
    embedded: torch.Tensor
    descriptors: torch.Tensor


# --- the explanations


def by_parts(
    clip: Clip, images: ImageDataset, method: str, options: RegionOptions, seed: int, which: np.ndarray
) -> Regions:
    """Parts by "pca" or "kmeans" with the first descriptor of each, of `which` images; all decide what the parts are."""
    found, some = explain.find(clip, images, options, method, seed).at(which), images.subset(which)
    named = explain.name_parts(clip, some, found, replace(options, per_part=1))
    masks = one_each(found.label_maps, options.parts) & found.present[:, :, None, None]
    return Regions(masks, found.embedded, named.part_ids[:, :, 0])


def one_each(label_maps: torch.Tensor, count: int) -> torch.Tensor:
    """Label maps int [n, h, w], -1 outside, as one mask for each label: bool [n, count, h, w]."""
    return label_maps[:, None] == torch.arange(count)[:, None, None]


def by_baseline(clip: Clip, images: ImageDataset, model: Any, how: dict[str, Any], options: RegionOptions) -> Regions:
    """What a trained baseline looks at, with the descriptor that it names there."""
    pieces = []
    for span in np.array_split(np.arange(len(images)), -(-len(images) // 256)):
        pixels = clip.pixels(images.image(i) for i in span)
        features, grid = clip.patch_features(pixels, how["feature"], how["layer"])
        name = name_channels if isinstance(model, bottlenecks.Labeler) else name_attention
        masks, named = name(model, features, options.parts, options.threshold)
        masks = masks.unflatten(2, grid).cpu()
        pieces.append((masks, embed_regions(clip, pixels, masks).cpu(), named.cpu()))
    return Regions(*(torch.cat(of) for of in zip(*pieces, strict=True)))


def name_attention(
    model: bottlenecks.Bottleneck, features: torch.Tensor, parts: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the descriptors that add most to the predicted class look: masks bool [n, L, P], descriptors int64 [n, L].

    The paper does not say how attention becomes a region: here as in Feature Maps, near its maximum over the patches.
    """
    amounts, _, attention = bottlenecks.contributions(model, features)
    chosen = amounts.topk(min(parts, amounts.shape[1]), dim=1).indices
    maps = attention.gather(1, chosen[:, :, None].expand(-1, -1, attention.shape[2]))
    return bottlenecks.near_maximum(maps, threshold), chosen


def name_channels(
    model: bottlenecks.Labeler, features: torch.Tensor, parts: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The strongest channels' regions and what the labeler calls them: as `name_attention`."""
    masks, _ = bottlenecks.prominent_channels(features, min(parts, features.shape[2]), threshold)
    with torch.inference_mode():
        return masks, model(bottlenecks.masked_mean(features.float(), masks)).argmax(2)


def embed_regions(clip: Clip, pixels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Joint embedding of regions that may overlap: bool [n, L, h, w] -> float32 [n, L, c], zero for an empty one.

    Regions of an image that are the same, as when several descriptors look at one place, are embedded once.
    """
    image, mask, where = faithfulness.distinct(masks)
    return explain.embed_parts(clip, pixels[image], mask.long() - 1, 1)[0][:, 0][torch.from_numpy(where)]


def by_truth(clip: Clip, images: ImageDataset, parts: int) -> Regions:
    """The largest visible parts of each animal, each with the descriptor nearest to it (bestiary only)."""
    maps = torch.stack([largest_parts(images.part_masks(i), parts) for i in range(len(images))])
    embedded = explain.embed_parts(clip, clip.pixels(images), maps, parts)[0].cpu()
    nearest = (embedded.to(clip.device) @ baselines.queries(clip, images).T).argmax(2).cpu()
    return Regions(one_each(maps, parts), embedded, nearest)


def largest_parts(masks: Mapping[str, np.ndarray], count: int) -> torch.Tensor:
    """Label map int64 [H, W] of the `count` largest of the named masks bool [H, W], -1 elsewhere."""
    found = sorted(masks.values(), key=lambda mask: -mask.sum())[:count]
    label_map = torch.full(next(iter(masks.values())).shape, -1)
    for k, mask in enumerate(found):
        label_map[torch.from_numpy(mask)] = k
    return label_map


def explanations(
    clip: Clip,
    images: ImageDataset,
    models: Mapping[str, Any],
    how: dict[str, Any],
    options: RegionOptions,
    seed: int = 0,
    which: np.ndarray | None = None,
) -> dict[str, torch.Tensor]:
    """The ranked regions of all explanations, of `which` images (by default all): name -> bool [n, L, h, w].

    models, how: from `baselines.opened`. All images decide what the parts are.
    """
    which = np.arange(len(images)) if which is None else which
    some = images.subset(which)
    found = {name: by_baseline(clip, some, models[key], how, options) for name, key in TRAINED.items()}
    found |= {name: by_parts(clip, images, key, options, seed, which) for name, key in PARTS.items()}
    if images.name == "bestiary":  # only there are they known
        found[TRUE] = by_truth(clip, some, options.parts)
    image, texts, masks = clip.embed_images(some).cpu(), clip.embed_texts(images.bank).cpu(), {}
    for name, regions in found.items():
        said = texts[regions.descriptors.clamp(min=0)]
        scores = faithfulness.rank_scores(image, regions.embedded, said, options.rank)
        masks[name] = faithfulness.ranked(regions.masks, scores)[0]
    masks[WHOLE] = torch.zeros(len(some), options.parts, 1, 1, dtype=torch.bool)
    masks[WHOLE][:, 0] = True
    return masks


# --- what becomes of them


def follow(
    clip: Clip, images: ImageDataset, masks: list[torch.Tensor], blur: float, batch_size: int = 64
) -> list[faithfulness.Path]:
    """A path for each of `masks` bool [n, K, h, w], where to blur; images are read once, `BATCH` at a time."""
    weights = heads.classifier(clip, images.classes, images.templates)
    targets, kernel = explain.predictions(clip, images), faithfulness.kernel_width(clip.image_size, blur)

    def classify(pixels: torch.Tensor) -> torch.Tensor:
        return clip.embed_pixels(pixels, batch_size) @ weights.T

    pieces = []
    for begin in range(0, len(images), BATCH):
        span = slice(begin, begin + BATCH)
        pixels = clip.pixels(images.image(i) for i in range(len(images))[span]).to(clip.device)
        here = [mask[span] for mask in masks]
        pieces.append(
            faithfulness.follow(pixels, here, classify, targets[span], kernel, clip.logit_scale, batch_size)
        )
    return [
        faithfulness.Path(*(np.concatenate(of) for of in zip(*(vars(p).values() for p in paths), strict=True)))
        for paths in zip(*pieces, strict=True)
    ]


def walk(
    clip: Clip, images: ImageDataset, masks: Mapping[str, list[torch.Tensor]], options: RegionOptions
) -> dict[str, torch.Tensor]:
    """Deletion and insertion of regions: tensors [n, explanations, regions, 2, L + 1] for `steps_table`.

    masks: for each explanation, one or several sets of regions bool [n, L, h, w], as many for each.
    """
    sets = [regions for of in masks.values() for regions in of]
    covered = [faithfulness.cumulative(regions) for regions in sets]
    blur = [mask for c in covered for mask in faithfulness.blur_masks(c, options.start)]
    paths = follow(clip, images, blur, options.blur)
    shape = (len(images), len(masks), -1, 2, covered[0].shape[1])
    found = {k: np.stack([getattr(p, k) for p in paths], 1).reshape(shape) for k in ("score", "probability", "winner")}
    share = np.stack([np.repeat(100 * c.float().mean((2, 3)).numpy()[:, None], 2, 1) for c in covered], 1)
    shown = np.stack([regions.flatten(2).any(2).sum(1).numpy() for regions in sets], 1)
    found |= {"covered": share.reshape(shape), "shown": shown.reshape(*shape[:3])}
    return {k: torch.from_numpy(v) for k, v in found.items()}


def steps_table(
    clip: Clip, images: ImageDataset, names: list[str], found: dict[str, torch.Tensor], numbers: np.ndarray
) -> pd.DataFrame:
    """What `walk` found as a table: a line for each image, explanation, kind of regions, direction and step.

    numbers int [n]: of the images. Columns: image, class, explanation, regions ("explained", "random"), direction
    ("deletion", "insertion"), step, shown (regions of the image), covered (% of it), score (2.5 x cosine),
    probability, correct and unchanged (1 where the class is the label's, or that of the intact image).
    """
    arrays = {k: v.numpy() for k, v in found.items()}
    n, _, kinds, _, points = arrays["score"].shape
    axes = {"image": numbers, "explanation": names, "regions": ["explained", "random"][:kinds]}
    axes |= {"direction": ["deletion", "insertion"], "step": np.arange(points)}
    table = pd.MultiIndex.from_product(axes.values(), names=axes.keys()).to_frame(index=False)
    table.insert(1, "class", np.repeat(np.array(images.classes)[images.labels], len(table) // n))
    table["shown"] = np.repeat(arrays["shown"].reshape(-1), 2 * points)
    for column in ("covered", "score", "probability"):
        table[column] = arrays[column].reshape(-1)
    for column, wanted in (("correct", images.labels), ("unchanged", explain.predictions(clip, images))):
        table[column] = (arrays["winner"] == wanted.reshape(-1, 1, 1, 1, 1)).reshape(-1).astype(float)
    return table


# --- observations


def table1(given: Given, options: RegionOptions) -> Seen:
    """Every step of deletion and insertion of every explanation, and of random regions: see `steps_table`.

    `faithfulness.measures` makes the measures of them. notes: kernel and image_size in pixels. Paper, Table 1.
    """
    clip, images = given.model, given.images
    images.require_descriptors(every_class=False)
    models, how, _ = baselines.opened(given, clip, images, options, list(TRAINED.values()))
    key = {"kind": "faithfulness", "model": clip.decides, "options": asdict(options), "how": how, "seed": given.seed}
    tables = []
    for chunk in progress(list(images.chunks()), f"regions of {clip.name}"):
        some = images.subset(chunk)

        def compute(some: ImageDataset = some, chunk: np.ndarray = chunk) -> dict[str, torch.Tensor]:
            masks = explanations(clip, some, models, how, options, given.seed)
            drawn = {name: m if name == WHOLE else _control(m, chunk, options, given) for name, m in masks.items()}
            return walk(clip, some, {name: [masks[name], drawn[name]] for name in masks}, options)

        names = [*TRAINED, *PARTS, *([TRUE] if images.name == "bestiary" else []), WHOLE]
        about = {"images": some.fingerprint, "numbers": store.digest(chunk.tolist()), "explanations": names}
        tables.append(steps_table(clip, some, names, store.tensors(key | about, compute), chunk))
    notes = {"kernel": faithfulness.kernel_width(clip.image_size, options.blur), "image_size": clip.image_size}
    return Seen(pd.concat(tables, ignore_index=True), notes=notes)


def _control(masks: torch.Tensor, numbers: np.ndarray, options: RegionOptions, given: Given) -> torch.Tensor:
    return faithfulness.control(masks, numbers, options.random_regions, given.seed)


def definitions(given: Given, options: RegionOptions) -> Seen:
    """The measures under other definitions, on `options.checked` images: those of `faithfulness.measures`, by definition.

    The parts are found among all images of a class, also where few are evaluated.
    """
    clip, images = given.model, given.images
    models, how, _ = baselines.opened(given, clip, images, options, list(TRAINED.values()))
    which = data.spread(images.labels, options.checked, given.seed)
    some, tables = images.subset(which), []
    for definition, changes in progress(REGIONS_CHANGED.items(), "definitions"):
        changed = replace(options, **changes)
        masks = explanations(clip, images, models, how, changed, given.seed, which)
        found = walk(clip, some, {name: [masks[name]] for name in (*TRAINED, *PARTS)}, changed)
        steps = steps_table(clip, some, [*TRAINED, *PARTS], found, which)
        tables.append(faithfulness.measures(steps).assign(definition=definition))
        for reading, how_read in READING_CHANGED.items() if not changes else ():
            tables.append(faithfulness.measures(steps, **how_read).assign(definition=reading))
    return Seen(pd.concat(tables, ignore_index=True))


def table5(given: Given, options: Training) -> Seen:
    """Whether each of `CLASSIFIERS` has the class first, or among its first five, in per cent: a line for each image.

    notes: what was trained, and on what. Paper, appendix Table 5.
    """
    clip, images = given.model, given.images
    models, how, train = baselines.opened(given, clip, images, options)
    by_class, tables = heads.classifier(clip, images.classes, images.templates), []
    for chunk in progress(list(images.chunks()), f"bottlenecks of {clip.name}"):
        some = images.subset(chunk)
        features, embedded = baselines.patch_features(clip, some, how)[0], clip.embed_images(some)
        for name, key in CLASSIFIERS.items():
            found = logits(key, models[key], features, embedded) if key else embedded @ by_class.T
            hits = {f"top{k}": heads.top_k_hits(found, some.labels, min(k, len(by_class))) for k in (1, 5)}
            hits = {k: 100.0 * hit.float().cpu().numpy() for k, hit in hits.items()}
            labels = np.array(images.classes)[some.labels]
            tables.append(pd.DataFrame({"image": chunk, "class": labels, "classifier": name, **hits}))
    sparse = models["lf_cbm"]
    notes = {key: how[key] for key in ("feature", "layer", "steps", "inner", "batch", "rates")}
    notes |= {"train": len(train), "bank": len(images.bank), "lf_cbm_concepts": int(sparse["kept"].sum())}
    notes["lf_cbm_weights_a_class"] = float((sparse["weight"] != 0).sum(0).float().mean())
    return Seen(pd.concat(tables, ignore_index=True), notes=notes)


def logits(method: str, model: Any, features: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """What a baseline says of images: [n, classes], from their patch features [n, P, C] and embeddings [n, c]."""
    if method == "lf_cbm":
        return bottlenecks.label_free_logits(model, baselines.pooled(features).to(embedded.device))
    if method == "standard_embedding":
        return bottlenecks.predict(model, embedded)
    return bottlenecks.predict(model, baselines.pooled(features) if method == "standard" else features)


def labeler(given: Given, options: Training) -> Seen:
    """Share (%) of a class's descriptors that the Feature Maps' labeler puts first, a line for each image.

    first: among as many as the class has; ten: among the first ten. Paper, appendix D.2.
    """
    clip, images = given.model, given.images
    models, how, _ = baselines.opened(given, clip, images, options, ["feature_maps"])
    wanted, tables = baselines.descriptor_targets(images), []
    for chunk in images.chunks():
        vectors = baselines.pooled(baselines.patch_features(clip, images.subset(chunk), how)[0])
        shares = named_first(bottlenecks.predict(models["feature_maps"], vectors).cpu(), wanted[images.labels[chunk]])
        tables.append(pd.DataFrame({"image": chunk, "class": np.array(images.classes)[images.labels[chunk]], **shares}))
    return Seen(pd.concat(tables, ignore_index=True))


def named_first(scores: torch.Tensor, wanted: torch.Tensor) -> dict[str, np.ndarray]:
    """Share of the wanted descriptors, 0 or 1 [n, D], that `scores` [n, D] put first, in per cent: see `labeler`."""
    there = wanted.gather(1, scores.argsort(1, descending=True)).cumsum(1).numpy()
    count = wanted.sum(1).numpy().astype(int)
    found = {"first": there[np.arange(len(there)), np.maximum(count, 1) - 1], "ten": there[:, :10].max(1)}
    return {key: np.where(count > 0, 100.0 * hits / np.maximum(count, 1), np.nan) for key, hits in found.items()}
