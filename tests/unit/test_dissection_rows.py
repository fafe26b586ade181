"""Rows of this wing: what a record of each exhibit holds, at the miniature and for a torchvision network."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lib import models
from lib.data import load as load_images
from lib.data import spread
from lib.dissection import evaluation, final, hidden, inputs, setting, timing
from lib.errors import UserError
from lib.report import record


@pytest.fixture(scope="module")
def data():
    full = load_images("bestiary")
    return full.subset(spread(full.labels, 48))


@pytest.fixture(scope="module")
def target():
    return models.load("RN50-supervised")


FEW = {"clip": "ViT-B-32", "probe_images": 96}


def means(result):
    """Each metric as a record has it: dict of name to mean."""
    return {name: m["value"] for name, m in record.summary(result["metrics"], 0)[0].items()}


def test_a_row_of_tables_1_and_3(data, target):
    options = {"probes": "val,web", "similarities": "cos,soft_wpmi", "judge": "RN50", "resamples": 3}
    found = final.row(target, data, **FEW, **options)
    mean = means(found)
    clip = models.load("ViT-B-32")
    scores = setting.scored(
        "cos", clip.embed_images(data), clip.embed_texts(data.classes), inputs.final(target, data, data)
    )
    assert mean["top1/val/species/cos"] == pytest.approx(100 * np.mean(scores.argmax(1).numpy() == np.arange(48)))
    label = found["arrays"]["label/val/descriptors/soft_wpmi"]
    true = [data.bank[k] in data.descriptors[c] for c, k in enumerate(label)]
    assert mean["true/val/descriptors/soft_wpmi"] == pytest.approx(100 * np.mean(true))
    texts, names = clip.embed_texts(data.bank), clip.embed_texts(data.classes)
    assert mean["clip_cos/val/descriptors/soft_wpmi"] == pytest.approx(
        float((texts[label] * names).sum(1).mean()), abs=1e-5
    )
    assert mean["floor/words"] == pytest.approx(
        evaluation.cosine_floor(clip.embed_texts(inputs.concepts("words", data)), names)
    )
    assert 0 <= mean["stability/web/species/cos"] <= 100 and "stability/web/words/cos" not in mean
    assert "correlation/val/words/cos" not in mean  # no image shows a common word
    assert -1 <= mean["correlation/web/descriptors/soft_wpmi"] <= 1
    assert found["notes"]["probes"] == {"val": 48, "web": 96, "v2": 96} and found["notes"]["concepts"]["words"] == 174
    assert all(mean[f"dead/{p}/{c}/cos"] == 0 for p in ("val", "web") for c in ("species", "words"))


def test_sizes_are_parts_of_one_probe(data, target):
    found = final.sizes(target, data, clip="ViT-B-32", probe="val", per_class="1,4", similarities="cos")
    assert set(found["metrics"]) == {"top1/1/cos", "top1/4/cos"}
    assert all(len(values) == 48 for values in found["metrics"].values())


def test_table_2_in_small(data, target):
    found = final.against_netdissect(target, data, judge="RN50", **FEW)
    assert len(found["arrays"]["label/netdissect"]) == 48
    # of 96 images the most active one decides; where its class is right, so is the label or one of its traits
    web = setting.probe_of(data, "web", 96)
    q = inputs.final(target, web, data)
    concepts = inputs.concepts("species+descriptors", data)
    expected = final.netdissect(q, inputs.present(web, concepts)).argmax(1).tolist()
    assert found["arrays"]["label/netdissect"].tolist() == expected


def test_missing_images_are_really_missing(data, target):
    found = final.missing(target, data, similarities="cos", **FEW)
    fold, web = found["arrays"]["fold"], setting.probe_of(data, "web", 96)
    clip = models.load("ViT-B-32")
    q, texts = inputs.final(target, web, data), clip.embed_texts(data.classes)
    kept = fold[web.labels] != 2
    without = setting.scored("cos", clip.embed_images(web)[kept], texts, q[kept]).argmax(1).numpy()
    assert (found["arrays"]["absent_label/cos"][fold == 2] == without[fold == 2]).all()
    assert sorted(np.bincount(fold)) == [9, 9, 10, 10, 10]
    other = found["arrays"]["other/cos"]
    assert (other != np.arange(48)).all()
    shared = [len(set(data.descriptors[k]) & set(data.descriptors[o])) for k, o in enumerate(other)]
    assert means(found)["kin/cos"] == pytest.approx(np.mean(shared))
    assert means(found)["sibling/cos"] == pytest.approx(100 * np.mean(other == (np.arange(48) ^ 1)))


def test_larger_concept_sets(data, target):
    found = means(final.word_sets(target, data, judge="RN50", **FEW))
    assert found["judge_cos/words+descriptors+species"] > found["judge_cos/words"]


def test_descriptions_by_hand(data, target):
    found = final.describe(target, data, judge="RN50", **FEW)
    weight, bias = target.head
    h = target.embed_images(data)
    predicted = (h @ weight.T + bias).argmax(1)
    assert found["arrays"]["predicted"].tolist() == predicted.tolist()
    # no unit is dead here, so that the most important one is that of the largest product, whatever its sign
    product = weight[predicted] * h
    chosen = found["arrays"]["unit/clip_dissect"]
    assert (product.gather(1, torch.from_numpy(chosen % h.shape[1])[:, None])[:, 0] == product.amax(1)).all()
    said, words = found["arrays"]["said/clip_dissect"], found["arrays"]["label/clip_dissect"]
    assert means(found)["same_predicted/clip_dissect"] == pytest.approx(100 * np.mean(said == predicted.numpy()))
    holds = [data.bank[w] in data.descriptors[c] for w, c in zip(words, predicted, strict=True)]
    assert means(found)["holds/clip_dissect"] == pytest.approx(100 * np.mean(holds))


def test_hidden_layers(data, target):
    layers = "visual.layer3,visual.layer4"
    found = hidden.row(target, data, layers=layers, similarities="cos,soft_wpmi", resamples=2, **FEW)
    mean, arrays = means(found), found["arrays"]
    assert arrays["iou/1"].shape == (128, 54) and arrays["iou/2"].shape == (256, 54)
    right = arrays["iou/1"].argmax(1)
    assert mean["same/1/cos"] == pytest.approx(100 * np.mean(arrays["label/1/cos"] == right))
    own = arrays["iou/1"][np.arange(128), arrays["label/1/cos"]]
    assert mean["iou/1/cos"] == pytest.approx(own.mean(), abs=1e-6)
    assert mean["part/1/cos"] >= mean["same/1/cos"] and mean["iou_best/1"] >= mean["iou/1/cos"]
    assert found["notes"]["layers"] == layers.split(",")


def test_one_neuron(data, target):
    found = hidden.neuron(
        target, data, unit=5, layer="final", similarities="cos,soft_wpmi", resamples=2, shown=4, **FEW
    )
    web = setting.probe_of(data, "web", 96)
    q = inputs.final(target, web, data)[:, 5]
    assert found["arrays"]["top"].tolist() == q.argsort(descending=True)[:4].tolist()
    assert found["notes"]["unit"] == 5 and found["notes"]["layer"] == "final" and found["notes"]["neurons"] == 48
    assert found["notes"]["words"]["soft_wpmi"][0] == found["notes"]["layer_words"][5]
    with pytest.raises(UserError, match="final has no neuron 48; it has 48"):
        hidden.neuron(target, data, unit=48, layer="final", **FEW)
    with pytest.raises(UserError, match="no layer 'visual.layer7'"):
        hidden.neuron(target, data, layer="visual.layer7", **FEW)


def test_times(data, target):
    found = timing.row(target, data, clip="ViT-B-32", layers="visual.layer4")["metrics"]
    assert all(found[k] > 0 for k in ("read", "clip", "target", "ours", "released", "netdissect"))
    assert found["neurons"] == 256 and found["equal"] > 95  # ties may go another way
    random = timing.synthetic(target, data, images=400, concepts=60, neurons=10, width=256)["metrics"]
    assert all(random[f"equal/{name}"] >= 90 for name in timing.PLAIN)  # the released sums are good to 2e-4


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
    network = torchvision.models.resnet18(num_classes=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, root / "places.pth.tar")
    (root / "words.txt").write_text("a cat\na dog\na fish\n\nsky\ngrass\nsky\n")
    return root


def test_a_torchvision_network_on_a_folder_of_images(folder):
    data = load_images(str(folder / "photos"))
    network = models.load(f"torchvision/resnet18:{folder / 'places.pth.tar'}", dataset="photos")
    words = str(folder / "words.txt")
    shared = {"clip": "ViT-S-32-alt:random", "top_k": 5}
    both = f"val+{folder / 'photos'}"
    found = final.row(network, data, judge="", probes=f"val,{both}", concepts=f"classes,{words}", resamples=0, **shared)
    assert found["metrics"]["top1/val/classes/soft_wpmi"].shape == (3,)
    assert found["notes"]["probes"] == {"val": 12, both: 24}
    assert found["notes"]["duplicates"] == {"classes": 0, words: 1}
    assert not any(k.startswith(("true", "correlation", "judge")) for k in found["metrics"])
    inside = hidden.row(network, data, layers="conv1,layer4", probe="val", concepts=words, resamples=2, **shared)
    assert inside["metrics"]["best/2/soft_wpmi"].shape == (512,)
    assert not any(k.startswith(("iou", "same")) for k in inside["metrics"])
    one = hidden.neuron(network, data, layer="layer4", probe="val", concepts=words, resamples=2, shown=3, **shared)
    assert one["notes"]["neurons"] == 512 and len(one["arrays"]["top"]) == 3
