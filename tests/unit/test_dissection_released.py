"""Counts from the authors' published label files, where this machine has them."""

import pandas as pd
import pytest

from lib.dissection import evaluation, inputs, released
from lib.errors import UserError
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


def test_table_2_as_released_and_mended(downloads):
    found = released.places()
    assert len(found) == 365
    assert (found["released"].sum(), found["mended"].sum()) == (117, 141)
    assert (found["mended"] | ~found["released"]).all()
    theirs = published.load("clip_dissect", index=None)
    accuracy = theirs[
        (theirs["table"] == "Table2") & theirs["metric"].isin(["top1_acc_pct", "top5_count_over_267_pct"])
    ]
    shown = accuracy[~accuracy["method"].str.contains("normalised")]["value"].astype(float)
    assert released.denominators(shown, 365) == [267]
    assert 100 * 117 / 267 == pytest.approx(43.82, abs=0.005) and 100 * 141 / 267 == pytest.approx(52.81, abs=0.005)


def test_classes_that_can_never_be_right(downloads):
    found = released.places()
    broden = set(inputs.concepts(Given(""), "broden_labels"))
    assert sum("-" in name and name.replace("_", " ") in broden for name in found["name"]) == 61
    gained = found[found["mended"] & ~found["released"]]
    assert len(gained) == 24 and gained["name"].str.contains("-").all()


def test_agreement_between_probes_as_published():
    theirs = published.load("clip_dissect", index=None)
    found = theirs[theirs["table"] == "probe sensitivity"]["value"].astype(float)
    assert [round(x) for x in found] == [56, 54, 58, 45, 21]


def test_a_label_without_its_category():
    assert released.without_category("bakery-shop-s") == "bakery-shop"
    assert released.without_category("coast-s") == "coast"
    assert released.without_category("airplane") == "airplane"


def test_scorings_are_named():
    assert released.right("bakery-shop", "bakery-shop") and not released.right("bakery-shop", "bakery-shop", "released")
    assert released.right("alley", "alley", "released")
    with pytest.raises(UserError, match="scoring is 'kind'; give 'released' or 'mended'"):
        released.right("a", "a", "kind")


def test_denominators():
    assert released.denominators([50.0], 5) == [2, 4]
    assert released.denominators([33.3333, 50.0], 7) == [6]


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
    assert evaluation.interpretable([0.16]) == 0  # above, not at
