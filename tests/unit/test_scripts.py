"""The scripts: what each chooses or trains, small, and what it writes."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from lib import models, store
from lib.bestiary import SPLITS
from lib.data import load as load_images
from lib.errors import UserError
from lib.mutual import baselines
from lib.mutual.options import Training
from scripts import choose_adversarial, choose_foreground, train_bottlenecks, train_zoo
from training import recipes, zoo


@pytest.fixture
def small_world(monkeypatch, fresh_cache):
    """A train split of 144 pictures and a val of 48."""
    for split, each in (("train", 3), ("val", 1)):
        monkeypatch.setitem(SPLITS, split, (SPLITS[split][0], each))


def test_choice_of_the_foreground_is_sorted_by_localisation():
    clip = models.load("ViT-B-16")
    tried = choose_foreground.tried(clip, load_images("bestiary", "train", images=6))
    assert len(tried) == len(choose_foreground.candidates("ViT")) == 24
    assert tried["iou"].is_monotonic_decreasing
    assert tried["iou"].between(0, 1).all()


def test_the_choice_of_the_foreground_changes_one_line_of_the_catalogue(monkeypatch, tmp_path, fresh_cache):
    before = models.catalogue()
    before.to_csv(tmp_path / "models.csv")
    monkeypatch.setattr(choose_foreground, "DATA", tmp_path)
    best = pd.DataFrame([{"feature": "keys", "layer": -2, "method": "pca", "component": 0, "iou": 0.51234}])
    monkeypatch.setattr(choose_foreground, "tried", lambda clip, data: best)
    choose_foreground.main(["RN50"])
    after = pd.read_csv(tmp_path / "models.csv", dtype=str, keep_default_na=False).set_index("name")
    assert list(after.loc["RN50", after.columns.str.startswith("mini_")]) == ["keys", "-2", "pca", "0", "0.512"]
    assert after.drop("RN50").equals(before.drop("RN50"))


@pytest.mark.slow
def test_the_supervised_judge_learns_labels(small_world):
    lines = []
    model, clip, top1 = choose_adversarial.supervised(device="cpu", epochs=15, batch_size=48, log=lines.append)
    train = load_images("bestiary", "train")
    assert (recipes.labelled(model, clip, clip.pixels(train)) == train.labels).mean() > 0.1  # 1 in 48 by chance
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert 0 <= top1 <= 1


def test_the_adversarial_pictures_are_those_that_the_judge_gets_wrong(small_world, monkeypatch, tmp_path):
    class Blind:
        image_size = 32

    monkeypatch.setattr(choose_adversarial, "ADVERSARIAL", tmp_path / "adversarial.json")
    monkeypatch.setattr(choose_adversarial, "supervised", lambda seed, device, epochs: (None, Blind(), 0.5))
    said = np.arange(96) % 48
    said[[0, 50, 95]] += 1
    monkeypatch.setattr(choose_adversarial, "labelled", lambda model, clip, pixels: said)
    about = choose_adversarial.main(device="cpu", each=2)
    assert about == {"seed": 0, "candidates": 96, "wrong": 3, "supervised_top1_val": 0.5}
    assert json.loads((tmp_path / "adversarial.json").read_text())["indices"] == [0, 50, 95]


def test_the_zoo_is_listed_with_what_has_been_trained(capsys):
    train_zoo.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipes.all_recipes())
    assert any(line.startswith("RN50 ") and "top-1 0.714, seed 0" in line for line in lines)


def test_models_are_trained_in_the_order_of_the_recipes_with_the_options_that_were_given(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(zoo, "train", lambda *options, **changes: calls.append((*options[:5], changes)))
    train_zoo.main(["RN50-finetuned", "RN50", "--seed", "3", "--epochs", "1", "--folder", str(tmp_path)])
    assert [call[0] for call in calls] == ["RN50", "RN50-finetuned"]
    assert calls[0][1:] == (3, "auto", tmp_path, False, {"epochs": 1})
    calls.clear()
    train_zoo.main(["all", "--again"])
    assert [call[0] for call in calls] == list(recipes.all_recipes())
    assert calls[0][4:] == (True, {})


def test_an_unknown_model_is_refused_before_any_training(monkeypatch):
    monkeypatch.setattr(zoo, "train", None)
    with pytest.raises(UserError, match="no recipe for 'RN51'.*RN50"):
        train_zoo.main(["RN50", "RN51"])


def test_what_a_recipe_starts_from_stands_above_it():
    known = recipes.all_recipes()
    order = list(known)
    for name, how in known.items():
        for other in {how.start, how.filter} - {""}:
            assert order.index(other) < order.index(name)


def test_bottlenecks_are_written_with_the_recipe_by_which_they_are_found_again(monkeypatch, tmp_path):
    monkeypatch.setattr(train_bottlenecks, "ROOT", tmp_path)
    monkeypatch.setattr(baselines, "trained", lambda method, *_: {"weight": torch.ones(2) * len(method)})
    train_bottlenecks.main(["ViT-B-16"])
    how = baselines.recipe(models.load("ViT-B-16"), load_images("bestiary", "train"), Training())
    with safe_open(tmp_path / baselines.FOLDER / "ViT-B-16.safetensors", framework="pt") as file:
        assert file.metadata() == {"recipe": store.digest(how)}
        assert set(file.keys()) == {f"{method}.weight" for method in baselines.METHODS}
        assert file.get_tensor("lf_cbm.weight").tolist() == [6, 6]
