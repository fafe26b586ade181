"""A record cannot lie: whatever decides it is in its key, and what doesn't decide it isn't."""

import json
import time

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow


def test_a_comment_or_docstring_changes_nothing_and_the_record_is_found(house):
    first = house.measure()
    house.edit("trial/method.py", "# a comment", "# another comment")
    house.edit("trial/method.py", '"""Cosine of two embeddings of each image."""', '"""The cosine."""')
    assert house.measure() == first and len(house.cards()) == 1


def test_changed_method_code_is_computed_again_and_takes_the_place_of_the_old_record(house):
    first = house.measure()
    house.edit("trial/method.py", "(images * others).sum(1)", "2 * (images * others).sum(1)")
    second = house.measure()
    assert second["mean"] == pytest.approx(2 * first["mean"]) and second["written"] != first["written"]
    assert len(house.cards()) == 1


def test_a_changed_module_of_another_room_counts_too(house):
    first = house.measure()
    house.edit("models/vision.py", "def to_pixels(", "def _unused():\n    return 1\n\n\ndef to_pixels(")
    assert house.measure()["written"] != first["written"]


def test_code_that_only_shows_does_not_count(house):
    first = house.measure()
    house.edit("show/figures.py", "def style(", "def _unused():\n    return 1\n\n\ndef style(")
    assert house.measure() == first


def test_a_retrained_second_model_is_computed_again(house):
    first = house.measure()
    path = house.root / "data" / "bestiary" / "zoo" / "RN50.safetensors"
    state = load_file(path)
    name = next(k for k in sorted(state) if k.endswith("attnpool.c_proj.weight"))
    state[name] = -state[name]
    save_file(state, path)
    second = house.measure()
    assert second["written"] != first["written"] and second["mean"] != first["mean"]


def test_another_option_has_a_record_of_its_own_and_the_first_is_untouched(house):
    first = house.measure()
    before = {p: p.read_bytes() for p in house.results.rglob("*") if p.is_file()}
    other = house.measure(options={"factor": 3.0})
    assert other["mean"] == pytest.approx(3 * first["mean"])
    assert all(p.read_bytes() == content for p, content in before.items())
    assert house.measure() == first and house.measure(options={"factor": 3.0}) == other


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"seed": 1}, {"limit": 3}], ids=str)
def test_another_precision_seed_or_limit_has_a_record_of_its_own(house, change):
    first = house.measure()
    assert house.measure(**change)["written"] != first["written"] and len(house.cards()) == 2
    assert house.measure() == first


def test_a_changed_picture_is_computed_again_and_a_copied_folder_is_found(house, tmp_path):
    folder = tmp_path / "pictures"
    for k, name in enumerate(["cat", "dog", "owl"]):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 30), (40 * i, 80 * k, 90)).save(folder / name / f"{i}.png")
    options = {"dataset": str(folder), "model": "mini-ViT-B-32:random", "models": ["mini-RN50:random"]}
    house.edit("trial/observe.py", 'given.open_model("RN50")', "given.model")
    first = house.measure(**options)
    for path in folder.rglob("*.png"):  # as after a copy: the same content, another time
        path.touch()
    assert house.measure(**options) == first
    Image.new("RGB", (40, 30), (255, 0, 0)).save(folder / "cat" / "0.png")
    assert house.measure(**options)["written"] != first["written"]


def test_a_function_that_opens_a_model_by_itself_is_refused(house):
    with pytest.raises(RuntimeError, match="hidden opened the model 'RN50' by itself.*given.open_model"):
        house.measure(function="hidden")
    assert not house.cards()


def test_a_record_opens_without_this_project_and_says_what_decided_it(house):
    house.measure()
    card = json.loads(house.cards()[0].read_text())
    table = pd.read_parquet(house.cards()[0].parent / card["files"]["table"]["name"])
    assert list(table.columns) == ["image", "class", "x"] and len(table) == 16
    assert [request for request, _ in card["opened"]] == [
        ["images", "bestiary", "val", 2, 0], ["model", "RN101"], ["model", "RN50"],
    ]  # fmt: skip
    assert card["asked"]["options"] == {"factor": 1.0} and card["asked"]["precision"] == "fp32"


@pytest.mark.parametrize("part", ["table", "card"])
def test_a_damaged_record_is_named_and_computed_again(house, part):
    first = house.measure()
    path = house.cards()[0]
    card = json.loads(path.read_text())
    victim = path if part == "card" else path.parent / card["files"]["table"]["name"]
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    time.sleep(1)  # the time of writing is in full seconds
    again = house.measure()
    assert "is damaged" in again["said"] and again["mean"] == first["mean"] and again["written"] != first["written"]
