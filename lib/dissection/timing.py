"""Rows about time: a target's layers by our way, by the released code's way and by Network Dissection, in one run."""

import time

import torch
from torch.nn import functional as F

from lib.dissection import activations, evaluation, inputs, plain, similarity
from lib.dissection.setting import Setting, constants, functions

VERSION = 2  # raise it when rows come out different: it is part of every record's key
PLAIN = ("rank_reorder", "wpmi", "soft_wpmi")


def row(model, data, seed=0, clip="ViT-B-16", layers="auto", concepts="descriptors", prompt="{}"):
    """Seconds to label all neurons of a target's layers on the run's images: a row of Table 4.

    Metrics, in seconds: read (decode the images), clip (embed images and concepts), target (activations), and then the
    labels: ours and released (SoftWPMI in both ways), netdissect (maps against masks, where these are known). Nothing
    is taken from the cache. Paper, Table 4.
    """
    setting = Setting(model, data, clip, "", prompt, seed=seed)
    names, found = inputs.choose_layers(model, layers), inputs.concepts(concepts, data)
    seconds = {}
    pixels = _timed(seconds, "read", lambda: (setting.clip.pixels(data), model.pixels(data)))
    images, texts = _timed(
        seconds,
        "clip",
        lambda: (setting.clip.embed_pixels(pixels[0]).cpu(), setting.clip.embed_texts(found, cached=False).cpu()),
    )
    parts = [model.normalised(x) for x in pixels[1].split(64)]
    q = _timed(seconds, "target", lambda: activations.collect(model.tower, names, parts))
    given = constants("soft_wpmi", len(data))
    ours = _timed(
        seconds, "ours", lambda: [similarity.labels("soft_wpmi", (images, texts), q[n], **given)[0] for n in names]
    )
    P = plain.matrix(images, texts)
    theirs = _timed(
        seconds, "released", lambda: [plain.soft_wpmi(P, q[n], range(q[n].shape[1]), **given).argmax(1) for n in names]
    )
    if setting.known:
        masks = inputs.masks(data, found)
        _timed(seconds, "netdissect", lambda: _netdissect(model, names, parts, masks))
    neurons = sum(q[n].shape[1] for n in names)
    equal = sum(int((a == b).sum()) for a, b in zip(ours, theirs, strict=True))
    metrics = seconds | {"neurons": float(neurons), "equal": 100.0 * equal / neurons}
    return {"metrics": metrics, "notes": setting.notes() | {"layers": names, "images": len(data)}}


def _timed(seconds, name, function):
    start = time.perf_counter()
    result = function()
    seconds[name] = time.perf_counter() - start
    return result


def _netdissect(model, names, parts, masks):
    maps = activations.maps(model.tower, names, parts)
    return [evaluation.iou(maps.pop(n), masks) for n in names]


def synthetic(
    model, data, seed=0, similarities="rank_reorder,wpmi,soft_wpmi", images=6000, concepts=6000, neurons=128, width=512
):
    """The similarity functions alone, on random embeddings and activations: ours against the released code's way.

    Metrics "what/similarity": ours and released (seconds from embeddings to labels), ratio, equal (%): neurons with the
    same label both times. The model and the images of the run play no part. At full size: benchmarks/dissection.py.
    """
    embedded, texts, q = random_inputs(images, concepts, neurons, width, seed)
    metrics = {}
    for name in functions(similarities):
        seconds = {}
        ours = _timed(seconds, "ours", lambda name=name: similarity.labels(name, (embedded, texts), q)[0])
        released = _timed(seconds, "released", lambda name=name: released_labels(name, embedded, texts, q))
        metrics |= {f"{way}/{name}": value for way, value in seconds.items()}
        metrics[f"ratio/{name}"] = seconds["released"] / seconds["ours"]
        metrics[f"equal/{name}"] = 100.0 * float((ours == released).double().mean())
    return {"metrics": metrics, "notes": {"images": images, "concepts": concepts, "neurons": neurons, "width": width}}


def random_inputs(images, concepts, neurons, width, seed=0):
    """Embeddings [images, width] and [concepts, width] of norm 1 with CLIP-like cosines around 0.2, and activations."""
    generator = torch.Generator().manual_seed(seed)
    embedded, texts = torch.randn(images, width, generator=generator), torch.randn(concepts, width, generator=generator)
    common = F.normalize(torch.randn(width, generator=generator), dim=0) * (width / 4) ** 0.5
    embedded, texts = F.normalize(embedded + common, dim=1), F.normalize(texts + common, dim=1)
    q = embedded @ torch.randn(width, neurons, generator=generator)
    return embedded, texts, q.add_(0.5 * torch.randn(images, 1, generator=generator)).relu_()


def released_labels(name, images, texts, q, neurons=None):
    """Labels in the released code's way. neurons: how many of the first ones, None for all."""
    return getattr(plain, name)(plain.matrix(images, texts), q, range(neurons or q.shape[1])).argmax(1)
