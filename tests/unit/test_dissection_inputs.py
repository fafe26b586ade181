"""Probes, concept sets, judges, layers and truth: what names stand for, and what is refused."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib import data, models
from lib.bestiary import species
from lib.data import probes
from lib.dissection import inputs, network, truth
from lib.dissection.options import Options
from lib.errors import UserError
from lib.given import Given


@pytest.fixture
def given():
    return Given("RN50-supervised", limit=6)


@pytest.fixture(scope="module")
def few():
    return data.load("bestiary", images=48)


# --- options


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"similarities": "cos,wpmy"}, "similarity is 'wpmy'.*Did you mean 'wpmi'"),
        ({"prior": "layer"}, "prior is 'layer'; choose one of released, alive"),
        ({"ties": "last"}, "ties is 'last'"),
        ({"pool": "mean"}, "pool is 'mean'"),
        ({"channels": "lest"}, "channels is 'lest'.*Did you mean 'last'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"probes": " , "}, "probes is empty"),
        ({"prompt": "a photo"}, "has no {}"),
        ({"per_class": "3,0"}, "per_class is '3,0'"),
    ],
)
def test_a_switch_that_is_no_good_is_refused_in_one_sentence(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        Options(**changed)


def test_switches_that_name_several_things():
    assert Options().functions() == ["cos", "cos_cubed", "rank_reorder", "wpmi", "soft_wpmi"]
    assert Options(similarities="cos, wpmi").functions() == ["cos", "wpmi"]
    assert Options().probe_names("bestiary") == ["val", "web", "habitat", "sketch"]
    assert Options().probe_names("imagenet") == ["val"]
    assert Options(probes="usual,val").probe_names("bestiary") == ["web", "val"]
    assert Options(probes="usual,val").probe_names("imagenet") == ["val"]


def test_constants_that_are_not_the_published_ones():
    assert Options().constants("soft_wpmi") == {"prior": "released", "ties": "first"}
    assert Options(top_k=50, prior="alive").constants("soft_wpmi")["top_k"] == 50
    assert "top_k" not in Options(top_k=50).constants("wpmi")


# --- concepts


def test_concept_sets_of_the_bestiary(given):
    images = given.images
    assert inputs.concepts(given, "classes") == images.classes
    assert inputs.concepts(given, "descriptors") == images.bank
    assert inputs.concepts(given, "descriptors+classes") == [*images.bank, *images.classes]
    assert inputs.concepts(given, "classes+classes") == images.classes  # joined sets keep each concept once


def test_common_words_hold_neither_names_nor_descriptors(given):
    words, images = inputs.concepts(given, "words"), given.images
    assert len(set(words)) == len(words) > 100
    used = {w for text in images.bank for w in text.replace("-", " ").split() if len(w) > 2} - {"the"}
    assert not used & set(words) and not set(images.classes) & set(words)


def test_a_file_with_blank_lines_and_crlf(tmp_path, given):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffred beak\r\n\r\n  wing \r\n\nred beak\r\n".encode())
    found = inputs.read_concepts(path)
    assert found == ["red beak", "wing", "red beak"] and inputs.check_concepts(found) == 1
    assert inputs.concepts(given, str(path)) == found
    assert given.opened[("file", str(path))] == data.sha256(path)  # a changed list of words is another record


def test_files_and_lists_that_are_no_concepts(tmp_path, given):
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
        inputs.concepts(given, "descriptor")
    with pytest.raises(UserError, match="1 of 2 concepts are empty"):
        inputs.check_concepts(["a", " "])
    with pytest.raises(UserError, match="There is 1 concept, but a softmax"):
        inputs.check_concepts(["a", "a"])


# --- probes


def test_probes_by_name(given):
    assert len(inputs.probe(given, "val")) == 48  # eight images of each of six classes
    web = inputs.probe(given, "web", images=30)
    assert (web.split, len(web)) == ("web", 30) and set(web.labels) == set(given.images.labels)
    assert len(inputs.probe(given, "usual")) == 300  # as many a class as ImageNet's val has
    habitat = inputs.probe(given, "habitat")
    assert 5 < len(habitat) < 150 and habitat.split == "web"
    assert all(inputs.HABITAT in habitat.true_descriptors(i) for i in range(len(habitat)))
    with pytest.raises(UserError, match="no split 'vall'"):
        inputs.probe(given, "vall")


def test_what_probes_open_is_noted(given):
    inputs.probe(given, "habitat+sketch", images=12)
    assert {("images", "bestiary", "web", 6, 12), ("images", "bestiary", "sketch", 6, 12)} <= set(given.opened)


def test_joined_probes_keep_their_images(given):
    both = inputs.probe(given, "val+sketch", images=10)
    val, sketch = given.images, inputs.probe(given, "sketch", images=10)
    assert len(both) == len(val) + 10 and both.split == "val+sketch"
    assert both.image(3).tobytes() == val.image(3).tobytes()
    assert both.image(len(val) + 4).tobytes() == sketch.image(4).tobytes()
    assert both.subset([len(val) + 4]).image(0).tobytes() == both.image(len(val) + 4).tobytes()
    shown = truth.present(both, val.bank)
    np.testing.assert_array_equal(shown[len(val) :], truth.present(sketch, val.bank))


def test_a_folder_as_probe(given, make_folder):
    assert len(inputs.probe(given, str(make_folder({"cat": 2, "dog": 1})))) == 3


def test_cifar_100_as_probe(tmp_path, given, monkeypatch):
    records = np.random.default_rng(0).integers(0, 100, (6, 3074), dtype=np.uint8)
    (tmp_path / "cifar100").mkdir()
    (tmp_path / "cifar100" / "train.bin").write_bytes(records.tobytes())
    (tmp_path / "cifar100" / "fine_label_names.txt").write_text("\n".join(f"kind_{i}" for i in range(100)))
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    found = inputs.probe(given, "cifar100")
    assert len(found) == 6 and found.classes[3] == "kind 3" and found.labels.tolist() == records[:, 1].tolist()
    assert np.asarray(found.image(2))[0, 1].tolist() == [records[2, 2 + 1 + 1024 * c] for c in range(3)]
    assert len(inputs.probe(given, "cifar100", images=4)) == 4
    (tmp_path / "cifar100" / "train.bin").write_bytes(b"short")
    with pytest.raises(UserError, match="not a number of records of 3074"):
        probes.cifar100()


def test_probes_that_are_not_on_disk(tmp_path, given, monkeypatch):
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match="CIFAR-100 is not on disk.*binary version"):
        inputs.probe(given, "cifar100")
    with pytest.raises(UserError, match="Broden is not on disk"):
        inputs.probe(given, "broden")


# --- what reads words


def test_a_model_without_text_can_neither_name_nor_judge(given):
    for read in (inputs.reader, inputs.judge):
        with pytest.raises(UserError, match="RN50-supervised:random reads no text"):
            read(given, "RN50-supervised:random")


def test_a_sentence_encoder_judges_from_a_folder(given, tmp_path, monkeypatch):
    class Encoder:
        def __init__(self, folder, device):
            assert Path(folder) == tmp_path and device == "cpu"

        def encode(self, texts, convert_to_tensor, normalize_embeddings):
            assert convert_to_tensor and normalize_embeddings
            return F.normalize(torch.tensor([[len(text), 1.0] for text in texts]), dim=1)

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="needs the package sentence-transformers"):
        inputs.judge(given, str(tmp_path))
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Encoder))
    with pytest.raises(UserError, match="holds no sentence encoder"):
        inputs.judge(given, str(tmp_path))
    (tmp_path / "modules.json").write_text("[]")
    judged = inputs.judge(given, str(tmp_path)).embed_texts(["abc", "d"])
    assert torch.allclose(judged, F.normalize(torch.tensor([[3.0, 1], [1, 1]]), dim=1))


def test_a_folder_is_known_by_its_content_and_not_by_its_path(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "weights").write_text("same")
    identity = Given("").identity
    before = identity(("file", str(tmp_path / "one")))
    assert before == identity(("file", str(tmp_path / "two"))) != "absent"
    (tmp_path / "two" / "inner" / "weights").write_text("other")
    assert before != identity(("file", str(tmp_path / "two")))


# --- neurons of models


def test_final_activations_are_logits(few):
    target = models.load("RN50-supervised:random")
    with torch.inference_mode():
        expected = target.tower(target.normalised(target.pixels(few)))
    np.testing.assert_allclose(network.activity(target, few, "final", few), expected, atol=1e-4)
    assert network.activity(models.load("ViT-B-32"), few, "final", few).shape == (48, 48)  # its zero-shot classifier


def test_stages_of_each_family():
    assert network.choose(models.load("RN50-supervised:random"), "auto") == [f"visual.layer{i}" for i in range(1, 5)]
    assert len(network.choose(models.load("ViT-B-32"), "auto")) == 4
    assert len(network.choose(models.load("CNeXt-B1"), "auto")) >= 2
    torchvision = models.load("torchvision/resnet18:random", "imagenet")
    assert network.choose(torchvision, "auto") == [f"layer{i}" for i in range(1, 5)]


def test_choosing_layers():
    target = models.load("RN50-supervised:random")
    assert network.choose(target, "last") == ["visual.layer4"]
    assert network.choose(target, "visual.layer2, final") == ["visual.layer2", "final"]
    with pytest.raises(UserError, match="no layer 'layer9'"):
        network.choose(target, "layer9")


def test_hidden_activations_are_kept_and_equal_the_networks(few, fresh_cache):
    target, some = models.load("RN50-supervised:random"), few.subset([17, 3, 40, 5, 30])
    found = network.activity(target, some, "visual.layer3", some)
    with torch.inference_mode():
        seen = []
        handle = target.tower.visual.layer3.register_forward_hook(lambda m, i, o: seen.append(o.mean((2, 3))))
        target.tower(target.normalised(target.pixels(some)))
        handle.remove()
    np.testing.assert_allclose(found, seen[0], atol=1e-5)
    assert len(list((fresh_cache / "activations").glob("*.safetensors"))) == 1
    network.activity(target, some, "visual.layer1", some)
    assert len(list((fresh_cache / "activations").glob("*.safetensors"))) == 1  # the first pass had kept all stages


# --- truth


def test_present_and_masks_follow_the_renderer(few):
    names = [*few.bank, *few.classes, "banana"]
    shown = truth.present(few, names)
    for i in (0, 17):
        true = {*few.true_descriptors(i), few.classes[few.labels[i]]}
        assert {names[m] for m in shown[i].nonzero().ravel()} == true
    masks = truth.masks(few.subset([0, 17]), names, stride=1)
    for j, i in enumerate((0, 17)):
        parts = few.part_masks(i)
        animal = np.any(list(parts.values()), axis=0)
        for text in few.true_descriptors(i):
            part = truth.part_of()[text]
            expected = ~animal if part == "background" else parts.get(part, np.zeros_like(animal))
            np.testing.assert_array_equal(masks[j, names.index(text)], expected)
        np.testing.assert_array_equal(masks[j, names.index(few.classes[few.labels[i]])], animal)
        assert not masks[j, -1].any()


def test_images_of_ones_own_show_their_class_and_nothing_else(make_folder):
    images = data.load(str(make_folder({"cat": 2, "dog": 1})))
    assert truth.present(images, ["dog", "tail"]).tolist() == [[False, False], [False, False], [True, False]]
    assert truth.present(images, ["tail", "ear"]) is None


def test_every_descriptor_has_a_part(few):
    assert set(few.bank) <= set(truth.part_of())
    assert set(truth.part_of().values()) <= {"background", *species.PARTS}


def test_shared_traits_and_holding(few):
    shared = truth.shared_traits(few.descriptors)
    assert (shared == shared.T).all() and shared[0, 0] == len(set(few.descriptors[0]))
    assert shared[0, 1] >= shared[0].mean()  # siblings stand side by side
    own = few.descriptors[0]
    assert truth.holds([own[0], "", "banana"], [own, own, own]).tolist() == [True, False, False]


def test_options_are_all_that_decides_a_record():
    assert all(isinstance(value, (str, int)) for value in dataclasses.asdict(Options()).values())
