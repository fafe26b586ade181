"""The appendix's tables: where the foreground lies, what it is worth to the classifier, what the transport does.

Table A1 (`localisation`), A2 (`entropies`), A3 (`accuracy`) and A4 (`banks`) of the paper.
"""

import xml.etree.ElementTree as xml

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from lib.errors import UserError
from lib.models import heads
from lib.mutual import boost, foreground, ground_truth, matching
from lib.mutual import parts as part_finding
from lib.mutual.explain import PART_METHODS, find_all, name_parts
from lib.paths import datasets_folder

VERSION = 1  # raise it when a row's numbers change
COMPONENTS = {"graph": ("svd", 1), "pca": ("pca", 0)}  # the paper's "GDC" and "PCA"
FACETS = ("tokens", "keys", "ensemble")
CENTRE = 0.5**0.5  # side of the centred box that covers half of the picture


# --- Table A1: localisation


def box(mask):
    """The box around a mask bool [H, W]: (left, top, right, bottom) in pixels, right and bottom outside it."""
    rows, columns = np.nonzero(np.asarray(mask))
    if not len(rows):
        raise UserError("A box was asked for around an empty mask; pass a mask with at least one pixel.")
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def box_iou(a, b):
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def true_boxes(data, indices):
    """The boxes of the objects in each image, scaled to 0..1: list of lists of boxes.

    In the bestiary that of the animal. Elsewhere read from <dataset's folder>/boxes/<file name>.xml in the format of
    PASCAL VOC and ImageNet. Raises UserError where there are none.
    """
    if data.name == "bestiary":
        masks = foreground.animals(data, indices).numpy()
        return [[tuple(np.array(box(mask)) / mask.shape[0])] for mask in masks]
    folder = datasets_folder() / data.name / "boxes"
    return [_boxes_in(folder / f"{data.source.paths[data.indices[i]].stem}.xml") for i in indices]


def _boxes_in(path):
    if not path.is_file():
        raise UserError(f"Localisation needs the objects' boxes, and {path} is not there; put the annotations there.")
    root = xml.parse(path).getroot()
    width, height = (float(root.findtext(f"size/{side}")) for side in ("width", "height"))
    scale = {"xmin": width, "ymin": height, "xmax": width, "ymax": height}
    return [tuple(float(b.findtext(k)) / s for k, s in scale.items()) for b in root.iter("bndbox")]


def hit(found, true):
    """Whether a box overlaps one of the true ones by more than half: bool. CorLoc is the share of images with a hit."""
    return any(box_iou(found, t) > 0.5 for t in true)


def facets_of(clip, pixels, layer=-1):
    """Patch features of each facet that the model has, and their grid: dict of name to (float [n, P, C], (h, w)).

    "tokens", "keys", and both side by side, each of norm 1 ("ensemble"; the paper doesn't define its own). A ConvNeXt
    has no attention and so no keys.
    """
    read = {name: clip.patch_features(pixels, name, layer) for name in FACETS[: 1 if clip.family == "ConvNeXt" else 2]}
    if "keys" in read:
        both = torch.cat([F.normalize(features, dim=-1) for features, _ in read.values()], dim=-1)
        read["ensemble"] = both, read["keys"][1]
    return read


def localisation(clip, data, scope="class", components="released", seed=0):
    """A row of Table A1: CorLoc (%) of each facet of the last layer and each component, image by image.

    Metrics corloc_<facet>_<component>; "corloc_chosen" (where this project reads the foreground); "corloc_whole" and
    "corloc_centre": the whole picture, and a centred box that covers half of it, which look at nothing. `scope` and
    `components` as in `parts.foreground`. A facet that a family lacks has no value. Without boxes there is no metric,
    and the note "reason" says why.
    """
    chosen, found = foreground.setting_of(clip), {}
    try:
        true_boxes(data, [0])
    except UserError as error:  # most datasets have none on disk; the rest of the page does not need them
        return {"metrics": {}, "arrays": {}, "notes": {"setting": chosen, "reason": str(error)}}
    for members in foreground.groups(data.labels):
        pixels, true = clip.pixels(data.image(i) for i in members), true_boxes(data, members)
        masks = {"chosen": foreground.masks(clip, pixels, chosen, scope, components)[1]}
        for name, (features, grid) in facets_of(clip, pixels).items():
            for kind, (method, component) in COMPONENTS.items():
                setting = {"method": method, "component": component}
                masks[f"{name}_{kind}"] = foreground.mask_of(features, grid, setting, scope, components)
        low, high = (1 - CENTRE) / 2, (1 + CENTRE) / 2
        boxes = {key: [np.divide(box(m), m.shape[0]) for m in mask.cpu()] for key, mask in masks.items()}
        boxes |= {"whole": [(0, 0, 1, 1)] * len(true), "centre": [(low, low, high, high)] * len(true)}
        for key, of in boxes.items():
            hits = [100.0 * hit(b, t) for b, t in zip(of, true, strict=True)]
            found.setdefault(f"corloc_{key}", np.zeros(len(data)))[members] = hits
    return {"metrics": found, "arrays": {}, "notes": {"setting": chosen}}


