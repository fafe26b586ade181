"""Probes, concept sets and truth: what names stand for, and what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib import models
from lib.bestiary import species
from lib.data import load as load_images
from lib.data import spread
from lib.dissection import final, hidden, inputs, setting
from lib.errors import UserError


@pytest.fixture(scope="module")
def data():
    full = load_images("bestiary")
    return full.subset(spread(full.labels, 48))


# --- concepts


def test_concept_sets_of_the_bestiary(data):
    assert inputs.concepts("species", data) == data.classes
    assert inputs.concepts("descriptors", data) == data.bank
    both = inputs.concepts("descriptors+species", data)
    assert both == [*data.bank, *data.classes]
    assert inputs.concepts("species+species", data) == data.classes  # joined sets keep each concept once


def test_common_words_hold_neither_names_nor_descriptors(data):
    words = inputs.concepts("words", data)
    assert len(set(words)) == len(words) > 100
    used = {w for text in data.bank for w in text.replace("-", " ").split() if len(w) > 2} - {"the"}
    assert not used & set(words) and not set(data.classes) & set(words)


def test_a_file_with_blank_lines_and_crlf(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffred beak\r\n\r\n  wing \r\n\nred beak\r\n".encode())
    found = inputs.read_concepts(path)
    assert found == ["red beak", "wing", "red beak"]
    assert inputs.check_concepts(found) == 1
    assert inputs.concepts(str(path), None) == found


def test_files_and_lists_that_are_no_concepts(tmp_path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("\n \n")
    binary.write_bytes(b"\xff\xfe\x00")
    cases = {
        tmp_path / "none.txt": "There is no file of concepts",
        empty: "holds no concepts",
        binary: "is not text in UTF-8",
    }
    for path, sentence in cases.items():
        with pytest.raises(UserError, match=sentence):
            inputs.read_concepts(path)
    with pytest.raises(UserError, match="Concept set 'descriptor' is unknown.*Did you mean 'descriptors'"):
        inputs.concepts("descriptor", None)
    with pytest.raises(UserError, match="1 of 2 concepts are empty"):
        inputs.check_concepts(["a", " "])
    with pytest.raises(UserError, match="There is 1 concept, but a softmax"):
        inputs.check_concepts(["a", "a"])


def test_a_prompt_needs_a_place():
    with pytest.raises(UserError, match="has no {}"):
        inputs.embed_concepts(None, ["a", "b"], "a photo")


# --- probes


def test_probes_by_name(data):
    assert inputs.probe("val", data) is data
    web = inputs.probe("web", data, images=30)
    assert (web.split, len(web)) == ("web", 30)
    habitat = inputs.probe("habitat", data, images=120)
    assert 5 < len(habitat) < 40 and habitat.split == "web"
    assert all(inputs.HABITAT in habitat.true_descriptors(i) for i in range(len(habitat)))
    with pytest.raises(UserError, match="no split 'vall'"):
        inputs.probe("vall", data)


def test_joined_probes_keep_their_images(data):
    both = inputs.probe("val+sketch", data, images=10)
    assert len(both) == len(data) + 10 and both.split == "val+sketch"
    sketch = inputs.probe("sketch", data, images=10)
    assert both.image(3).tobytes() == data.image(3).tobytes()
    assert both.image(len(data) + 4).tobytes() == sketch.image(4).tobytes()
    assert both.fingerprint not in (data.fingerprint, sketch.fingerprint)
    assert both.subset([len(data) + 4]).image(0).tobytes() == both.image(len(data) + 4).tobytes()


def test_a_folder_as_probe(data, make_folder):
    assert len(inputs.probe(str(make_folder({"cat": 2, "dog": 1})), data)) == 3


def test_cifar_100_from_its_binary_version(tmp_path, data, monkeypatch):
    rng = np.random.default_rng(0)
    records = rng.integers(0, 100, (6, 3074), dtype=np.uint8)
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "train.bin").write_bytes(records.tobytes())
    (tmp_path / "cifar100" / "fine_label_names.txt").write_text("\n".join(f"kind_{i}" for i in range(100)))
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    found = inputs.probe("cifar100", data)
    assert len(found) == 6 and found.classes[3] == "kind 3" and found.labels.tolist() == records[:, 1].tolist()
    pixels = np.asarray(found.image(2))
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 1].tolist() == [records[2, 2 + 1 + 1024 * c] for c in range(3)]  # red, green, blue planes
    (tmp_path / "cifar100" / "train.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="not a number of records of 3074"):
        inputs.probe("cifar100", data)


def test_probes_that_are_not_on_disk(tmp_path, data, monkeypatch):
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match="CIFAR-100 is not on disk.*binary version"):
        inputs.probe("cifar100", data)
    with pytest.raises(UserError, match="Broden is not on disk"):
        inputs.probe("broden", data)
    (tmp_path / "broden1_224").mkdir()
    (tmp_path / "broden1_224" / "index.csv").write_text("image,split\ndtd/one.jpg,train\n")
    with pytest.raises(UserError, match="1 of 1 images of Broden are missing"):
        inputs.probe("broden", data)


# --- activations of models


def test_final_activations_are_logits(data):
    target = models.load("RN50-supervised:random")
    with torch.inference_mode():
        expected = target.tower(target.normalised(target.pixels(data)))
    np.testing.assert_allclose(inputs.final(target, data, data), expected, atol=1e-4)
    clip = models.load("ViT-B-32")
    assert inputs.final(clip, data, data).shape == (48, 48)  # its zero-shot classifier


def test_stages_of_each_family():
    assert inputs.stages(models.load("RN50-supervised:random")) == [f"visual.layer{i}" for i in range(1, 5)]
    assert len(inputs.stages(models.load("ViT-B-32"))) == 4
    assert len(inputs.stages(models.load("CNeXt-B1"))) >= 2
    torchvision = models.load("torchvision/resnet18:random", "imagenet")
    assert inputs.stages(torchvision) == [f"layer{i}" for i in range(1, 5)]


def test_choosing_layers():
    target = models.load("RN50-supervised:random")
    assert inputs.choose_layers(target, "last") == ["visual.layer4"]
    assert inputs.choose_layers(target, "visual.layer2, head") == ["visual.layer2", "head"]
    with pytest.raises(UserError, match="no layer 'layer9'"):
        inputs.choose_layers(target, "layer9")


def test_hidden_activations_are_kept_and_equal_the_networks(data, fresh_cache):
    target, few = models.load("RN50-supervised:random"), data.subset(range(5))
    found = inputs.hidden(target, few, ["visual.layer3"])["visual.layer3"]
    with torch.inference_mode():
        x = target.normalised(target.pixels(few))
        seen = []
        handle = target.tower.visual.layer3.register_forward_hook(lambda m, i, o: seen.append(o.mean((2, 3))))
        target.tower(x)
        handle.remove()
    np.testing.assert_allclose(found, seen[0], atol=1e-5)
    assert len(list((fresh_cache / "activations").glob("*.safetensors"))) == 1
    inputs.hidden(target, few, ["visual.layer1", "visual.layer3"])
    assert len(list((fresh_cache / "activations").glob("*.safetensors"))) == 1  # the first pass had kept all stages


# --- truth


def test_present_and_masks_follow_the_renderer(data):
    names = [*data.bank, *data.classes, "banana"]
    shown = inputs.present(data, names)
    for i in (0, 17):
        true = {*data.true_descriptors(i), data.classes[data.labels[i]]}
        assert {names[m] for m in shown[i].nonzero().ravel()} == true
    masks = inputs.masks(data.subset([0, 17]), names, stride=1)
    for j, i in enumerate((0, 17)):
        parts = data.part_masks(i)
        animal = np.any(list(parts.values()), axis=0)
        for text in data.true_descriptors(i):
            part = inputs.part_of()[text]
            expected = ~animal if part == "background" else parts.get(part, np.zeros_like(animal))
            np.testing.assert_array_equal(masks[j, names.index(text)], expected)
        np.testing.assert_array_equal(masks[j, names.index(data.classes[data.labels[i]])], animal)
        assert not masks[j, -1].any()


def test_every_descriptor_has_a_part(data):
    assert set(data.bank) <= set(inputs.part_of())
    assert set(inputs.part_of().values()) <= {"background", *species.PARTS}


# --- what rows begin with


def test_constants_shrink_with_the_probe():
    assert setting.constants("soft_wpmi", 50000) == {"top_k": 100}
    assert setting.constants("soft_wpmi", 64) == {"top_k": 16}
    assert setting.constants("soft_wpmi", 50000, top_k=50) == {"top_k": 50}
    assert setting.constants("wpmi", 50000) == {"top_k": 28}
    assert setting.constants("rank_reorder", 50000) == {"top_fraction": 0.05}
    assert int(setting.constants("rank_reorder", 20)["top_fraction"] * 20) == 2
    assert setting.constants("cos", 10) == {}


def test_best_names_dead_neurons():
    label, score = setting.best(torch.tensor([[1.0, 3.0], [torch.nan, torch.nan], [2.0, 2.0]]))
    assert label.tolist() == [1, -1, 0] and score[[0, 2]].tolist() == [3, 2] and score[1].isnan()
    assert setting.named(label, ["a", "b"]) == ["b", "(dead)", "a"]
    shown = torch.tensor([[True, False], [True, True]])
    assert setting.shows(label, shown).tolist() == [[False, False, True], [True, False, True]]


def test_unknown_functions_and_models_without_text(data):
    with pytest.raises(UserError, match="Did you mean 'wpmi'"):
        setting.functions("wpmy")
    target = models.load("RN50-supervised:random")
    with pytest.raises(UserError, match="RN50-supervised:random reads no text"):
        setting.Setting(target, data, "RN50-supervised:random")


def test_a_sentence_encoder_judges_from_a_folder(data, tmp_path, monkeypatch):
    class Encoder:
        def __init__(self, folder, device):
            self.folder = folder

        def encode(self, texts, convert_to_tensor, normalize_embeddings):
            assert convert_to_tensor and normalize_embeddings and Path(self.folder) == tmp_path
            return F.normalize(torch.tensor([[len(text), 1.0] for text in texts]), dim=1)

    target = models.load("RN50-supervised:random")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="needs the package sentence-transformers"):
        setting.Setting(target, data, "ViT-B-32", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Encoder))
    with pytest.raises(UserError, match="holds no sentence encoder"):
        setting.Setting(target, data, "ViT-B-32", str(tmp_path))
    (tmp_path / "modules.json").write_text("[]")
    judged = setting.Setting(target, data, "ViT-B-32", str(tmp_path))
    assert judged.notes()["judge"] == tmp_path.name
    assert torch.allclose(judged.texts(["abc", "d"], judge=True), F.normalize(torch.tensor([[3.0, 1], [1, 1]]), dim=1))


def test_shared_traits_and_holding(data):
    shared = final.shared_traits(data)
    assert (shared == shared.T).all() and shared[0, 0] == len(set(data.descriptors[0]))
    assert shared[0, 1] >= shared[0].mean()  # siblings stand side by side
    found = data.bank
    label = torch.tensor([found.index(data.descriptors[0][0]), -1])
    assert final.holds(label, found, data).tolist() == [True, False]


def test_netdissect_of_neurons_without_places():
    shown = torch.zeros(400, 3, dtype=torch.bool)
    shown[:2, 0] = shown[2:5, 1] = True
    q = shown[:, :2].float() + 0.01 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    found = final.netdissect(q, shown)  # the top 2 of 400 images count as active
    assert found[0].tolist() == [1.0, 0.0, 0.0] and found[1, 1] == pytest.approx(2 / 3)


def test_neurons_that_cannot_be_looked_up(data):
    q = torch.rand(10, 4)
    q[:, 2] = 0
    score = torch.tensor([0.1, 0.9, torch.nan, 0.2])
    assert hidden._unit(-1, q, score, "x") == 1 and hidden._unit(3, q, score, "x") == 3
    with pytest.raises(UserError, match="x has no neuron 4; it has 4, from 0 to 3"):
        hidden._unit(4, q, score, "x")
    with pytest.raises(UserError, match="Neuron 2 of x is dead: 0 on all 10 images.*alive are 0, 1, 3"):
        hidden._unit(2, q, score, "x")
