"""Labels for the neurons of any network in one call: as by the wing's own path; what it takes and what it refuses."""

import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from scipy.spatial.distance import cosine
from torch import nn
from torchvision import transforms

from lib import data, dissect, models
from lib.data import loose
from lib.dissection import activations, evaluation, similarity
from lib.dissection.door import batches, word_list
from lib.errors import UserError
from lib.given import Given

WORDS = ["red", "a dog", "green grass", "the sea", "a wheel", "stripes"]
FAST = {"model": "ViT-B-32", "weights": "small", "preprocess": {"size": 32}, "resamples": 2}


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A folder of twelve pictures, no class folders."""
    folder, rng = tmp_path_factory.mktemp("flat"), np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(folder / f"{i:02}.png")
    return folder


class Net(nn.Module):
    """A small network; `last`: its maps have their channels last."""

    def __init__(self, last=False):
        super().__init__()
        self.conv, self.maps = nn.Conv2d(3, 8, 8, 8), nn.Identity()
        self.yes, self.words, self.head, self.last = nn.Identity(), nn.Identity(), nn.Linear(8, 5), last

    def forward(self, x):
        x = self.conv(x).relu()
        x = self.maps(x.permute(0, 2, 3, 1) if self.last else x)
        x = x.mean((1, 2) if self.last else (2, 3))
        self.yes(x > x.mean()), self.words({"x": x})
        return self.head(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.mark.slow
def test_labels_are_those_of_the_wings_own_path(flat):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().train()
    table = dissect(network, ["layer1", "fc"], flat, WORDS, **FAST)
    assert network.training and network.layer1[0].bn1.training  # as it was
    paths = sorted(flat.iterdir())
    size, mean, std = 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's
    steps = [transforms.Resize(37), transforms.CenterCrop(size), transforms.ToTensor(), transforms.Normalize(mean, std)]
    pixels = torch.stack([transforms.Compose(steps)(Image.open(p).convert("RGB")) for p in paths])
    clip = models.load("ViT-B-32", "photographs", weights="small")
    images, texts = clip.embed_images([Image.open(p) for p in paths]), clip.embed_texts(WORDS)
    assert table.groupby("layer", sort=False).size().to_dict() == {"layer1": 64, "fc": 1000}
    for layer, q in activations.collect(network.eval(), ["layer1", "fc"], [pixels]).items():
        found = table[table.layer == layer].reset_index(drop=True)
        scores = similarity.scores("soft_wpmi", q, images, texts)
        best = scores.argsort(dim=1, descending=True, stable=True)
        for k, column in enumerate(("label", "second", "third")):
            assert found[column].tolist() == [WORDS[m] for m in best[:, k]]
        np.testing.assert_allclose(found["score"], scores.amax(1), atol=1e-5)
        assert found["top_images"][3] == [str(paths[i]) for i in q[:, 3].argsort(descending=True)[:5]]
        again = [evaluation.drawn(12, draw) for draw in (1, 2)]
        kept = [similarity.scores("soft_wpmi", q[d], images[d], texts).argmax(1) == best[:, 0] for d in again]
        np.testing.assert_allclose(found["stability"], torch.stack(kept).double().mean(0))


def test_the_table_is_saved_as_pandas_saves_it(net, flat, tmp_path):
    table = dissect(net, "maps", flat, WORDS, **FAST)
    table.to_csv(tmp_path / "labels.csv", index=False)
    assert "stability" in table.to_html() and len((tmp_path / "labels.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto", "vit_tiny_patch16_224"])
def test_networks_of_timm_with_channels_first_or_last_and_with_tokens(name, flat):
    network = timm.create_model(name, img_size=32) if "convnext" not in name else timm.create_model(name)
    layer, width = {"s": ("layers.1", 192), "c": ("stages.1", 80), "v": ("blocks.1", 192)}[name[0]]
    table = dissect(network, [layer], flat, WORDS, **FAST | {"resamples": 0})
    assert table["unit"].tolist() == list(range(width)) and set(table["label"]) <= set(WORDS)
    assert table["stability"].isna().all()  # of no draws


def test_maps_with_channels_last_are_read_where_that_is_said(net, flat):
    torch.manual_seed(0)
    turned = Net(last=True)
    ours, theirs = (
        dissect(n, ["maps"], flat, WORDS, channels=c, **FAST) for n, c in ((net, "first"), (turned, "last"))
    )
    assert ours.drop(columns="score").equals(theirs.drop(columns="score"))
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-4)


def test_a_layer_of_yes_and_no_counts_as_ones_and_zeros(net, flat):
    table = dissect(net, ["yes"], flat, WORDS, similarity="cos", **FAST)
    alive = table[~table["dead"]]
    assert len(alive) and (alive["label"] != "").all()


def test_scores_take_arrays_and_bools_and_refuse_texts():
    rng = np.random.default_rng(0)
    q, X, T = rng.random((9, 4)) > 0.5, rng.normal(size=(9, 6)), rng.normal(size=(5, 6))
    found = similarity.scores("cos", q, X, T)
    expected = [[1 - cosine(a, X @ t) for t in T] for a in q.T.astype(float)]
    np.testing.assert_allclose(found, expected)
    for wrong in ([1.0, 2.0], np.array(["a", "b"]), torch.tensor(1.0)):
        with pytest.raises(UserError, match="Activations and embeddings are"):
            similarity.scores("cos", wrong, X, T)


def test_dead_and_sparse_neurons_are_flagged(flat):
    class Few(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.out = 0, nn.Identity()

        def forward(self, x):  # unit k is active in the first k images of each batch
            return self.out((torch.arange(len(x))[:, None] < torch.arange(8)).float())

    table = dissect(Few(), ["out"], flat, WORDS, prior="alive", **FAST)
    assert table["active"].tolist() == list(range(8))
    assert table["dead"].tolist() == [True] + [False] * 7
    assert table["sparse"].tolist() == [False] + [True] * 4 + [False] * 3
    dead = table.iloc[0]
    assert (
        dead["label"] == dead["second"] == ""
        and dead["top_images"] == []
        and np.isnan(dead[["score", "stability"]].astype(float)).all()
    )


@pytest.mark.slow
def test_images_in_class_folders_in_a_list_and_of_a_dataset(net, flat, make_folder):
    nested = dissect(net, ["maps"], make_folder({"a": 4, "b": 3}), WORDS, **FAST)
    assert {p.rsplit("/", 2)[1] for row in nested["top_images"] for p in row} <= {"a", "b"}
    files = [str(p) for p in sorted(flat.iterdir())]
    listed = dissect(net, ["maps"], np.array(files), np.array(WORDS), **FAST)
    assert listed.equals(dissect(net, ["maps"], flat, WORDS, **FAST))
    part = data.load("bestiary", images=24)
    options = {"model": "ViT-B-32", "preprocess": {"size": 48}, "resamples": 1}
    table = dissect(net, ["maps"], part, WORDS, **options)  # read by the trained miniature
    q = activations.collect(net.eval(), ["maps"], batches(net, part, _as_usual(48), 24))["maps"]
    clip = models.load("ViT-B-32")
    label = similarity.labels("soft_wpmi", q, clip.embed_images(part), clip.embed_texts(WORDS))[0]
    assert table["label"].tolist() == [WORDS[k] if k >= 0 else "" for k in label]
    assert {type(i) for row in table["top_images"] for i in row} == {int}


def _as_usual(size):
    look = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return transforms.Compose(
        [transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size), transforms.ToTensor(), look]
    )


def test_words_by_name_from_a_file_and_twice(real, tmp_path, capsys):
    given = Given("ViT-B-32", "pictures")
    (tmp_path / "some.words").write_text("dog\n\n cat \ndog\n")
    assert word_list(given, tmp_path / "some.words") == ["dog", "cat"]
    assert "1 of 3 words come twice" in capsys.readouterr().err
    assert word_list(given, [" dog", "cat"]) == ["dog", "cat"] and not capsys.readouterr().err
    published = real("concepts_3k.txt").read_text().splitlines()
    assert word_list(given, "concepts_3k") == word_list(given, "3k") == list(dict.fromkeys(published))


def test_a_network_in_half_precision_and_arrays_from_preprocess(net, flat):
    def prepare(image):
        return np.asarray(image.resize((32, 32)), np.float32).transpose(2, 0, 1) / 255

    table = dissect(net.bfloat16(), ["maps"], flat, WORDS, **FAST | {"preprocess": prepare})
    assert table["score"].notna().any() and net.conv.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"network": np.zeros(3)}, "is a ndarray; give a torch.nn.Module"),
        ({"layers": ["map"]}, "no layer 'map'. Did you mean 'maps'"),
        ({"layers": []}, "No layer is given; the network has conv, maps"),
        ({"layers": nn.Sequential(nn.ReLU())}, "layers hold a ReLU; give names"),
        ({"layers": "words"}, "words gives a dict"),
        ({"words": []}, "list of words is empty"),
        ({"words": ["dog"]}, "a softmax over concepts needs two"),
        ({"words": ["dog", "dog"]}, "a softmax over concepts needs two"),
        ({"words": ["dog", " "]}, "1 of 2 concepts are empty"),
        ({"words": ["dog", 3]}, "The words hold a int"),
        ({"words": "concept_20k"}, "unknown"),
        ({"words": "descriptors_imagenet"}, "unknown"),
        ({"words": "nowhere/words.txt"}, "no file of concepts"),
        ({"images": []}, "list of images is empty"),
        ({"images": "nowhere"}, "There is no folder"),
        ({"images": [np.zeros((4, 4, 3))]}, "holds a ndarray; give the paths"),
        ({"images": ["a.png", "b.png"]}, "2 of 2 image files are not there"),
        ({"top_k": 13}, "There are 12 images, but top_k is 13; lower top_k"),
        ({"top_k": 3, "similarity": "cos"}, "option of soft_wpmi alone"),
        ({"similarity": "softwpmi"}, "Did you mean 'soft_wpmi'"),
        ({"chanels": "last"}, "no option 'chanels'. Did you mean 'channels'"),
        ({"batch_size": 0}, "batch_size is 0; give a whole number above 0"),
        ({"preprocess": {"sizes": 3}}, "no 'sizes'"),
        ({"preprocess": 224}, "preprocess is a int; give a function"),
        ({"preprocess": lambda image: image}, "preprocess gives Image"),
        ({"preprocess": lambda image: np.asarray(image)}, "preprocess gives torch.uint8"),
        ({"preprocess": lambda image: torch.zeros(3, 4, 4)}, "does not take the images .RuntimeError"),
        ({"model": "torchvision/resnet18"}, "reads no text"),
    ],
)
def test_what_cannot_be_dissected_is_refused_in_a_sentence(changed, sentence, net, flat):
    asked = {"network": net, "layers": ["maps"], "images": flat, "words": WORDS} | FAST | changed
    with pytest.raises(UserError, match=sentence) as error:
        dissect(**asked)
    assert "\n" not in str(error.value)


def test_pictures_of_several_shapes_one_picture_and_damaged_files_are_refused(net, flat, tmp_path):
    shapes = count(32, 8)
    with pytest.raises(UserError, match="several shapes"):
        dissect(net, "maps", flat, WORDS, **FAST | {"preprocess": lambda image: torch.zeros(3, 32, next(shapes))})
    with pytest.raises(UserError, match="There are 1 images"):
        dissect(net, "maps", [next(flat.iterdir())], WORDS, **FAST)
    with pytest.raises(UserError, match="has no images"):
        dissect(net, "maps", tmp_path, WORDS, **FAST)
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 of 2 images .* cannot be read"):
        loose.pictures(tmp_path)
    assert len(loose.pictures(tmp_path, on_error="skip")) == 1


def test_untrained_words_are_said_to_mean_nothing(net, flat, capsys):
    dissect(net, "maps", flat, WORDS, **FAST)
    assert "random weights" in capsys.readouterr().err


@pytest.mark.slow
def test_the_door_is_loaded_when_it_is_asked_for():
    code = "import sys, lib; print('torch' in sys.modules); from lib import dissect; print(dissect.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "lib.dissection.door"]
    with pytest.raises(ImportError):
        from lib import nothing  # noqa: F401
