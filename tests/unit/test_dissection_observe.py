"""Observations of this wing: each column against its definition, at the miniature and for a torchvision network."""

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from lib import models
from lib.dissection import activations, analysis, evaluation, inputs, network, observe, similarity, truth
from lib.dissection.options import Options
from lib.errors import UserError
from lib.given import Given

FEW = {"clip": "ViT-B-32", "judge": "RN50", "probe_images": 96, "resamples": 2}


@pytest.fixture
def given():
    return Given("RN50-supervised", limit=12)


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-32")


def chosen(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    return table.reset_index(drop=True)


def test_last_neurons_of_the_classes_in_the_run(given, clip):
    seen = observe.neurons(given, Options(**FEW, probes="val,web", similarities="cos,soft_wpmi"))
    images, own = given.images, np.unique(given.images.labels)
    keys = ["unit", "probe", "concepts", "similarity"]
    assert len(seen.table) == 12 * 2 * 3 * 2 and not seen.table.duplicated(keys).any()
    q = network.activity(given.model, images, "final", images)
    for name in ("cos", "soft_wpmi"):
        scores = similarity.scores(name, q, clip.embed_images(images), clip.embed_texts(images.classes))
        found = chosen(seen.table, probe="val", concepts="classes", similarity=name)
        assert found["unit"].tolist() == own.tolist()
        label = scores[own].argmax(1)
        assert found["label"].tolist() == [images.classes[k] for k in label]
        assert (found["right"] > 0).tolist() == (label.numpy() == own).tolist()
        rank = [(scores[k] > scores[k, k]).sum().item() + 1 for k in own]
        assert found["rank"].tolist() == rank and found["top5"].tolist() == [100.0 * (r <= 5) for r in rank]
    assert seen.notes["probes"] == {"val": 96, "web": 96, "v2": 96} and seen.notes["concepts"]["words"] == 174
    predicted = q.argmax(1).numpy()
    assert seen.notes["accuracy"] == pytest.approx(100 * np.mean(predicted == images.labels))


def test_labels_that_are_traits_or_common_words(given, clip):
    table = observe.neurons(given, Options(**FEW, probes="val", similarities="soft_wpmi")).table
    images, judge = given.images, models.load("RN50")
    traits = chosen(table, concepts="descriptors")
    true = [label in images.descriptors[k] for label, k in zip(traits["label"], traits["unit"], strict=True)]
    assert traits["true"].tolist() == [100.0 * t for t in true] and traits["right"].isna().all()
    for model, column in ((clip, "cosine"), (judge, "judge_cosine")):
        pair = (model.embed_texts(list(traits[c])) for c in ("label", "class"))
        np.testing.assert_allclose(traits[column], torch.nn.functional.cosine_similarity(*pair), atol=1e-5)
    words = chosen(table, concepts="words")
    every, names = clip.embed_texts(inputs.concepts(given, "words")), clip.embed_texts(list(words["class"]))
    np.testing.assert_allclose(words["random_cosine"], (names @ every.T).mean(1), atol=1e-5)
    assert words[["right", "true", "correlation"]].isna().all(axis=None)  # no image shows a common word
    v2 = given.open_images("v2")
    q, shown = network.activity(given.model, v2, "final", images), truth.present(v2, images.bank)
    unit, column = int(traits["unit"][3]), shown[:, images.bank.index(traits["label"][3])]
    expected = evaluation.held_out(q[:, [unit]].numpy(), column[:, None].numpy())
    assert traits["auprc"][3] == pytest.approx(expected["auprc"][0], nan_ok=True)


def test_without_a_judge_there_is_no_second_cosine(given):
    table = observe.neurons(given, Options(**{**FEW, "judge": ""}, probes="val", similarities="cos")).table
    assert table["judge_cosine"].isna().all() and table["cosine"].notna().all()
    assert ("model", "RN50") not in given.opened


def test_hidden_neurons_against_the_places_where_they_are_active(given):
    options = Options(**FEW, layers="visual.layer3,visual.layer4", probes="usual", concepts="descriptors")
    table = observe.neurons(given, options).table
    assert set(table["depth"]) == {1, 2} and len(chosen(table, depth=1, similarity="cos")) == 128
    bank, found = given.images.bank, chosen(table, layer="visual.layer3", similarity="cos")
    batches = network.batches(given.model, given.images)
    maps = activations.maps(given.model.tower, ["visual.layer3"], batches)["visual.layer3"]
    web = network.activity(given.model, inputs.probe(given, "web", 96), "visual.layer3", given.images).numpy()
    assert found["active"].tolist() == (web > web.min(0)).sum(0).tolist()
    iou = evaluation.iou(maps, truth.masks(given.images, bank)).numpy()
    assert found["best"].tolist() == [bank[k] for k in iou.argmax(1)]
    np.testing.assert_allclose(found["best_iou"], iou.max(1))
    own = [iou[k, bank.index(label)] for k, label in enumerate(found["label"])]
    np.testing.assert_allclose(found["iou"], own)
    assert (found["same"] > 0).tolist() == (found["label"] == found["best"]).tolist()
    parts = found[["label", "best"]].map(truth.part_of().get)
    assert (found["part"] > 0).tolist() == (parts["label"] == parts["best"]).tolist()
    share = found["label"].value_counts(normalize=True)
    assert found["same_chance"].tolist() == pytest.approx([100 * share.get(b, 0) for b in found["best"]])
    assert ("model", "RN50") not in given.opened  # hidden neurons have no name to be compared with


def test_labels_again_from_probes_drawn_again(given, clip):
    options = Options(**FEW, probes="web", concepts="classes", similarities="wpmi")
    table = observe.labels(given, options).table
    web = inputs.probe(given, "web", 96)
    images, texts = clip.embed_images(web), clip.embed_texts(web.classes)
    q, own = network.activity(given.model, web, "final", given.images), np.unique(given.images.labels)
    labels = []
    for draw in range(3):
        some = evaluation.drawn(96, draw, 0)
        label, score = similarity.labels("wpmi", q[some], images[some], texts)
        found = chosen(table, draw=draw)
        labels.append([web.classes[k] for k in label[own]])
        assert found["label"].tolist() == labels[-1]
        np.testing.assert_allclose(found["score"], score[own])
        assert (found["right"] > 0).tolist() == (label[own].numpy() == own).tolist()
        assert (found["kept"] > 0).tolist() == [a == b for a, b in zip(labels[-1], labels[0], strict=True)]
    tested = observe.evidence(given, options).table
    assert {*tested} - {*table} == {"correlation", "auprc", "auc"}
    same = chosen(tested, draw=0)
    whole = chosen(observe.neurons(given, options).table, similarity="wpmi")
    np.testing.assert_allclose(same["correlation"], whole["correlation"])
    assert not np.allclose(same["correlation"], chosen(tested, draw=1)["correlation"])


def test_smaller_probes_are_parts_of_one(given):
    table = observe.sizes(given, Options(**FEW, probes="val", per_class="1,4", similarities="cos")).table
    assert table.groupby("per_class").size().to_dict() == {1: 12, 4: 12}
    assert (table["right"] > 0).tolist() == (table["label"] == table["class"]).tolist()


def test_table_2_in_small(given):
    options = Options(**FEW, probes="web", concepts="classes+descriptors")
    table = observe.against_netdissect(given, options).table
    # of 96 images the most active one decides; where its class is right, so is the label or one of its traits
    web = inputs.probe(given, "web", 96)
    q = network.activity(given.model, web, "final", web)
    concepts = inputs.concepts(given, "classes+descriptors")
    shown = truth.present(web, concepts)
    expected = evaluation.iou(q[:, :, None, None], shown[:, :, None, None]).argmax(1)
    found = chosen(table, way="netdissect")
    assert found["label"].tolist() == [concepts[expected[k]] for k in found["unit"]]
    assert (found["right"] > 0).tolist() == (found["label"] == found["class"]).tolist()


def test_missing_images_and_missing_words(given, clip):
    table = observe.missing(given, Options(**FEW, probes="web", similarities="cos")).table
    web, images = inputs.probe(given, "web", 96), given.images
    q, texts = network.activity(given.model, web, "final", web), clip.embed_texts(web.classes)
    absent, word = chosen(table, missing="images"), chosen(table, missing="word")
    nothing = chosen(table, missing="nothing")
    scores = similarity.scores("cos", q, clip.embed_images(web), texts)
    scores[range(48), range(48)] = -torch.inf
    assert word["label"].tolist() == [web.classes[k] for k in scores[word["unit"].tolist()].argmax(1)]
    assert (word["label"] != word["class"]).all() and (nothing["right"] >= 0).all() and len(absent) == 12
    shared = [
        len(set(images.descriptors[k]) & set(images.descriptors[web.classes.index(label)]))
        for k, label in zip(word["unit"], word["label"], strict=True)
    ]
    assert word["shared"].tolist() == shared
    sibling = [web.classes[k ^ 1] for k in word["unit"]]
    assert (word["sibling"] > 0).tolist() == [a == b for a, b in zip(word["label"], sibling, strict=True)]


def test_images_of_a_class_are_really_missing(given, clip, monkeypatch):
    seen = []
    monkeypatch.setattr(
        observe.Setting, "scores", lambda self, name, q, images, texts: seen.append(len(q)) or torch.rand(48, 48)
    )
    observe.missing(given, Options(**FEW, probes="web", similarities="cos"))
    web = inputs.probe(given, "web", 96)
    assert seen[0] == len(web) and len(seen) == 6
    assert sum(len(web) - n for n in seen[1:]) == len(web)  # each image is left out once


def test_descriptions_by_hand(given):
    table = observe.descriptions(given, Options(**FEW, probes="web", concepts="descriptors")).table
    target, images = given.model, given.images
    weight, bias = target.head
    h = target.embed_images(images)
    predicted = (h @ weight.T + bias).argmax(1)
    found = chosen(table, way="clip_dissect")
    assert found["predicted"].tolist() == [images.classes[k] for k in predicted]
    # no unit is dead here, so that the most important one is that of the largest product, whatever its sign
    product = weight[predicted] * h
    unit = torch.from_numpy(found["unit"].to_numpy() % h.shape[1])
    assert (product.gather(1, unit[:, None])[:, 0] == product.amax(1)).all()
    assert (found["same_predicted"] > 0).tolist() == (found["said"] == found["predicted"]).tolist()
    assert (found["same_true"] > 0).tolist() == (found["said"] == found["class"]).tolist()
    holds = [label in images.descriptors[k] for label, k in zip(found["label"], predicted, strict=True)]
    assert (found["holds"] > 0).tolist() == holds
    assert set(table["way"]) == {"clip_dissect", "netdissect", "random"}


# --- what follows from observations


def test_the_auc_of_groups():
    table = pd.DataFrame({"model": list("aabb"), "score": [1.0, 2, 4, 3], "right": [0, 100, 0, 100]})
    assert analysis.auc(table, ["model"]).tolist() == [1.0, 0.0]
    found = analysis.score_tells(table, ["model"])
    assert found.value == 0.0 and found.n == 4
    # a group whose labels are all wrong tells nothing; the others decide
    more = pd.concat([table, pd.DataFrame({"model": ["c"] * 2, "score": [1.0, 2], "right": [0, 0]})])
    assert analysis.score_tells(more, ["model"]).value == 0.0
    assert np.isnan(analysis.score_tells(more[more["model"] == "c"], ["model"]).value)


def test_a_score_that_tells_has_its_interval_above_zero():
    rng = np.random.default_rng(0)
    right = 100.0 * (rng.random(400) < 0.5)
    table = pd.DataFrame({"model": ["a"] * 200 + ["b"] * 200, "right": right, "score": right + rng.normal(0, 60, 400)})
    found = analysis.score_tells(table, ["model"])
    assert 0 < found.low < found.value < found.high < 0.5


def test_a_neuron_is_picked_or_refused():
    table = pd.DataFrame({"layer": "x", "unit": range(4), "score": [0.1, 0.9, np.nan, 0.2], "dead": [0, 0, 1, 0]})
    table["dead"] = table["dead"].astype(bool)
    assert analysis.pick(table) == 1 and analysis.pick(table, 3) == 3
    with pytest.raises(UserError, match="x has no neuron 4; it has 4, from 0 to 3"):
        analysis.pick(table, 4)
    with pytest.raises(UserError, match="Neuron 2 of x is dead.*alive are 0, 1, 3"):
        analysis.pick(table, 2)
    with pytest.raises(UserError, match="x has no living neuron"):
        analysis.pick(table[table["dead"]])


# --- a network and images from elsewhere


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of four images, and a checkpoint of a torchvision network for them."""
    root = tmp_path_factory.mktemp("scale")
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog", "fish")):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.clip(rng.normal(60 + 60 * k, 40, (48, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, root / "places.pth.tar")
    (root / "words.txt").write_text("a cat\na dog\na fish\n\nsky\ngrass\nsky\n")
    return root


def test_a_torchvision_network_on_a_folder_of_images(folder):
    photos, words = str(folder / "photos"), str(folder / "words.txt")
    given = Given(f"torchvision/resnet18:{folder / 'places.pth.tar'}", photos)
    shared = {"clip": "ViT-S-32-alt:random", "judge": "", "top_k": 3, "resamples": 1}
    both = f"val+{photos}"
    seen = observe.neurons(given, Options(**shared, probes=f"auto,{both}", concepts=f"classes,{words}"))
    assert seen.notes["probes"] == {"val": 12, both: 24}
    assert seen.notes["duplicates"] == {"classes": 0, words: 1}
    assert chosen(seen.table, concepts="classes")["right"].notna().all()
    assert seen.table[["true", "correlation", "judge_cosine"]].isna().all(axis=None)
    hidden = Options(**shared, layers="conv1,layer4", probes="usual", concepts=words, similarities="soft_wpmi")
    inside = observe.neurons(given, hidden).table
    assert len(chosen(inside, layer="layer4")) == 512 and inside["best_iou"].isna().all()
    assert len(observe.labels(given, hidden).table) == 2 * (512 + 64)
    two = Options(**shared, probes="usual", concepts="classes")
    assert set(observe.against_netdissect(given, two).table["way"]) == {"clip_dissect", "netdissect"}
    assert observe.missing(given, two).table["sibling"].isna().all()
    assert set(observe.descriptions(given, Options(**shared, probes="usual", concepts=words)).table["way"]) == {
        "clip_dissect",
        "random",
    }
