"""Trained explanations to compare with: MM-CBM, MM-ProtoSim, Feature Maps, a label-free CBM, and a plain classifier.

All read the same frozen patch features [n, P, C] of an image and the same text embeddings [D, c] of the descriptors.
Adapted by Sammani & Deligiannis (2024), appendix D. How they are trained is in `baselines`; what the appendix does not
say (the labeler's depth, DropBlock's block and rate, the Gumbel noise at inference) is an argument here.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from lib.errors import UserError, one_of

OVER = ("tokens", "concepts")
CUTOFF = 0.45  # label-free CBM: a concept that its projection predicts worse than this is left out


class Bottleneck(nn.Module):
    """MM-CBM (`over` "tokens") and MM-ProtoSim (`over` "concepts"): descriptors attend to patches, then classify.

    texts [D, c]; width C of the patch features; q (`inner`, 512 in the paper). Queries Q = linear(texts), keys and
    values are one projection K = linear(features); no scale factor is mentioned. A = softmax(Q K^T) over the patches,
    or, in ProtoSim, a Gumbel softmax over the descriptors for each patch (noise in training only, `temperature`,
    `hard`). U = sigmoid(w (A K)), and a linear classifier on U. Appendix D.1 and D.3.
    """

    def __init__(
        self,
        texts: torch.Tensor,
        width: int,
        classes: int,
        inner: int = 512,
        over: str = "tokens",
        temperature: float = 1.0,
        hard: bool = False,
    ):
        super().__init__()
        one_of("over", over, OVER)
        if temperature <= 0:
            raise UserError(f"temperature = {temperature} was given; expected a positive number.")
        self.register_buffer("texts", texts.detach().float().clone(), persistent=False)
        self.over, self.temperature, self.hard = over, temperature, hard
        self.queries, self.keys = nn.Linear(texts.shape[1], inner), nn.Linear(width, inner)
        self.evidence, self.classifier = nn.Linear(inner, 1), nn.Linear(len(texts), classes)

    def attention(self, features: torch.Tensor) -> torch.Tensor:
        """Where each descriptor looks: float [n, D, P]. Q K^T is multiplied out, so that no patch becomes q numbers."""
        _require_features(features, self.keys.in_features, finite=not self.training)
        queries = self.queries(self.texts)
        scores = (queries @ self.keys.weight) @ features.mT + (queries @ self.keys.bias)[:, None]
        if self.over == "tokens":
            return scores.softmax(dim=2)
        if self.training:
            return F.gumbel_softmax(scores, self.temperature, self.hard, dim=1)
        return (scores / self.temperature).softmax(dim=1)

    def evidence_map(self, features: torch.Tensor) -> torch.Tensor:
        """What is read from each patch, one number whatever the descriptor: K w, float [n, P]."""
        return (features @ (self.evidence.weight @ self.keys.weight)[0]) + self.evidence.weight[0] @ self.keys.bias

    def concepts(self, features: torch.Tensor) -> torch.Tensor:
        """How much of each descriptor there is: U in (0, 1), float [n, D]. w (A K) = A (K w)."""
        amounts = self.attention(features) @ self.evidence_map(features)[..., None]
        return torch.sigmoid(amounts[..., 0] + self.evidence.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] from patch features [n, P, C]."""
        return self.classifier(self.concepts(features))


def perceptron(width: int, classes: int, inner: int = 512) -> nn.Sequential:
    """The "standard" classifier of appendix D: one hidden layer of `inner` units on one vector an image [n, C]."""
    layers = {"hidden": nn.Linear(width, inner), "relu": nn.ReLU(), "classifier": nn.Linear(inner, classes)}
    return nn.Sequential(OrderedDict(layers))


def labeler(width: int, concepts: int) -> nn.Sequential:
    """Names what a masked mean of patch features shows: a linear layer [n, C] -> [n, D] (appendix D.2)."""
    return nn.Sequential(OrderedDict(names=nn.Linear(width, concepts)))


