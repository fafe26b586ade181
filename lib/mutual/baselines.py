"""The trained baselines of Tables 1 and 5 on a model's own features: trained once, then found again.

`python -m lib.mutual.baselines ViT-B-16` trains them for a miniature and writes
data/bestiary/bottlenecks/NAME.safetensors, float16, which the pages read. Where there is no such file, or it belongs
to other weights or another recipe, they are trained when they are needed and kept in the cache.
"""

import math
import sys
from functools import partial

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

from lib import models, store
from lib.data import load as load_images
from lib.data import names
from lib.errors import UserError
from lib.mutual import bottlenecks, foreground
from lib.paths import DATA

FOLDER = DATA / "bestiary" / "bottlenecks"
METHODS = (
    "standard",
    "standard_embedding",
    "lf_cbm",
    "mm_cbm",
    "mm_protosim",
    "mm_cbm_random",
    "mm_protosim_random",
    "feature_maps",
)
# At fifty times the published rate as far as 15 epochs over ImageNet, whose epoch has 20,000 batches of 64.
STEPS = 6000
RATES = {"scaled": (5e-3, 5e-4), "published": (1e-4, 1e-5)}
LARGEST = 24e9  # bytes of patch features that are held in memory


def recipe(clip, train, facet="default", steps=STEPS, rates="scaled", inner=0, temperature=1.0, hard=False, seed=0):
    """Everything that decides the trainings: a dict of JSON values, also the options of the functions below.

    facet: "default", where the method itself reads its patch features (`foreground.setting_of`), or "published".
    inner: q, 0 for the width of the joint space (512 for ViT-B/16, as published). rates: "published", or "scaled":
    fifty times that, for trainings of few steps. temperature, hard: of MM-ProtoSim's Gumbel softmax.
    """
    if facet not in ("default", "published"):
        raise UserError(f"The facet '{facet}' is unknown; choose 'default' or 'published'.")
    if steps < 1 or inner < 0:
        raise UserError(f"steps = {steps} and width = {inner} were given; expected at least 1, and 0 or more.")
    if rates not in RATES:
        raise UserError(f"The rates '{rates}' are unknown; choose one of {', '.join(RATES)}.")
    at = foreground.setting_of(clip, published=facet == "published")
    return {
        "weights": clip.weights_sha256,
        "feature": at["feature"],
        "layer": at["layer"],
        "train": train.fingerprint,
        "classes": store.digest({"classes": train.classes}),
        "bank": store.digest({"bank": train.bank, "prompt": train.descriptor_prompt}),
        "steps": steps,
        "batch": bottlenecks.BATCH,
        "rates": list(RATES[rates]),
        "inner": inner or clip.width,
        "temperature": temperature,
        "hard": hard,
        "seed": seed,
    }


def train_split(data, folder="", limit=0, seed=0):
    """The labelled images to train on: those of `folder`, or the train split of the dataset that `data` belongs to.

    Raises UserError when there is none, when its classes are others, and for labels that are not known.
    """
    if not folder and data.name not in names():
        raise UserError(f"'{data.name}' has no train split; give the folder of its training images as `train`.")
    train = load_images(folder or data.name, "val" if folder else "train", seed=seed, images=limit)
    if train.classes != data.classes:
        raise UserError(f"The training images have other classes than '{data.name}'; their folders must be the same.")
    require_labels(train)
    train.require_descriptors(every_class=False)
    return train


def require_labels(data):
    """Raise UserError when an image of `data` has no label, or all have the same."""
    labels = torch.as_tensor(-1 if data.labels is None else data.labels)
    if (labels < 0).any():
        raise UserError(f"'{data.name}' has images without labels, which this needs; put each into its class's folder.")
    if len(data.classes) < 2:
        raise UserError(f"'{data.name}' has a single class, so there is nothing to classify; give two at least.")


# --- what is read


def patch_features(clip, data, recipe, chunk=256):
    """Patch features float16 [n, P, C] on the CPU, and their grid (h, w). Raises UserError for too many."""
    found, grid = [], None
    for start in range(0, len(data), chunk):
        pixels = clip.pixels(data.image(i) for i in range(start, min(start + chunk, len(data))))
        features, grid = clip.patch_features(pixels, recipe["feature"], recipe["layer"])
        if 2 * features[0].numel() * len(data) > LARGEST:
            size = 2 * features[0].numel() * len(data) / 1e9
            raise UserError(f"The features of {len(data)} images take {size:.0f} GB; give a smaller `train_limit`.")
        found.append(features.half().cpu())
    return torch.cat(found), grid


def train_features(clip, train, recipe):
    """`patch_features` of the training images, kept in the cache."""
    about = {k: recipe[k] for k in ("weights", "feature", "layer", "train")}
    key = {"kind": "patch_features", "n": len(train), "precision": clip.precision, **about}

    def compute():
        features, grid = patch_features(clip, train, recipe)
        return {"features": features, "grid": torch.tensor(grid)}

    found = store.tensors(key, compute)
    return found["features"], tuple(found["grid"].tolist())


