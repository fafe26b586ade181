"""What every test shares: folders of its own, few threads, and the real data where a machine has it."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.paths import ROOT

REAL = Path(os.environ.get("COMPANION_DOWNLOADS") or ROOT.parent / "shared" / "real")


def pytest_collectstart():
    """Before a test module imports open_clip, timm or torchvision. With workers only they do, so the rest is spared."""
    from lib.models import operators  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory):
    """No test reads or writes the project's own cache and records; notebooks under test inherit this.

    The cache is one for all workers: its entries are found by their content.
    """
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_CACHE", str(shared / "cache"))
        patch.setenv("COMPANION_RESULTS", str(folder / "results"))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread a process, pages under test included: on busy cores more wait for each other, many times as long."""
    import torch

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def real():
    """real(name): path of a copy of a public file, or skip by that name."""

    def path(name):
        if not (REAL / name).exists():
            pytest.skip(f"no {name} in {REAL}")
        return REAL / name

    return path


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty cache folder for one test."""
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_folder(tmp_path):
    """make_folder({"cat": 2, "dog": 1}): an image folder with so many small images a class."""

    def make(counts, name="photos", suffix=".png"):
        rng = np.random.default_rng(0)
        for folder, count in counts.items():
            (tmp_path / name / folder).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                image.save(tmp_path / name / folder / f"{i}{suffix}")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """An image folder of the photographs that scikit-learn and scikit-image ship, one class each."""
    sklearn_images = Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images"
    skimage_images = Path(pytest.importorskip("skimage.data").__file__).parent
    shipped = {
        "temple": sklearn_images / "china.jpg",
        "flower": sklearn_images / "flower.jpg",
        "astronaut": skimage_images / "astronaut.png",
        "cat": skimage_images / "chelsea.png",
        "coffee": skimage_images / "coffee.png",
        "rocket": skimage_images / "rocket.jpg",
    }
    root = tmp_path_factory.mktemp("photographs")
    for name, file in shipped.items():
        (root / name).mkdir()
        shutil.copy(file, root / name / file.name)
    return root
