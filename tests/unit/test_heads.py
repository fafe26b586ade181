import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from lib import models
from lib.errors import UserError
from lib.models import heads


def test_a_perfect_and_a_hopeless_classifier():
    weights = torch.eye(4)
    labels = np.array([2, 0, 3, 1])
    scores = heads.logits(weights[labels], weights, scale=100.0)
    assert heads.predict(scores).tolist() == labels.tolist()
    assert scores.max() == 100 and heads.top_k_accuracy(scores, labels) == 1.0
    assert heads.top_k_accuracy(-scores, labels, k=3) == 0.0
    assert heads.top_k_accuracy(-scores, labels, k=4) == 1.0


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_scikit_learns(k):
    scores = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    labels = np.random.default_rng(0).integers(0, 20, 200)
    expected = top_k_accuracy_score(labels, scores.numpy(), k=k, labels=range(20))
    assert heads.top_k_accuracy(scores, labels, k) == pytest.approx(expected)
    assert heads.top_k_hits(scores, labels, k).shape == (200,)


@pytest.mark.parametrize("k", [0, 5])
def test_more_guesses_than_classes(k):
    with pytest.raises(UserError, match="there are 4 classes"):
        heads.top_k_accuracy(torch.eye(4), np.arange(4), k)


def test_the_classifier_is_kept_and_each_row_has_norm_one(fresh_cache, monkeypatch):
    clip = models.load("ViT-B-16:random")
    classes, templates = ["dumu", "brasp", "dumu"], ("a photo of a {}.", "the {}.")
    weights = heads.classifier(clip, classes, templates)
    assert weights.shape == (3, clip.width)
    torch.testing.assert_close(weights[0], weights[2])  # names may occur twice
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(3))
    monkeypatch.setattr(clip, "_encode_tokens", None)
    assert torch.equal(heads.classifier(clip, classes, templates), weights)
    with pytest.raises(TypeError):
        heads.classifier(clip, classes, templates[:1])


def test_a_template_without_a_place_for_the_class():
    with pytest.raises(UserError, match="'a photo' has no {}"):
        heads.classifier(None, ["dumu"], ["a photo"])
