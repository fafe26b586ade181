"""The pages on CLIP-Dissect through papermill: small runs, refusals, missing files, claims."""

import json
import os

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lib.book import ledger
from tests.notebooks.running import small
from tests.processes import Program

PAGES = ("dissection", "neurons", "missing_concepts", "describe_class", "dissection_places")


def run(exhibit, folder, downloads=None, **parameters):
    """Execute a page with its small parameters: (finished process, page as a dict or None)."""
    page = folder / f"{exhibit}.ipynb"
    options = [x for name, value in (small(exhibit) | parameters).items() for x in ("-p", name, str(value))]
    places = {"COMPANION_RESULTS": str(folder / "results"), "COMPANION_DOWNLOADS": str(downloads or folder / "none")}
    # an address that refuses at once stands for a machine without a network
    places |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    program = Program("lib.book.pages", exhibit, page, *options, folder=folder, environment=os.environ | places)
    done = program.finish()
    return done, json.loads(page.read_text()) if page.exists() else None


def shown(page):
    """All Markdown that a page's cells show, and what they wrote to stderr."""
    outputs = [o for c in page["cells"] for o in c.get("outputs", [])]
    text = ["".join(o["data"].get("text/markdown", "")) for o in outputs if "data" in o]
    errors = ["".join(o["text"]) for o in outputs if o.get("name") == "stderr"]
    return "\n".join(text), "".join(errors)


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", PAGES)
def test_a_page_runs_and_judges_its_claims(exhibit, tmp_path):
    done, page = run(exhibit, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    text, errors = shown(page)
    assert not errors and f"tab-{exhibit.replace('_', '-')}-claims" in text
    assert all(claim["statement"] in text for claim in ledger.claims(exhibit))
    assert list((tmp_path / "results").rglob("*.parquet"))
    if exhibit == "dissection_places":  # without the published files it says so and runs the rest
        assert "not run" in text and "could not be fetched" in text and "| 43.8 |" in text


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", ["dissection", "neurons"])
def test_a_page_runs_on_images_and_a_network_of_ones_own(exhibit, tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog", "fish")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.clip(rng.normal(60 + 60 * k, 40, (48, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "words.txt").write_text("a cat\na dog\nsky\ngrass\n")
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "network.pth")
    tiny = "ViT-S-32-alt:random"
    given = {"dataset": tmp_path / "photos", "model": f"torchvision/resnet18:{tmp_path / 'network.pth'}", "clip": tiny}
    given |= {"concepts": tmp_path / "words.txt", "limit": 0, "probe_images": 0}
    given |= {"judge": tiny, "concepts": f"classes,{tmp_path / 'words.txt'}"} if exhibit == "dissection" else {}
    given |= {"layers": "layer4", "towers": ""} if exhibit == "neurons" else {}
    done, page = run(exhibit, tmp_path, **given)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Own images scale" in shown(page)[0]


@pytest.mark.slow
def test_a_neuron_that_is_not_there_is_refused_in_one_sentence(tmp_path):
    done, page = run("neurons", tmp_path, unit=256)
    assert done.returncode != 0 and page is None
    assert "visual.layer4 has no neuron 256; it has 256, from 0 to 255" in done.stderr
    assert len([x for x in done.stderr.splitlines() if "UserError" in x]) == 1


@pytest.mark.slow
def test_table_2_from_the_published_files(tmp_path, real):
    folder = real("labels_NetDissect_resnet18_places365_fc.csv").parent
    done, page = run("dissection_places", tmp_path, downloads=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    text, errors = shown(page)
    assert "| released | 117 | 267 | 43.82 |" in text and "| mended | 141 | 267 | 52.81 |" in text
    assert "| ResNet-50 | all | 3904 | 1110 | 77.77 | 100.00 |" in text and "69.73" in text and not errors
    assert "61 classes with a hyphen" in text


def test_every_claim_of_this_paper_has_a_page_that_tests_it():
    claims = [c for c in ledger.claims() if c["paper"] == "oikarinen2023clipdissect"]
    assert {c["exhibit"] for c in claims} == set(PAGES)
    assert all(c["id"].startswith("cd-") and c["evidence"] for c in claims)