# --- Table A3: foreground accuracy


def blurred_outside(pixels, masks, blur=11):
    """Pixels with everything outside the mask blurred: uint8 [n, 3, S, S].

    pixels uint8 [n, 3, S, S], masks bool [n, h, w], scaled to S by nearest neighbour; blur: width of the Gaussian in
    pixels, an odd number, or 0 to put the picture's mean colour there instead.
    """
    if blur < 0 or (blur and blur % 2 == 0):
        raise UserError(f"blur = {blur} was given; expected an odd width in pixels, or 0 for the mean colour.")
    grown = F.interpolate(masks[:, None].float(), pixels.shape[2:])[:, 0].bool().cpu().numpy()
    images = pixels.permute(0, 2, 3, 1).cpu().numpy()
    outside = [cv2.GaussianBlur(x, (blur, blur), 0) if blur else x.mean((0, 1)).astype(np.uint8) for x in images]
    shown = [np.where(m[..., None], x, o) for x, m, o in zip(images, grown, outside, strict=True)]
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)


def accuracy(clip, data, setting="default", scope="class", blur=11, crf=False, seed=0):
    """A row of Table A3: top-1 (%) with all but the foreground blurred (or erased, blur = 0), image by image.

    "base": the whole picture; "nearest": the foreground's patches; "component": its largest connected patches;
    "crf": their outline along edges, if `crf`; "blurred": nothing but blur; "inverse": the foreground blurred and the
    rest kept; "animal": the true animal kept (bestiary only). "share_<name>": how much of the picture is kept.
    """
    weights = heads.classifier(clip, data.classes, data.templates)
    read_at = foreground.setting_of(clip, published=setting == "published")
    found = {"top1_base": heads.top_k_hits(clip.embed_images(data) @ weights.T, data.labels).float().cpu().numpy()}
    for members in foreground.groups(data.labels):
        pixels = clip.pixels(data.image(i) for i in members)
        features, mask = foreground.masks(clip, pixels, read_at, scope, "all")
        kept = {"nearest": part_finding.connected(mask, "all"), "component": part_finding.connected(mask, "released")}
        if crf:
            kept["crf"] = part_finding.dense_crf(pixels, kept["component"])
        kept |= {"inverse": ~kept["component"], "blurred": torch.zeros_like(mask)}
        if data.name == "bestiary":
            kept["animal"] = foreground.animals(data, members)
        for name, masks in kept.items():
            logits = clip.embed_pixels(blurred_outside(pixels, masks, blur)) @ weights.T
            right = heads.top_k_hits(logits, data.labels[members]).float().cpu().numpy()
            found.setdefault(f"top1_{name}", np.zeros(len(data)))[members] = right
            found.setdefault(f"share_{name}", np.zeros(len(data)))[members] = masks.float().mean((1, 2)).cpu().numpy()
    return {"metrics": {k: 100.0 * v for k, v in found.items()}, "arrays": {}, "notes": {"setting": read_at}}


# --- Table A2: entropy of the descriptors


def entropy(part_ids, unit="nats"):
    """Entropy of the descriptors over an image's parts: float [n], 0 where there is none.

    part_ids int [n, L, k], -1 pads. With n_d of the image's filled places held by descriptor d and n in all, it is
    -sum (n_d / n) log(n_d / n). unit: "nats" or "bits". The paper gives no formula (appendix A.2); the published
    values fit this one in nats: ln 15 = 2.71 is the most that 15 places allow.
    """
    if unit not in ("nats", "bits"):
        raise UserError(f"The entropy's unit was '{unit}'; choose 'nats' or 'bits'.")
    values = []
    for ids in np.asarray(part_ids).reshape(len(part_ids), -1):
        _, counts = np.unique(ids[ids >= 0], return_counts=True)
        shares = counts / max(counts.sum(), 1)
        values.append(-(shares * np.log(shares)).sum() if len(shares) else 0.0)
    return np.array(values) / (np.log(2) if unit == "bits" else 1)


def agreement(a, b):
    """Share of an image's descriptors a part at a time that two matchings have in common: float [n], nan if none.

    a, b int [n, L, k], -1 pads; order within a part does not count.
    """
    a, b = np.asarray(a), np.asarray(b)
    shared = ((a[..., :, None] == b[..., None, :]) & (a >= 0)[..., :, None]).any(-1).sum((1, 2))
    filled = np.maximum((a >= 0).sum((1, 2)), (b >= 0).sum((1, 2)))
    return np.where(filled > 0, shared / np.maximum(filled, 1), np.nan)


