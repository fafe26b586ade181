"""Labelled images and the words that belong to them: the bestiary, the papers' datasets, any image folder."""

from lib.data.chunks import by_chunks
from lib.data.dataset import DEFAULT_PROMPT, DEFAULT_TEMPLATES, ImageDataset, spread, whole_classes
from lib.data.digests import THREADS, sha256
from lib.data.downloads import download
from lib.data.folders import entries
from lib.data.loading import check, load, names
from lib.data.shifts import Shift, aligned
from lib.data.shifts import published as published_shifts

__all__ = [
    "DEFAULT_PROMPT",
    "DEFAULT_TEMPLATES",
    "THREADS",
    "ImageDataset",
    "Shift",
    "aligned",
    "by_chunks",
    "check",
    "download",
    "entries",
    "load",
    "names",
    "published_shifts",
    "sha256",
    "spread",
    "whole_classes",
]
