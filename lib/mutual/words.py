"""The words that belong to images, as a CLIP embeds them: class names, descriptors, and how many a class lists."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.data import ImageDataset
from lib.models import Clip, heads

LARGE_BANK = 500  # descriptors: from there on the released notebook's 50 are a small part of the bank


def classifier(clip: Clip, images: ImageDataset) -> torch.Tensor:
    """The zero-shot classifier of the images' classes: float32 [classes, c]."""
    return heads.classifier(clip, images.classes, images.templates)


def predictions(clip: Clip, images: ImageDataset) -> np.ndarray:
    """The zero-shot class of each image: int64 [n]."""
    return (clip.embed_images(images) @ classifier(clip, images).T).argmax(1).cpu().numpy()


def concepts(clip: Clip, images: ImageDataset) -> torch.Tensor:
    """The descriptors of the bank, in the prompt for descriptors: float32 [bank, c]."""
    return clip.embed_texts([images.descriptor_prompt.format(text) for text in images.bank])


def language_scores(clip: Clip, images: ImageDataset) -> torch.Tensor:
    """Similarity of each class's text and each descriptor's, on the CPU: float32 [classes, bank]."""
    return (classifier(clip, images) @ concepts(clip, images).T).cpu()


def language_size(images: ImageDataset, top_u: int = 0) -> int:
    """How many descriptors the language side lists (M): `top_u`, or for 0 the default of this bank; never the whole.

    50 in the released notebook, for a bank of thousands. A small bank would be half used up by 50: there it is the
    number of descriptors that an average class has.
    """
    average = round(float(np.mean([len(texts) for texts in images.descriptors])))
    return min(top_u or (50 if len(images.bank) >= LARGE_BANK else average), len(images.bank))


def lines(images: ImageDataset, **columns: Any) -> pd.DataFrame:
    """A line an image: its number, its class, and `columns`. Every table of observations starts so."""
    return pd.DataFrame({"image": np.arange(len(images)), "class": np.array(images.classes)[images.labels], **columns})
