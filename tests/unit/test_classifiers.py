"""Classifiers with a head of their own: ours, torchvision's and timm's, against the libraries themselves."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from lib import models
from lib.data import load as load_images
from lib.errors import UserError
from lib.models import heads


@pytest.fixture(scope="module")
def few():
    return load_images("bestiary", images=6)


@pytest.fixture(scope="module")
def picture():
    noise = np.random.default_rng(0).integers(0, 256, (300, 340, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("name", ["RN50-supervised", "ViT-B-32-finetuned"])
def test_embeddings_times_the_head_are_the_models_own_logits(name, few):
    model = models.load(f"{name}:random")
    weight, bias = heads.head(model, few)
    with torch.inference_mode():
        logits = model.tower(model.normalised(model.pixels(few)))
    torch.testing.assert_close(model.embed_images(few) @ weight.T + bias, logits, atol=1e-5, rtol=1e-4)
    norms = model.embed_images(few).norm(dim=1)
    assert model.unit_norm == torch.allclose(norms, torch.ones(6))
    assert (model.objective, model.backbone) == tuple(reversed(name.rsplit("-", 1)))


def test_a_clips_head_is_its_zero_shot_classifier(few):
    clip = models.load("RN50:random")
    weight, bias = heads.head(clip, few)
    assert torch.equal(weight, heads.classifier(clip, few.classes, few.templates))
    assert bias.shape == (48,) and not bias.any()


@pytest.mark.parametrize("name, width", [("ViT-B-32", 96), ("RN50", 256), ("CNeXt-B1", 64)])
def test_features_before_the_projection_give_the_embedding_when_projected(name, width, few):
    clip = models.load(f"{name}:random")
    before = clip.embed_images(few, projected=False)
    visual = clip.visual
    if name == "ViT-B-32":
        after = before @ visual.proj
    else:
        last = visual.attnpool.c_proj if name == "RN50" else visual.head
        after = last(before)
    torch.testing.assert_close(F.normalize(after, dim=-1), clip.embed_images(few), atol=1e-5, rtol=1e-4)
    assert before.shape == (6, width)


def test_torchvisions_classifier_gets_torchvisions_pixels_and_logits(picture, few):
    model = models.load("torchvision/resnet18:random", "imagenet")
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    theirs = transform(picture)[None]
    ours = model.normalised(model.pixels([picture]))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)
    weight, bias = model.head
    with torch.inference_mode():
        logits = model.model(ours)
    torch.testing.assert_close(model.embed_images([picture]) @ weight.T + bias, logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="1000 classes and bestiary has 48"):
        heads.head(model, few)
    with pytest.raises(UserError, match="no projection"):
        model.embed_images([picture], projected=False)
    with pytest.raises(UserError, match="reads no text"):
        model.embed_texts(["a cat"])


def test_a_checkpoint_may_have_other_classes_and_a_trainings_wrapping(tmp_path, picture):
    original = torchvision.models.resnet18(num_classes=365).eval()
    wrapped = {"state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}, "arch": "resnet18"}
    torch.save(wrapped, tmp_path / "places.pth.tar")
    model = models.load(f"torchvision/resnet18:{tmp_path / 'places.pth.tar'}", "places365")
    x = model.normalised(model.pixels([picture]))
    with torch.inference_mode():
        torch.testing.assert_close(model.tower(x), original(x))


def test_weights_put_by_hand_are_found(tmp_path, monkeypatch, picture):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path))
    original = torchvision.models.vit_b_32().eval()
    torch.save(original.state_dict(), (tmp_path / "weights").mkdir() or tmp_path / "weights/torchvision--vit_b_32.pth")
    model = models.load("ViT-B-32-supervised", "imagenet")  # the row's real counterpart
    assert (model.architecture, model.width) == ("torchvision/vit_b_32", 768)
    x = model.normalised(model.pixels([picture]))
    with torch.inference_mode():
        torch.testing.assert_close(model.tower(x), original(x))


def test_timms_classifier_embeds_what_its_head_reads(picture):
    model = models.load("timm/vit_tiny_patch16_224:random", "imagenet")
    theirs = timm.create_model("vit_tiny_patch16_224").eval()
    theirs.load_state_dict(model.model.state_dict())
    x = model.normalised(model.pixels([picture]))
    with torch.inference_mode():
        expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model.embed_images([picture]), expected)


BAD = {
    "a misspelt name": ("torchvision/resnet5", "no classifier 'resnet5'. Did you mean 'resnet50'"),
    "no such file": ("torchvision/resnet18:/nowhere.pth", "There is no checkpoint /nowhere.pth"),
    "miniature only": ("RN50-captions", "exists in the miniature only"),
    "no linear head": ("timm/levit_128s:random", "no linear head"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_names(case):
    name, sentence = BAD[case]
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        models.load(name, "imagenet")


def test_a_damaged_or_foreign_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "cut.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="cut.pth is not a whole checkpoint"):
        models.load(f"torchvision/resnet18:{tmp_path / 'cut.pth'}", "imagenet")
    save_file({"fc.weight": torch.zeros(1000, 4)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds another model"):
        models.load(f"torchvision/resnet18:{tmp_path / 'other.safetensors'}", "imagenet")
