"""What the general notebook tests don't ask of this wing's pages: refusals, missing files, claims."""

import json
import os
import subprocess
import sys

import pytest

from lib import notebook
from lib.errors import UserError
from lib.report import published

FEW = {"limit": 6, "model": "RN50-supervised", "clip": "ViT-B-32"}


def run(exhibit, folder, downloads=None, **parameters):
    """Execute an exhibit with few images: (finished process, page as a dict or None)."""
    page = folder / f"{exhibit}.ipynb"
    given = FEW | parameters
    options = [x for name, value in given.items() for x in ("-p", name, str(value))]
    places = {"COMPANION_RESULTS": str(folder / "results"), "COMPANION_DOWNLOADS": str(downloads or folder / "none")}
    # an address that refuses at once stands for a machine without a network
    places |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "lib.notebook", exhibit, str(page), *options]
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, timeout=600)
    return done, json.loads(page.read_text()) if page.exists() else None


def shown(page):
    """All Markdown that a page's cells show, and what they wrote to stderr."""
    outputs = [o for c in page["cells"] for o in c.get("outputs", [])]
    text = ["".join(o["data"].get("text/markdown", "")) for o in outputs if "data" in o]
    errors = ["".join(o["text"]) for o in outputs if o.get("name") == "stderr"]
    return "\n".join(text), "".join(errors)


@pytest.mark.parametrize(
    "parameters, sentence",
    [
        ({"unit": 256}, "visual.layer4 has no neuron 256; it has 256, from 0 to 255"),
        ({"layer": "layer4"}, "has no layer 'layer4'"),
        ({"clip": "RN50-supervised"}, "RN50-supervised reads no text"),
        ({"concepts": "descriptor"}, "Did you mean 'descriptors'"),
    ],
)
def test_a_neuron_that_is_not_there(parameters, sentence, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    with pytest.raises(UserError, match=sentence):
        notebook.compute("neurons", **{**FEW, "resamples": 2, **parameters})
    assert not list(tmp_path.rglob("*.json"))


def test_table_2_without_the_published_files_says_so_and_runs_the_rest(tmp_path):
    done, page = run("dissection_places", tmp_path, probe_images=96)
    assert done.returncode == 0, done.stderr[-2000:]
    text, errors = shown(page)
    assert "not run" in text and "could not be fetched" in text and not errors
    assert "Network Dissection | 43.82" in text and "tab-netdissect" in text


def test_table_2_from_the_published_files(tmp_path, real):
    folder = real("labels_NetDissect_resnet18_places365_fc.csv").parent
    done, page = run("dissection_places", tmp_path, downloads=folder, probe_images=96)
    assert done.returncode == 0, done.stderr[-2000:]
    text, errors = shown(page)
    assert "| released | 117 | 267 | 43.82 |" in text and "| mended | 141 | 267 | 52.81 |" in text
    assert "| ResNet-50 | all | 3904 | 1110 | 77.77 | 100.00 |" in text and "69.73" in text and not errors


def test_every_claim_of_this_paper_has_a_page_that_tests_it():
    claims = [c for c in published.claims() if c["paper"] == "oikarinen2023clipdissect"]
    assert {c["exhibit"] for c in claims} == {"dissection", "dissection_places", "missing_concepts", "describe_class"}
    assert all(c["id"].startswith("cd-") and c["evidence"] for c in claims)
