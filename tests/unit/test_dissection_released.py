"""Counts from the authors' published label files, where this machine has them."""

import pandas as pd
import pytest

from lib.dissection import inputs, released
from lib.given import Given
from lib.show import published


@pytest.fixture
def downloads(real, monkeypatch):
    """Files are taken from the copies of this machine."""
    folder = real("labels_NetDissect_resnet18_places365_fc.csv").parent
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(folder))


@pytest.mark.parametrize(
    "target, neurons, share, layers",
    [
        ("ResNet-50", 3904, 77.77, [70.31, 45.70, 48.63, 66.70, 94.82]),
        ("ResNet-18 (Places365)", 1024, 69.73, [32.81, 37.50, 43.75, 52.34, 93.55]),
    ],
)
def test_interpretable_neurons_of_the_published_labels(downloads, target, neurons, share, layers):
    found = released.by_layer(released.labels(released.TARGETS[target])).set_index("layer")
    assert found.loc["all", "neurons"] == neurons
    assert found.loc["all", "interpretable"] == pytest.approx(share, abs=0.005)
    assert found["interpretable"][:-1].tolist() == pytest.approx(layers, abs=0.005)
    assert found["quantised"].tolist() == [100.0] * 6


def test_different_labels_of_each_layer(downloads):
    found = released.by_layer(released.labels(released.TARGETS["ResNet-50"]))
    assert found["labels"].tolist()[:5] == [22, 90, 176, 430, 811]


def test_multiples():
    assert released.multiples([0.5, 0.25, 3 * released.STEP, 0.1]) == 0.75
    assert released.multiples([released.STEP / 2]) == 0


def scored(places):
    """Which labels of `released.places` are right: as the released notebook compares them, and mended."""
    return places["label"] == places["name"].str.replace("-", "/"), places["label"] == places["name"]


def test_table_2_as_released_and_mended(downloads):
    found = released.places()
    notebook, mended = scored(found)
    assert len(found) == 365
    assert (notebook.sum(), mended.sum()) == (117, 141) and (mended | ~notebook).all()
    theirs = published.load("clip_dissect", index=None).query("table == 'Table2'")
    shares = theirs[theirs["metric"].str.endswith("pct") & theirs["source"].str.startswith("official")]
    shares = shares["value"].astype(float)
    fits = [n for n in range(1, 366) if all(abs(p - 100 * round(p * n / 100) / n) < 6e-5 for p in shares)]
    assert fits == [267] and len(shares) == 3  # the only number of classes that all printed shares allow
    shown = theirs[theirs["metric"] == "top1_acc_pct"].set_index("method")["value"].astype(float)
    assert 100 * 117 / 267 == pytest.approx(shown["Network Dissection"], abs=1e-4)
    assert 100 * 141 / 267 == pytest.approx(52.81, abs=0.005)


def test_classes_that_can_never_be_right(downloads):
    found = released.places()
    broden = set(inputs.concepts(Given(""), "broden_labels"))
    assert sum("-" in name and name.replace("_", " ") in broden for name in found["name"]) == 61
    notebook, mended = scored(found)
    assert (mended & ~notebook).sum() == 24 and found["name"][mended & ~notebook].str.contains("-").all()


def test_labels_come_without_the_letter_of_their_category(downloads):
    found = released.places()["label"]
    assert not found.str.contains("-[a-z]$").any() and found.str.contains("-").any()


def test_agreement_between_probes_as_published():
    theirs = published.load("clip_dissect", index=None)
    found = theirs[theirs["table"] == "probe sensitivity"]["value"].astype(float)
    assert [round(x) for x in found] == [56, 54, 58, 45, 21]


def test_published_concepts_have_the_counted_lines(downloads):
    sizes = {name: len(inputs.concepts(Given(""), name)) for name in inputs.PUBLISHED}
    assert sizes == {"3k": 3000, "10k": 9894, "20k": 20000, "broden_labels": 1197, "imagenet_labels": 1000}
    assert inputs.check_concepts(inputs.concepts(Given(""), "broden_labels")) == 44


def test_by_layer_counts():
    frame = pd.DataFrame({"layer": ["a", "a", "b"], "description": ["x", "x", "y"], "similarity": [0.2, 0.1, 0.3]})
    found = released.by_layer(frame, cutoff=0.16)
    assert found["layer"].tolist() == ["a", "b", "all"]
    assert found["labels"].tolist() == [1, 1, 2]
    assert found["interpretable"].tolist() == pytest.approx([50, 100, 200 / 3])
    at = pd.DataFrame({"layer": ["a"], "description": ["x"], "similarity": [0.16]})
    assert released.by_layer(at, cutoff=0.16)["interpretable"].tolist() == [0, 0]  # above, not at
