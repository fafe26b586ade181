"""CLIP: an image tower and a text tower with a joint space."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import open_clip
import torch
from torch import nn
from torch.nn import functional as F

from lib import store
from lib.data.digests import sha256
from lib.models import weights
from lib.models.catalogue import MINIATURE, Choice, register_miniatures
from lib.models.features import unprojected_texts
from lib.models.vision import Opened, View, Vision
from lib.progress import progress

VOCABULARY = MINIATURE / "vocabulary.txt.gz"


class Clip(Vision):
    """A CLIP model for inference: `Vision`, and the text side of the joint space.

    logit_scale (float); tokenizer (function from texts to token ids).
    """

    model: Any

    def __init__(self, model: Any, opened: Opened):
        settings, tag = open_clip.get_model_config(opened.choice.architecture), weights.pretrained(opened.choice)
        mean = tuple(tag.get("mean", open_clip.OPENAI_DATASET_MEAN))
        std = tuple(tag.get("std", open_clip.OPENAI_DATASET_STD))
        view = View(int(np.max(model.visual.image_size)), mean, std)
        super().__init__(model, model.visual, opened, settings["embed_dim"], view)
        self.logit_scale = float(model.logit_scale.exp())
        self.tokenizer = _tokenizer(opened.choice, settings["text_cfg"].get("context_length", 77))

    def embed_texts(
        self, texts: Iterable[str], batch_size: int = 256, cached: bool = True, projected: bool = True
    ) -> torch.Tensor:
        """Text embeddings float32 [m, c], rows of norm 1. texts: already in their prompts.

        projected: False for the features before the last projection into the joint space, not normalised.
        """
        texts = list(texts)

        def compute() -> dict[str, torch.Tensor]:
            tokens = self.tokenizer(texts)
            order = tokens.argmax(1).argsort(stable=True)  # by length: half of a mixed batch would be padding
            parts = progress(order.split(batch_size), f"texts by {self.name}")
            with nullcontext() if projected else unprojected_texts(self.name, self.model):
                rows = torch.cat([self._encode_tokens(tokens[part]) for part in parts])[order.argsort()]
            return {"embeddings": F.normalize(rows, dim=-1) if projected else rows}

        if not texts:
            return torch.empty(0, self.width, device=self.device)
        if not cached:
            return compute()["embeddings"]
        about = {"n": len(texts), "first": texts[:3], "texts": store.digest(texts), "projected": projected}
        key = {"kind": "text_embeddings", "model": self.decides, **about}
        return store.tensors(key, compute)["embeddings"].to(self.device)

    @torch.inference_mode()
    def _encode_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        with self._autocast(), shortened(self.model, tokens.to(self.device)) as tokens:
            return self.model.encode_text(tokens).float()


@contextmanager
def shortened(model: Any, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
    """Token ids [n, length] up to the last end of text among them, while the text tower expects no more.

    A token sees none that come after it, and the end of the text is what is read: the padding changes nothing, but
    most of the time would go into it. Other towers than CLIP's own get all of it.
    """
    if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax" or model.attn_mask is None:
        yield tokens
        return
    length, whole, mask = int(tokens.argmax(1).max()) + 1, model.positional_embedding, model.attn_mask
    model.positional_embedding = nn.Parameter(whole[:length], requires_grad=False)
    model.attn_mask = mask[:length, :length]
    try:
        yield tokens[:, :length]
    finally:
        model.positional_embedding, model.attn_mask = whole, mask


def load(opened: Opened) -> Clip:
    """The Clip that an Opened stands for. Raises UserError for weights of another architecture."""
    model = untrained(opened.choice.architecture, opened.seed)
    if opened.path:
        weights.fill_clip(model, opened.path, opened.choice.architecture)
    return Clip(model, opened)


def about(choice: Choice) -> dict[str, Any]:
    """What of open_clip's settings and of the vocabulary decides a model, for its identity."""
    register_miniatures()
    settings = [open_clip.get_model_config(choice.architecture), weights.pretrained(choice)]
    return {"settings": store.digest(settings), "vocabulary": sha256(VOCABULARY) if choice.miniature else None}


def untrained(architecture: str, seed: int) -> Any:
    """open_clip's model of an architecture, weights drawn from `seed`."""
    register_miniatures()
    with torch.random.fork_rng(devices=[]), weights.quiet():
        torch.manual_seed(seed)
        return open_clip.create_model(architecture, load_weights=False)


def _tokenizer(choice: Choice, length: int) -> Callable:
    if choice.miniature:
        return open_clip.SimpleTokenizer(bpe_path=str(VOCABULARY), context_length=length)
    return open_clip.get_tokenizer(choice.architecture)
