"""Image classifiers with a head learned from labels: our fine-tuned and supervised models, torchvision's and timm's."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from lib import cache, models
from lib.errors import UserError, nearest
from lib.paths import download_folder


class Headed(nn.Module):
    """A vision tower of open_clip and a linear head on its embeddings: normalised pixels -> logits."""

    def __init__(self, visual, classes, unit_norm):
        super().__init__()
        self.visual, self.unit_norm = visual, unit_norm
        self.head = nn.Linear(visual.output_dim, classes)

    def forward(self, x):
        h = self.visual(x)
        return self.head(F.normalize(h, dim=-1) if self.unit_norm else h)


class Classifier(models.Vision):
    """An image classifier, for inference: `models.Vision`, and its own head.

    Its embeddings are what the head reads, of norm 1 only where the model makes them so (`unit_norm`: the
    fine-tuned ones). head: (weight float32 [classes, c], bias float32 [classes]).
    """

    def __init__(self, model, last, choice, device, weights_sha256, about):
        size, mean, std = about["size"], about["mean"], about["std"]
        super().__init__(model, model, choice, device, weights_sha256, last.in_features, size, mean, std)
        self._last, self.unit_norm = last, getattr(model, "unit_norm", False)
        self.resize = about.get("resize", "squash")
        self.objective = self.row.get("objective", "supervised")
        self.head = (last.weight.float(), torch.zeros(last.out_features) if last.bias is None else last.bias.float())
        self.identity |= {"objective": self.objective, "resize": self.resize}

    def embed_texts(self, texts, batch_size=256, cached=True):
        """Raises UserError: a classifier has no text tower."""
        raise UserError(f"{self.name} learned from labels alone and reads no text; take a CLIP model for this.")

    def _embed(self, x):
        if self.visual is not self.model:  # ours; so that `unprojected` reaches it
            return self.visual(x)
        seen = []
        hook = self._last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self.model(x)
        finally:
            hook.remove()
        return seen[0]


def load(choice, device, seed):
    """The Classifier that a `models.Choice` stands for. Raises UserError for weights that cannot be had."""
    if choice.architecture.startswith("mini-"):
        return _miniature(choice, device, seed)
    library, _, name = choice.architecture.partition("/")
    path = None if choice.kind == "random" else _file(choice, library, name)
    state = _state(path) if path else None
    model, last, about = (_torchvision if library == "torchvision" else _timm)(name, state, seed)
    sha = models.sha256(path) if path else cache.digest_tensors(model.state_dict())
    return Classifier(model, last, choice, device, sha, about)


def build(backbone, classes, unit_norm, seed=0):
    """An untrained `Headed` miniature on the backbone's vision tower."""
    tower = models.untrained(f"mini-{backbone}", seed).visual
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Headed(tower, classes, unit_norm)


def _miniature(choice, device, seed):
    from lib.bestiary import SPECIES

    path = models.weights_file(choice, {})
    model = build(choice.row["backbone"], len(SPECIES), choice.row["objective"] == "finetuned", seed)
    if path:
        _fill(model, _state(path), path, choice.name)
    sha = models.sha256(path) if path else cache.digest_tensors(model.state_dict())
    mean, std = models.open_clip.OPENAI_DATASET_MEAN, models.open_clip.OPENAI_DATASET_STD
    about = {"size": model.visual.image_size, "mean": mean, "std": std}
    return Classifier(model, model.head, choice, device, sha, about)


def check_architecture(name):
    """Raises UserError, with the nearest names, where torchvision or timm has no such classifier."""
    library, _, stem = name.partition("/")
    known = _known(library)
    if stem.partition(".")[0] not in known:
        raise UserError(f"{library} has no classifier '{stem}'.{nearest(stem, known)}")


def _known(library):
    if library == "timm":
        import timm

        return timm.list_models()
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _file(choice, library, name):
    """The checkpoint: named by path, put there by hand, or downloaded now."""
    if choice.kind == "file":
        path = Path(choice.source).expanduser()
        if not path.is_file():
            raise UserError(f"There is no checkpoint {path} for {choice.architecture}; give the path of one.")
        return path
    folder, stem = download_folder() / "weights", f"{library}--{name}"
    for suffix in (".safetensors", ".pth", ".bin", ".pt"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    try:
        return _fetch_torchvision(name, folder / f"{stem}.pth") if library == "torchvision" else _fetch_timm(name)
    except Exception as error:
        raise UserError(
            f"The weights of {choice.architecture} could not be downloaded ({type(error).__name__}); fetch them "
            f"elsewhere and put the file at {folder / stem}.pth (or .safetensors, .bin, .pt)."
        ) from None


def _fetch_torchvision(name, path):
    import torchvision

    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    path.parent.mkdir(parents=True, exist_ok=True)
    # the eight digits in the file's name at its origin are the start of its sha256
    start = weights.url.rsplit("-", 1)[1].split(".")[0]
    torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=start, progress=False)
    return path


def _fetch_timm(name):
    import timm
    from huggingface_hub import hf_hub_download

    repository = timm.get_pretrained_cfg(name).hf_hub_id
    cached = models.in_hub_cache(f"{repository}/model.safetensors")
    if cached:
        return Path(cached)
    models.probe_hub()
    return Path(hf_hub_download(repository, "model.safetensors"))


def _state(path):
    """Tensors of a checkpoint, without the wrappers that trainings leave around them. Never runs its code."""
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {key.removeprefix("module."): value for key, value in state.items()}
    except Exception as error:  # every format fails in its own way
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} is not a whole checkpoint ({type(error).__name__}: {reason}); fetch it again if it was cut short."
        ) from None


def _fill(model, state, path, name):
    try:
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} holds another model than {name} ({reason}); name the one it belongs to.") from None


def _last_linear(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _torchvision(name, state, seed):
    import torchvision

    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    settings = weights.transforms()
    classes = len(weights.meta["categories"])
    if state:  # a checkpoint may have other classes: Places365 has 365
        classes = next((len(v) for k, v in reversed(state.items()) if k.endswith(("weight", "bias"))), classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = torchvision.models.get_model(name, weights=None, num_classes=classes)
    if state:
        _fill(model, state, "The checkpoint", f"torchvision/{name}")
    about = {"size": settings.crop_size[0], "mean": settings.mean, "std": settings.std}
    return model, _last_linear(model), {**about, "resize": f"crop{settings.resize_size[0]}"}


def _timm(name, state, seed):
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained=False)
    if state:
        _fill(model, state, "The checkpoint", f"timm/{name}")
    config = model.pretrained_cfg
    size = config["input_size"][-1]
    about = {"size": size, "mean": config["mean"], "std": config["std"]}
    last = model.get_classifier()
    if not isinstance(last, nn.Linear):
        raise UserError(f"timm/{name} has no linear head, which this book's exhibits need; take another model.")
    return model, last, {**about, "resize": f"crop{round(size / config['crop_pct'])}"}
