"""Files from elsewhere, data/downloads.csv: fetched once, verified by their sha256."""

import csv
import hashlib
import logging
from functools import lru_cache
from pathlib import Path

from lib.errors import UserError, nearest
from lib.paths import DATA, download_folder


@lru_cache
def rows() -> dict[str, dict[str, str]]:
    """data/downloads.csv: name -> row."""
    with open(DATA / "downloads.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def download(name: str) -> Path:
    """Path of a file of data/downloads.csv, fetched once into `download_folder()` and verified by sha256.

    Raises UserError for an unknown name, and where the file can be put when it cannot be fetched.
    """
    if name not in rows():
        raise UserError(f"'{name}' is not in data/downloads.csv.{nearest(name, rows())}")
    row = rows()[name]
    path = download_folder() / row["file"]
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
        return path
    import pooch  # only here: slow to load, and rarely needed

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        fetch = pooch.HTTPDownloader(timeout=15)
        pooch.retrieve(row["address"], f"sha256:{row['sha256']}", path.name, path.parent, downloader=fetch)
    except Exception as error:  # no network, no permission, another file at the address
        state = "is damaged" if path.is_file() else "is not there"
        raise UserError(
            f"{path} {state} and could not be fetched from {row['address']} ({type(error).__name__}); "
            f"fetch it elsewhere and put it there, or set COMPANION_DOWNLOADS to a folder with {row['file']}."
        ) from None
    return path