def entropies(clip, data, parts=5, per_part=3, unit="nats", top=500, group="label", seed=0):
    """A row of Table A2: entropy of the descriptors with each matching method, for parts by PCA and by K-means.

    Metrics entropy_<matching>_<parts>; "gain_<parts>": transport minus the nearest of the whole bank ("top"), which is
    the published comparison; "gain_candidates_<parts>": minus the nearest of the same candidates; "agreement_<parts>":
    share (%) of the transport's descriptors that the centred rule finds too. In the bestiary also the precision (%) of
    the named descriptors.
    """
    metrics, known = {}, ground_truth.held(data) if data.name == "bestiary" else None
    for name, found in find_all(clip, data, PART_METHODS, parts, group=group, seed=seed, keep_maps=False).items():
        by_method = {m: name_parts(clip, data, found, m, per_part, top)[:2] for m in matching.METHODS}
        for method, (by_part, ids) in by_method.items():
            metrics[f"entropy_{method}_{name}"] = entropy(by_part, unit)
            if known is not None:
                named = ground_truth.members(ids, len(data.bank))
                metrics[f"precision_{method}_{name}"] = 100 * ground_truth.precision(named, known)
        own = metrics[f"entropy_transport_{name}"]
        metrics[f"gain_{name}"] = own - metrics[f"entropy_top_{name}"]
        metrics[f"gain_candidates_{name}"] = own - metrics[f"entropy_nearest_{name}"]
        metrics[f"agreement_{name}"] = 100 * agreement(by_method["transport"][0], by_method["centred"][0])
    return {"metrics": metrics, "arrays": {}, "notes": {"unit": unit}}


# --- Table A4: what the descriptors are like


def diversity(texts, classes):
    """Mean cosine distance between descriptors of different classes and within a class: (inter, intra).

    texts float [m, c] of norm 1, one a class and descriptor; classes int [m]. The paper names the two without a
    formula. A class with one descriptor has no pair within; nan where there is no pair at all.
    """
    classes = torch.as_tensor(classes)
    sums = torch.stack([texts[classes == k].sum(0) for k in classes.unique()]).double()
    sizes = torch.stack([(classes == k).sum() for k in classes.unique()]).double()
    # a sum over all pairs is the squared norm of a sum; each text with itself, of cosine 1, is no pair
    within, total = (sums**2).sum(), (sums.sum(0) ** 2).sum()
    same, every = (sizes**2).sum(), sizes.sum() ** 2
    inter = 1 - (total - within) / (every - same)
    intra = 1 - (within - sizes.sum()) / (same - sizes.sum())
    return float(inter), float(intra)


def banks(clip, data, prompt="auto", seed=0):
    """What Table A4 asks of descriptors from other prompts, asked of banks made worse on purpose.

    "own": the bank as it is; "half": each class keeps half of its descriptors; "erring": a quarter of them replaced by
    others of the bank; "shuffled": every class has another's. Metrics top1_<bank> and top5_<bank> (%, image by
    image) of classification by description, inter_<bank> and intra_<bank> from `diversity`.
    """
    data.require_descriptors()
    own, rng = boost.own_sets(data), np.random.default_rng([seed, 71])
    erring = [[d if rng.random() > 0.25 else int(rng.integers(len(data.bank))) for d in ids] for ids in own]
    order = (np.arange(len(own)) + rng.integers(1, len(own))) % len(own)
    chosen = {"own": own, "half": boost.own_sets(data, 0.5, seed), "erring": [[*dict.fromkeys(ids)] for ids in erring]}
    chosen["shuffled"] = [own[k] for k in order]
    metrics, sentence = {}, boost.prompt_of(data, prompt)
    texts = dict(zip(data.bank, clip.embed_texts(data.bank), strict=True))
    for name, logits in boost.score(clip, data, chosen, sentence).items():
        for k in (1, min(5, len(data.classes))):
            right = heads.top_k_hits(logits, data.labels, k).float().numpy()
            metrics[f"top{1 if k == 1 else 5}_{name}"] = 100.0 * right
        listed = [(texts[data.bank[d]], k) for k, ids in enumerate(chosen[name]) for d in ids]
        inter, intra = diversity(torch.stack([t for t, _ in listed]).cpu(), [k for _, k in listed])
        metrics |= {f"inter_{name}": inter, f"intra_{name}": intra}
    return {"metrics": metrics, "arrays": {}, "notes": {"prompt": sentence}}
