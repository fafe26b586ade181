"""Everything computed, on disk: tensors by key, and records (a table, tensors and a JSON card).

Each is whole or not there, is verified when read, and holds nothing that could run. A damaged file counts as none and
is named; a folder that cannot be written is done without. Two processes that want the same thing wait for each other.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors

from lib import code
from lib.errors import UserError, note
from lib.paths import cache_folder

PATIENCE = 10  # seconds after which a process that waits says so


@dataclass
class Seen:
    """What an observe function saw of one model.

    table: one line for each thing seen, plain columns. tensors: named arrays that are no table. notes: JSON values.
    """

    table: pd.DataFrame
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


# --- keys


def canonical(key: Any) -> str:
    """JSON text that is the same for equal keys, whatever the order in which they were written."""
    return json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(key: Any) -> str:
    """sha256 (hex) of a key: any JSON value."""
    return hashlib.sha256(canonical(key).encode()).hexdigest()


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 (hex) of named tensors: names in order, each with its type, shape and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


# --- tensors


def tensors(key: dict, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors that belong to `key`, read from disk or computed and kept; on the CPU.

    key: JSON values with "kind" (the folder's name) and all that decides the result but the code, which is taken from
    `compute`: function without arguments, returns tensors by name.
    """
    key = {**key, "code": code.of(compute)}
    sha = digest(key)
    path = cache_folder() / str(key["kind"]) / f"{sha}.safetensors"
    found = _kept(path, sha)
    if found is not None:
        return found
    with alone(sha, key["kind"]) as waited:
        found = _kept(path, sha) if waited else None
        if found is not None:
            return found
        # cloned, because safetensors refuses tensors that share memory
        result = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in compute().items()}
        about = {"key": sha, "content": digest_tensors(result)}
        shapes = {name: [str(t.dtype), list(t.shape)] for name, t in result.items()}
        try:
            replace(path, save_tensors(result, metadata=about))
            replace(path.with_suffix(".json"), json.dumps({**key, "tensors": shapes, **about}, indent=1).encode())
        except (OSError, SafetensorError) as error:
            note(f"The result of {key['kind']} is not kept: {path.parent} cannot be written ({_reason(error)}).")
    return result


def _kept(path: Path, sha: str) -> dict[str, torch.Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            result = {name: file.get_tensor(name) for name in file.keys()}
        if about.get("key") != sha or about.get("content") != digest_tensors(result):
            raise ValueError("its checksum differs")
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with a cache file, the answer is to compute it again
        note(f"Cache file {path.name} of {path.parent.name} is damaged ({_reason(error)}); it is computed again.")
        return None
    return result


# --- records


def write_record(path: Path, seen: Seen, card: dict) -> dict:
    """Write a record and return its card as it stands on disk.

    path: of the JSON card; table and tensors stand beside it, with the start of their sha256 in their names, so that
    a card never meets the table of another run. Raises OSError where the folder cannot be written.
    """
    files = {"table": (".parquet", seen.table.to_parquet(index=False))}
    if seen.tensors:
        arrays = {name: np.ascontiguousarray(array) for name, array in seen.tensors.items()}
        files["tensors"] = (".safetensors", save_arrays(arrays))
    entry = {**card, "notes": seen.notes, "files": {}}
    for kind, (suffix, content) in files.items():
        sha = hashlib.sha256(content).hexdigest()
        name = f"{path.stem}.{sha[:12]}{suffix}"
        replace(path.parent / name, content)
        entry["files"][kind] = {"name": name, "sha256": sha}
    text = json.dumps(entry, indent=1, default=_plain, allow_nan=False)
    replace(path, text.encode())
    kept = {about["name"] for about in entry["files"].values()}
    for old in path.parent.glob(f"{path.stem}.*"):
        if old.suffix in (".parquet", ".safetensors") and old.name not in kept:
            old.unlink(missing_ok=True)
    return json.loads(text)


def read_record(path: Path) -> tuple[dict, Seen] | None:
    """The card and the content of the record at `path`; None where there is none or where it is damaged."""
    card = read_card(path)
    if card is None:
        return None
    try:
        files = card["files"].items()
        content = {kind: _verified(path.parent / about["name"], about["sha256"]) for kind, about in files}
        table = pd.read_parquet(content["table"])
        return card, Seen(table, load_arrays(content["tensors"]) if "tensors" in content else {}, card["notes"])
    except Exception as error:  # whatever is wrong with a record, the answer is to compute it again
        note(f"The record {path.name} is damaged ({_reason(error)}); it is computed again.")
        return None


def read_card(path: Path) -> dict | None:
    """The card at `path`, without its table; None where there is none or where it is damaged, which is said."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["files"]["table"], card["notes"], card["opened"], card["key"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        note(f"The record {path.name} is damaged ({_reason(error)}); it is computed again.")
        return None
    return card


def _verified(path: Path, sha: str) -> Any:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha:
        raise ValueError(f"{path.name} changed")
    return content if path.suffix == ".safetensors" else _buffer(content)


def _buffer(content: bytes) -> Any:
    from io import BytesIO

    return BytesIO(content)


# --- files


def replace(path: Path, content: bytes) -> None:
    """Put bytes at `path` whole or not at all: what stood there stays until the new file is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


@contextmanager
def alone(sha: str, what: str) -> Iterator[bool]:
    """Hold the lock of `sha` while computing `what`; yields whether another process had it, and so may have finished.

    Where no lock can be taken (a read-only folder) it is done without: then both compute, and one result stands.
    """
    lock = FileLock(cache_folder() / "locks" / f"{sha[:32]}.lock")
    waited = False
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waited = True
            try:
                lock.acquire(timeout=PATIENCE)
            except Timeout:
                note(f"Another process computes {what}; waiting for it.")
                lock.acquire()
    except OSError:
        pass
    try:
        yield waited
    finally:
        lock.release()


# --- what may be opened

_handed: list[str] = []  # functions that are being measured: what they open has to be handed to them


def must_be_handed(what: str) -> None:
    """Refuse to open a model or an image set inside a measurement that was not handed it.

    Only so does a record know everything that decided it. Called by `lib.models.load` and `lib.data.load`.
    """
    if _handed:
        raise UserError(
            f"{_handed[-1]} opened {what} by itself, so that its record would not know of it; open it with what "
            "`measure` hands over: given.open_model(name), given.open_images(split)."
        )


@contextmanager
def measuring(function: str | None) -> Iterator[None]:
    """While it lasts nothing is opened by name; None lifts this for what is opened by way of what is handed over."""
    before = list(_handed)
    _handed[:] = [function] if function else []
    try:
        yield
    finally:
        _handed[:] = before


def _plain(x: Any) -> Any:
    if isinstance(x, np.floating):
        return float(x) if math.isfinite(x) else None
    if isinstance(x, np.generic):
        return x.item()
    return x.tolist() if isinstance(x, np.ndarray) else str(x)


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
