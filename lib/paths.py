"""Where things are: the project's own files, and the folders that an environment variable can move."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()


def cache_folder() -> Path:
    """Computed tensors that can be thrown away; COMPANION_CACHE moves it."""
    return _folder("COMPANION_CACHE", DATA / "cache")


def results_folder(dataset: str) -> Path:
    """Records of one dataset; COMPANION_RESULTS moves the folder above it."""
    return _folder("COMPANION_RESULTS", DATA / "results") / dataset


def download_folder() -> Path:
    """Files fetched from their public addresses; COMPANION_DOWNLOADS moves it."""
    return _folder("COMPANION_DOWNLOADS", DATA / "cache" / "downloads")


def datasets_folder() -> Path:
    """Images at paper scale (imagenet/, places365/, food101/); COMPANION_DATASETS moves it."""
    return _folder("COMPANION_DATASETS", DATA / "cache" / "datasets")