def predict(model: nn.Module, inputs: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """model(inputs), a batch at a time: float [n, ...] on the model's device."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        return torch.cat([model(batch.to(device).float()) for batch in inputs.split(batch_size)])


# --- Feature Maps


def drop_block(
    maps: torch.Tensor, generator: torch.Generator, grid: tuple[int, int], block: int, rate: float
) -> torch.Tensor:
    """Masked mean of patch features with square blocks of the map left out: [n, P, C] -> [n, C].

    Each block of `block` x `block` patches is left out with a probability that leaves 1 - `rate` of the map on average
    (Ghiasi, Lin & Le 2018, equation 1). An image that would lose everything keeps its whole map.
    """
    h, w = grid
    block = min(block, h, w)
    gamma = rate / block**2 * (h * w) / ((h - block + 1) * (w - block + 1))
    centres = torch.rand(len(maps), 1, h - block + 1, w - block + 1, generator=generator) < gamma
    left_out = F.max_pool2d(F.pad(centres.float(), [block - 1] * 4), block, stride=1)
    kept = (1 - left_out).flatten(1).to(maps.device)
    kept = torch.where(kept.sum(1, keepdim=True) > 0, kept, 1.0)
    return masked_mean(maps, kept)


def masked_mean(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of patches [n, P, C] with weights [n, P] or [n, k, P]: [n, C] or [n, k, C], zero where none is kept."""
    total = weights.sum(-1, keepdim=True)
    single = weights.ndim == 2
    summed = (weights[:, None] if single else weights).to(features.dtype) @ features
    return (summed[:, 0] if single else summed) / total.clamp(min=1e-12)


def prominent_channels(
    features: torch.Tensor, count: int = 5, threshold: float = 0.9
) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature Maps' parts: the channels of highest norm over the patches, each where it is near its maximum.

    features [n, P, C] -> regions bool [n, count, P], channels int64 [n, count], strongest first. Appendix D.2.
    """
    _require_features(features, features.shape[-1])
    if not 1 <= count <= features.shape[2]:
        raise UserError(f"{count} channels were asked of {features.shape[2]}; ask for 1 to that many.")
    channels = features.norm(dim=1).topk(count, dim=1).indices
    maps = features.gather(2, channels[:, None].expand(-1, features.shape[1], -1)).mT
    return near_maximum(maps, threshold), channels


def near_maximum(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Where maps [..., P], scaled to 0..1 over the patches, reach `threshold`: bool; nowhere in a constant map."""
    if not 0 < threshold <= 1:
        raise UserError(f"threshold = {threshold} was given; expected more than 0, at most 1.")
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    return (high > low) & (maps - low >= threshold * (high - low))


# --- what a bottleneck explains


def contributions(model: Bottleneck, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each descriptor adds to the predicted class, U * w [n, D]; that class, [n]; the attention, [n, D, P]."""
    with torch.inference_mode():
        features = features.to(next(model.parameters()).device).float()
        amounts = model.concepts(features)
        predicted = model.classifier(amounts).argmax(1)
        return amounts * model.classifier.weight[predicted], predicted, model.attention(features)


# --- label-free CBM (Oikarinen et al. 2023)


def cubed_cosine(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cosine of the cubed, centred columns of two matrices [n, D]: float [D] (equation 2 there)."""
    one, other = ((x - x.mean(0)) ** 3 for x in (found, wanted))
    return (one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0)).clamp(min=1e-12)


def project(
    vectors: torch.Tensor, wanted: torch.Tensor, steps: int = 1000, rate: float = 1e-3, seed: int = 0
) -> torch.Tensor:
    """Linear map [C, D] whose outputs vary over the images like `wanted` [n, D]: Adam on `cubed_cosine`."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(vectors.shape[1], wanted.shape[1], generator=generator) / vectors.shape[1] ** 0.5
    weight = weight.to(vectors.device).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=rate)
    for _ in range(steps):
        loss = -cubed_cosine(vectors @ weight, wanted).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return weight.detach()


def sparse_classifier(
    amounts: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    penalty: float = 7e-4,
    mix: float = 0.99,
    steps: int = 500,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression with an elastic net: weight [D, classes], bias [classes].

    Minimises mean cross-entropy + penalty * (mix |W|_1 + (1 - mix)/2 |W|^2) by accelerated proximal gradient (Beck &
    Teboulle 2009), which has the minimum that the original's GLM-SAGA seeks. amounts [n, D] standardised.
    """
    target = F.one_hot(labels, classes).to(amounts.dtype)
    one = amounts.new_ones(len(amounts), 1)
    rows = torch.cat([amounts, one], 1)
    # the cross-entropy's curvature is at most half the largest squared singular value over n
    step = 1 / (0.5 * torch.linalg.matrix_norm(rows, 2) ** 2 / len(rows) + penalty)
    weight = before = rows.new_zeros(rows.shape[1], classes)
    momentum = 1.0
    for _ in range(steps):
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = weight + (momentum - 1) / following * (weight - before)
        gradient = rows.T @ ((rows @ ahead).softmax(1) - target) / len(rows)
        gradient[:-1] += penalty * (1 - mix) * ahead[:-1]
        before, momentum = weight, following
        weight = ahead - step * gradient
        weight[:-1] = F.softshrink(weight[:-1], float(step) * penalty * mix)
    return weight[:-1], weight[-1]


def label_free(
    vectors: torch.Tensor,
    labels: torch.Tensor,
    similarities: torch.Tensor,
    classes: int,
    seed: int = 0,
    cutoff: float = CUTOFF,
    penalty: float = 7e-4,
) -> dict[str, torch.Tensor]:
    """A label-free CBM: dict of project [C, D'], mean and std [D'], weight [D', classes], bias, kept bool [D].

    vectors [n, C]: of the backbone; similarities [n, D]: CLIP's of image and descriptor, which stand in for labels. One
    image in ten is held out; descriptors whose projection has a `cubed_cosine` below `cutoff` there are left out.
    Raises UserError when none is left.
    """
    held = torch.arange(len(vectors)) % 10 == 9
    if held.sum() < 2:
        raise UserError(f"{len(vectors)} images are too few for a label-free CBM; give at least 20.")
    weight = project(vectors[~held], similarities[~held], seed=seed)
    kept = cubed_cosine(vectors[held] @ weight, similarities[held]) >= cutoff
    if not kept.any():
        raise UserError(f"No descriptor's projection reaches the cutoff {cutoff}; give a lower one.")
    amounts = vectors @ weight[:, kept]
    mean, std = amounts.mean(0), amounts.std(0)
    head, bias = sparse_classifier((amounts - mean) / std, labels, classes, penalty)
    return {"project": weight[:, kept], "mean": mean, "std": std, "weight": head, "bias": bias, "kept": kept}


def label_free_logits(model: dict[str, torch.Tensor], vectors: torch.Tensor) -> torch.Tensor:
    """Logits [n, classes] of what `label_free` returns."""
    return (vectors @ model["project"] - model["mean"]) / model["std"] @ model["weight"] + model["bias"]


def _require_features(features: torch.Tensor, width: int, finite: bool = True) -> None:
    if features.ndim != 3 or features.shape[2] != width:
        raise UserError(f"Patch features {list(features.shape)} were given; expected [images, patches, {width}].")
    if finite and not torch.isfinite(features).all():  # a training says so itself, at a fraction of the cost
        raise UserError("The patch features contain NaN or infinite values; check the weights and the precision.")
