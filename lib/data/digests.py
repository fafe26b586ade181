"""sha256 of files by their content, read once: what is known is kept while a file's size and time stay."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lib import store

THREADS = 8  # reading files waits for the disk more than it computes
_known: dict[tuple[str, int, int], str] = {}  # (path, size, time) -> sha256


def sha256(path: str | Path) -> str:
    """sha256 (hex) of a file. Raises OSError where it cannot be read."""
    return of_files([Path(path)])[0]


def of_files(paths: Sequence[Path]) -> list[str]:
    """sha256 (hex) of each file. Those of a folder are one entry of the store, so that few are read again."""
    entries = [_entry(path) for path in paths]
    unknown: dict[Path, list[tuple[str, int, int]]] = {}
    for path, entry in zip(paths, entries, strict=True):
        if entry not in _known:
            unknown.setdefault(path.parent, []).append(entry)
    for folder, wanted in unknown.items():
        names = [[Path(path).name, size, changed] for path, size, changed in wanted]
        key = {"kind": "digests", "folder": str(folder.resolve()), "files": names}
        rows = store.tensors(key, partial(_read, [path for path, _, _ in wanted]))["sha256"]
        _known.update(zip(wanted, (bytes(row).hex() for row in rows.numpy()), strict=True))
    return [_known[entry] for entry in entries]


def _entry(path: Path) -> tuple[str, int, int]:
    about = path.stat()
    return str(path), about.st_size, about.st_mtime_ns


def _read(paths: list[str]) -> dict[str, torch.Tensor]:
    """The digests, "sha256" uint8 [n, 32]."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(_digest, paths))
    return {"sha256": torch.from_numpy(np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32).copy())}


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
