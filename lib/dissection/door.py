"""The front door: words for the neurons of any network, in one call. `from lib import dissect`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from lib import data
from lib.data import downloads, loose
from lib.dissection import activations, evaluation, inputs
from lib.dissection import similarity as functions
from lib.dissection.constants import PUBLISHED
from lib.dissection.options import Options, listed
from lib.dissection.setting import named
from lib.dissection.top_images import SPARSE, active, top_images
from lib.errors import UserError, nearest, note, one_of
from lib.given import Given
from lib.models import Vision, to_pixels
from lib.progress import progress

Images = str | Path | Iterable[str | Path] | data.ImageDataset
Preprocess = Callable[[Image.Image], torch.Tensor] | Mapping[str, Any] | None
IMAGENET: dict[str, Any] = {
    "size": 224,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}  # what torchvision's models take
SWITCHES = ("pool", "channels", "top_k", "prior", "ties", "prompt", "resamples")
RESAMPLES = 10  # of the probe, unless asked for otherwise
SHOWN = 5  # top images of a neuron that the table names


# more than seven, because this is the whole wing behind one call: all but three have a default
def dissect(
    network: nn.Module,
    layers: str | Iterable[str],
    images: Images,
    words: str | Path | Iterable[str] = "concepts_20k",
    *,
    model: str = "ViT-B-16",
    similarity: str = "soft_wpmi",
    preprocess: Preprocess = None,
    weights: str = "published",
    device: str = "auto",
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    **switches: Any,
) -> pd.DataFrame:
    """Labels for all neurons of layers of any network, by CLIP-Dissect: a line a neuron.

    network: any module that takes a batch of images; it is used where it lies (on its device, in its precision), in
    eval mode, and left as it was. layers: names as in `named_modules`. images: a folder with images anywhere in it, a
    list of files, the name of a dataset, or what `lib.data.load` gives (a part of one). words: a list, a text file with
    one a line, or a name of data/downloads.csv or of `inputs.concepts`; a word that comes twice is kept once.
    model: the CLIP that names; weights: its, "random" and "small" for a trial without a download; device: where it
    runs. similarity: see `PUBLISHED`. preprocess: how the network wants a picture: a function from a PIL image to
    [3, S, S], or a dict of size, mean and std for what is not ImageNet's. on_error: see `lib.data.load`.
    switches: pool, channels, top_k, prior, ties, prompt, resamples (here 10), see `Options`.

    Columns: layer, unit, label, score; second, third (the rivals); stability, the share of probes drawn again that give
    the same label; active, the number of images in which the neuron does more than its least; dead (active in none: no
    label), sparse (in fewer than 5); top_images, paths (of a dataset without files, numbers), best first. Raises
    UserError. Paper, section 3.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"The network is a {type(network).__name__}; give a torch.nn.Module.")
    options, names = _options(model, similarity, switches), _layers(network, layers)
    dataset = str(images) if isinstance(images, (str, Path)) else getattr(images, "name", "pictures")
    given = Given(model, dataset, seed=seed, device=device, weights=weights, on_error=on_error)
    probe = _probe(given, images, options.top_k)
    texts = word_list(given, words)
    prepare, size = _preparation(preprocess), _positive("batch_size", batch_size)
    with evaluating(network):
        _try(network, names, probe.subset([0]), prepare, options)  # what is refused is refused before long work
        clip, pictures = _reader(given, model), batches(network, probe, prepare, size)
        found = activations.collect(network, names, pictures, options.pool, options.channels)
    embedded = clip.embed_images(probe, size), clip.embed_texts([options.prompt.format(text) for text in texts])
    tables = [_labelled(found[name], *embedded, texts, similarity, options, seed).assign(layer=name) for name in names]
    table = pd.concat(tables, ignore_index=True)
    files = [str(path) for path in getattr(probe.source, "paths", [])]
    best = [[files[probe.indices[i]] if files else i for i in row] for row in table["top_images"]]
    return table.assign(top_images=pd.Series(best, dtype=object))[["layer", *table.columns.drop("layer")]]


# --- what is asked for


def _options(model: str, similarity: str, switches: Mapping[str, Any]) -> Options:
    one_of("similarity", similarity, PUBLISHED)
    for name in switches:
        if name not in SWITCHES:
            hint = nearest(name, SWITCHES) or f" It has {', '.join(SWITCHES)}."
            raise UserError(f"dissect has no option '{name}'.{hint}")
    options = Options(clip=model, similarities=similarity, **{"resamples": RESAMPLES, **switches})
    if options.top_k and similarity != "soft_wpmi":
        raise UserError(f"top_k is {options.top_k}, but it is an option of soft_wpmi alone; {similarity} goes without.")
    return options


def _layers(network: nn.Module, layers: str | Iterable[str]) -> list[str]:
    wanted = [layers] if isinstance(layers, str) else list(layers)
    for name in wanted:
        if not isinstance(name, str):
            raise UserError(f"The layers hold a {type(name).__name__}; give names, as in named_modules.")
    names = listed(",".join(wanted))
    if not names:
        top = [name for name in activations.layers(network) if "." not in name]
        raise UserError(f"No layer is given; the network has {', '.join(top)} and what is inside.")
    activations.check_layers(network, names)
    return names


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value!r}; give a whole number above 0.")
    return value


def _probe(given: Given, images: Images, top_k: int) -> data.ImageDataset:
    if isinstance(images, data.ImageDataset):
        probe = images
    elif isinstance(images, str) and images in data.names():
        probe = given.open_images()
    else:
        probe = loose.pictures(images, given.on_error)
    if len(probe) < max(2, top_k):
        wanted = f"top_k is {top_k}" if top_k else "a neuron is known by which of several it likes best"
        advice = "lower top_k or add images" if top_k else "give more, best some hundreds"
        raise UserError(f"There are {len(probe)} images, but {wanted}; {advice}.")
    return probe