def queries(clip, data, random=False, seed=0):
    """Text embeddings of the bank [D, c]; or as many random directions, a control that knows no word."""
    texts = clip.embed_texts([data.descriptor_prompt.format(text) for text in data.bank])
    if not random:
        return texts
    drawn = torch.randn(texts.shape, generator=torch.Generator().manual_seed(seed)).to(texts)
    return F.normalize(drawn, dim=1)


def descriptor_targets(data):
    """Which descriptors belong to which class: float [classes, D]."""
    number = {text: i for i, text in enumerate(data.bank)}
    wanted = torch.zeros(len(data.classes), len(number))
    for c, texts in enumerate(data.descriptors):
        wanted[c, [number[text] for text in texts]] = 1
    return wanted


# --- models


def build(method, clip, data, recipe, width):
    """An untrained baseline. width: C of its input."""
    classes, inner = len(data.classes), recipe["inner"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe["seed"])
        if method.startswith("standard"):
            model = bottlenecks.Perceptron(width, classes, inner)
        elif method == "feature_maps":
            model = bottlenecks.Labeler(width, len(data.bank))
        else:
            texts = queries(clip, data, method.endswith("random"), recipe["seed"])
            over = "concepts" if "protosim" in method else "tokens"
            relaxed = (recipe["temperature"], recipe["hard"])
            model = bottlenecks.Bottleneck(texts, width, classes, inner, over, *relaxed)
    return model.to(clip.device)


def train(method, clip, data, recipe):
    """Train one baseline on the images of `data`: its tensors, float16, by name."""
    labels = torch.as_tensor(data.labels)
    features, grid = train_features(clip, data, recipe)
    epochs = math.ceil(recipe["steps"] / math.ceil(len(data) / recipe["batch"]))
    options = {"epochs": epochs, "batch_size": recipe["batch"], "rates": recipe["rates"], "seed": recipe["seed"]}
    if method == "lf_cbm":
        similarities = clip.embed_images(data) @ queries(clip, data).T
        vectors = pooled(features).to(clip.device)
        return halves(
            bottlenecks.label_free(vectors, labels.to(clip.device), similarities, len(data.classes), recipe["seed"])
        )
    inputs = features
    if method.startswith("standard"):
        inputs = pooled(features) if method == "standard" else clip.embed_images(data).cpu()
    if method == "feature_maps":
        labels, options["loss"] = descriptor_targets(data)[labels], F.binary_cross_entropy_with_logits
        options["draw"] = partial(drop, grid=grid)
    model = build(method, clip, data, recipe, inputs.shape[-1])
    return halves(bottlenecks.fit(model, inputs, labels, **options).state_dict())


def drop(maps, generator, grid, rate=0.1):
    """DropBlock as published: blocks of half the map's side, one tenth left out."""
    return bottlenecks.drop_block(maps, grid, max(grid) // 2, rate, generator)


def pooled(features):
    """Mean over the patches, float32 [n, C]."""
    return torch.cat([chunk.float().mean(1) for chunk in features.split(1024)])


def halves(state):
    """Tensors as they are kept: float16 on the CPU."""
    return {k: (v.half() if v.is_floating_point() else v).detach().cpu() for k, v in state.items()}


def tensors(method, clip, train_data, recipe):
    """The trained tensors of a baseline: from the repository, from the cache, or trained now."""
    path = FOLDER / f"{clip.name}.safetensors"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get(method) == store.digest(recipe):
                names = [name for name in file.keys() if name.partition(".")[0] == method]
                return {name.partition(".")[2]: file.get_tensor(name) for name in names}
    key = {"kind": "bottlenecks", "method": method, **recipe}
    return store.tensors(key, lambda: train(method, clip, train_data, recipe))


def load(method, clip, train_data, recipe):
    """A trained baseline, float32 on the model's device: a module, or the dict of `bottlenecks.label_free`."""
    if method not in METHODS:
        raise UserError(f"The baseline '{method}' is unknown; choose one of {', '.join(METHODS)}.")
    state = {k: v.float() if v.is_floating_point() else v for k, v in tensors(method, clip, train_data, recipe).items()}
    if method == "lf_cbm":
        return {k: v.to(clip.device) for k, v in state.items()}
    first = {"feature_maps": "names.weight"}.get(method, "hidden.weight" if "standard" in method else "keys.weight")
    model = build(method, clip, train_data, recipe, state[first].shape[1])
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def main(names):
    """Train every baseline for the miniatures `names` and write them into the repository's folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        clip, data = models.load(name), load_images("bestiary", "train")
        how, found = recipe(clip, data), {}
        for method in METHODS:
            found |= {f"{method}.{k}": v.contiguous() for k, v in tensors(method, clip, data, how).items()}
            print(name, method, flush=True)
        about = {method: store.digest(how) for method in METHODS}
        part = FOLDER / f".{name}.part"
        save_file(found, part, metadata=about)
        part.replace(FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
