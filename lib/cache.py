"""Computed tensors on disk, found again by everything that decides them."""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.errors import note
from lib.paths import cache_folder


def canonical(key):
    """JSON text that is the same for equal keys, whatever the order in which they were written."""
    return json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(key):
    """sha256 (hex) of a key: a dict of JSON values."""
    return hashlib.sha256(canonical(key).encode()).hexdigest()


def digest_tensors(tensors):
    """sha256 (hex) of named tensors: names in order, each with its type, shape and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def tensors(key, compute):
    """The tensors that belong to `key`, read from disk or computed and kept.

    key: dict of JSON values with "kind" (the folder's name) and all that decides the result. compute:
    function without arguments, returns dict of str to tensor. Returns that dict, on the CPU. A file that is
    damaged is computed again and a folder that cannot be written is done without; both say so on stderr.
    """
    found = kept(key)
    if found is not None:
        return found
    sha = digest(key)
    path = _path(key, sha)
    # cloned, because safetensors refuses tensors that share memory
    result = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in compute().items()}
    try:
        _write(path, sha, key, result)
    except (OSError, SafetensorError) as error:
        note(f"The result of {key['kind']} is not kept: {path.parent} cannot be written ({_reason(error)}).")
    return result


def kept(key):
    """The tensors that belong to `key` if they are on disk, else None. A damaged file counts as none."""
    sha = digest(key)
    path = _path(key, sha)
    try:
        return _read(path, sha)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with a cache file, the answer is to compute it again
        note(f"Cache file {path.name} of {key['kind']} is damaged ({_reason(error)}); it is computed again.")
        return None


def _path(key, sha):
    return cache_folder() / str(key["kind"]) / f"{sha}.safetensors"


def _read(path, sha):
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        result = {name: file.get_tensor(name) for name in file.keys()}
    if about.get("key") != sha:
        raise ValueError("it belongs to another key")
    if about.get("content") != digest_tensors(result):
        raise ValueError("its checksum differs")
    return result


def _write(path, sha, key, result):
    """Both files appear whole or not at all; of two writers the last one stands, with an equal result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"key": sha, "content": digest_tensors(result)}
    _replace(path, lambda temporary: save_file(result, temporary, metadata=about))
    readable = {**key, "tensors": {n: [str(t.dtype), list(t.shape)] for n, t in result.items()}, **about}
    text = json.dumps(readable, indent=1, sort_keys=True)
    _replace(path.with_suffix(".json"), lambda temporary: Path(temporary).write_text(text))


def _replace(path, write):
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(str(temporary))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