def word_list(given: Given, words: str | Path | Iterable[str]) -> list[str]:
    """Words, each once, without spaces around. words: as `dissect` takes them. Raises UserError for fewer than two."""
    if isinstance(words, (str, Path)):
        name = str(words)
        file = downloads.rows().get(name, {"file": name})["file"].endswith(".txt") or Path(name).is_file()
        texts = inputs.read_concepts(given.open_file(name)) if file else inputs.concepts(given, name)
    else:
        texts = list(words)
        strange = [type(text).__name__ for text in texts if not isinstance(text, str)]
        if strange:
            raise UserError(f"The words hold a {strange[0]}; give texts.")
        texts = [str(text).strip() for text in texts]
    if not texts:
        raise UserError("The list of words is empty; give two at least, best some thousands.")
    once = list(dict.fromkeys(texts))
    inputs.check_concepts(once)
    if len(once) < len(texts):
        note(f"{len(texts) - len(once)} of {len(texts)} words come twice or more; each is kept once.")
    return once


def _reader(given: Given, model: str) -> Any:
    clip: Vision = inputs.reader(given, model)
    if clip.banner:
        note(f"{model} has random weights here: its labels show that the code runs, and mean nothing.")
    return clip


# --- the network


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode while it lasts; then each of its modules is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _preparation(preprocess: Preprocess) -> Callable[[Image.Image], Any]:
    """The function from a PIL image to what the network takes. A dict is taken as torchvision's models mean it."""
    if callable(preprocess):
        return preprocess
    if not isinstance(preprocess, Mapping | None):
        raise UserError(f"preprocess is a {type(preprocess).__name__}; give a function, or a dict of size, mean, std.")
    look = IMAGENET | dict(preprocess or {})
    for name in look.keys() - IMAGENET:
        raise UserError(f"preprocess has no '{name}'; it takes {', '.join(IMAGENET)}.{nearest(name, IMAGENET)}")
    size = _positive("preprocess['size']", look["size"])
    mean, std = (torch.tensor(look[name], dtype=torch.float32).view(-1, 1, 1) for name in ("mean", "std"))
    crop = f"crop{round(size / 0.875)}"
    return lambda image: (to_pixels(image, size, crop) / 255 - mean) / std


def batches(
    network: nn.Module, images: data.ImageDataset, prepare: Callable[[Image.Image], Any], size: int
) -> Iterator[torch.Tensor]:
    """Images as the network takes them: [b, 3, S, S], on its device and in its precision. Raises UserError."""
    own = [x for part in (network.parameters(), network.buffers()) for x in part if x.is_floating_point()]
    like = own[0] if own else torch.empty(0)
    with ThreadPoolExecutor(data.THREADS) as pool:
        for start in progress(range(0, len(images), size), "images through the network"):
            some = range(start, min(start + size, len(images)))
            rows = list(pool.map(lambda i: _floats(prepare(images.image(i))), some))
            if len({row.shape for row in rows}) > 1:
                shapes = sorted({str(list(row.shape)) for row in rows})
                raise UserError(f"preprocess gives pictures of several shapes ({', '.join(shapes)}); crop them alike.")
            yield torch.stack(rows).to(like)


def _floats(picture: Any) -> torch.Tensor:
    if isinstance(picture, np.ndarray):
        picture = torch.tensor(picture)
    if not isinstance(picture, torch.Tensor) or not picture.is_floating_point():
        what = getattr(picture, "dtype", type(picture).__name__)
        raise UserError(
            f"preprocess gives {what}; networks take tensors of floats: end it with ToTensor and Normalize."
        )
    return picture


def _try(
    network: nn.Module,
    names: list[str],
    one: data.ImageDataset,
    prepare: Callable[[Image.Image], Any],
    options: Options,
) -> None:
    """Raise UserError where the network does not take a single image, or a layer gives what has no neurons."""
    try:
        activations.collect(network, names, batches(network, one, prepare, 1), options.pool, options.channels)
    except UserError:
        raise
    except Exception as error:  # each network fails in its own way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        advice = "say with preprocess how it wants them"
        raise UserError(f"The network does not take the images ({reason}); {advice}.") from error


# --- labels


# seven: everything that decides the labels of one layer
def _labelled(
    q: torch.Tensor,
    images: torch.Tensor,
    words: torch.Tensor,
    texts: list[str],
    similarity: str,
    options: Options,
    seed: int,
) -> pd.DataFrame:
    """The columns of `dissect` for one layer, top images by number. q [images, neurons], on the CPU."""
    constants = options.constants(similarity)
    best, score = (x.cpu() for x in functions.leading(functions.scores(similarity, q, images, words, **constants), 3))
    label, count = best[:, 0], active(q)
    kept = torch.zeros(len(label))
    for draw in progress(range(1, options.resamples + 1), "probes drawn again"):
        some = evaluation.drawn(len(q), draw, seed)
        kept += functions.labels(similarity, q[some], images[some], words, **constants)[0].cpu() == label
    stability = kept.div(options.resamples).masked_fill(label == functions.DEAD, torch.nan)  # nan without resamples
    top = top_images(q, min(SHOWN, len(q)), options.ties).T.tolist()
    return pd.DataFrame(
        {
            "unit": range(len(label)),
            "label": named(label, texts),
            "score": score[:, 0],
            "second": named(best[:, 1], texts),
            "third": named(best[:, 2], texts) if len(texts) > 2 else "",
            "stability": stability,
            "active": count,
            "dead": count == 0,
            "sparse": (count > 0) & (count < SPARSE),
            "top_images": [row if n else [] for row, n in zip(top, count.tolist(), strict=True)],
        }
    )
