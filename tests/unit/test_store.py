"""The store: what is kept is found again, whole and verified, or computed anew."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from lib import store
from lib.errors import UserError

KEY = {"kind": "numbers", "seed": 0, "names": ["a", "b"]}


@pytest.fixture
def one_code(monkeypatch):
    """All functions count as the same code, so that `never` can stand for `numbers`."""
    monkeypatch.setattr(store.code, "of", lambda function: "code")


def numbers():
    return {
        "half": torch.arange(5).to(torch.bfloat16),
        "yes": torch.tensor([True, False]),
        "one": torch.tensor(1.5),
    }


def never():
    raise AssertionError("computed although it was kept")


def same(left, right):
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def kept_file(folder):
    (file,) = (folder / "numbers").glob("*.safetensors")
    return file


def test_a_result_is_computed_once_and_comes_back_bit_equal(one_code, fresh_cache):
    assert same(store.tensors(KEY, numbers), numbers())
    assert same(store.tensors(KEY, never), numbers())


def test_the_order_of_a_key_does_not_matter_and_its_values_do(one_code, fresh_cache):
    store.tensors(KEY, numbers)
    store.tensors(dict(reversed(KEY.items())), never)
    other = store.tensors({**KEY, "seed": 1}, lambda: {"x": torch.zeros(2)})
    assert list(other) == ["x"]
    assert len(list((fresh_cache / "numbers").glob("*.safetensors"))) == 2


def test_other_code_is_another_result(fresh_cache, monkeypatch):
    monkeypatch.setattr(store.code, "of", lambda function: "before")
    store.tensors(KEY, numbers)
    monkeypatch.setattr(store.code, "of", lambda function: "after")
    assert list(store.tensors(KEY, lambda: {"x": torch.zeros(2)})) == ["x"]


def test_the_sidecar_says_what_the_file_is(fresh_cache):
    store.tensors(KEY, numbers)
    about = json.loads(kept_file(fresh_cache).with_suffix(".json").read_text())
    assert about["names"] == ["a", "b"]
    assert about["tensors"]["half"] == ["torch.bfloat16", [5]]


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-3])


def emptied(file):
    file.write_bytes(b"")


def one_bit_flipped(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def something_else(file):
    file.write_text("not a tensor in sight")


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_flipped, something_else])
def test_a_damaged_file_is_computed_again_with_one_line_of_reason(one_code, fresh_cache, capsys, damage):
    store.tensors(KEY, numbers)
    damage(kept_file(fresh_cache))
    assert same(store.tensors(KEY, numbers), numbers())
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "damaged" in said and "computed again" in said
    store.tensors(KEY, never)


def test_a_file_of_another_key_is_not_trusted(one_code, fresh_cache, capsys):
    store.tensors(KEY, numbers)
    mine = kept_file(fresh_cache)
    store.tensors({**KEY, "seed": 1}, lambda: {"x": torch.zeros(2)})
    (other,) = set((fresh_cache / "numbers").glob("*.safetensors")) - {mine}
    mine.write_bytes(other.read_bytes())
    assert same(store.tensors(KEY, numbers), numbers())
    assert "damaged" in capsys.readouterr().err


def test_an_interrupted_write_leaves_the_last_good_file_and_nothing_else(one_code, fresh_cache, monkeypatch):
    store.tensors(KEY, numbers)
    one_bit_flipped(kept_file(fresh_cache))
    damaged = kept_file(fresh_cache).read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.os, "replace", interrupted)
        store.tensors(KEY, numbers)
    assert kept_file(fresh_cache).read_bytes() == damaged  # not half a new one
    assert not list((fresh_cache / "numbers").glob(".*"))
    store.tensors(KEY, numbers)
    # whole again: read without computing (its bytes may differ, safetensors' header has no fixed order)
    assert same(store.tensors(KEY, lambda: pytest.fail("computed although it is kept")), numbers())


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file"))
    assert same(store.tensors(KEY, numbers), numbers())
    assert "is not kept" in capsys.readouterr().err


def test_tensors_that_share_memory_are_kept(one_code, fresh_cache):
    base = torch.arange(6).view(2, 3)
    views = {"all": base, "row": base[1], "turned": base.T}
    store.tensors(KEY, lambda: views)
    assert same(store.tensors(KEY, never), views)


def test_a_key_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError):
        store.digest({"kind": "numbers", "x": float("nan")})


def test_the_digest_of_tensors_sees_names_shapes_types_and_values():
    one = {"w": torch.zeros(2, 3)}
    others = [
        {"v": torch.zeros(2, 3)},
        {"w": torch.zeros(3, 2)},
        {"w": torch.zeros(2, 3).int()},
        {"w": torch.ones(2, 3)},
    ]
    digests = {store.digest_tensors(t) for t in [one, *others]}
    assert len(digests) == 5
    assert store.digest_tensors({"w": torch.zeros(3, 2).T}) == store.digest_tensors(one)


WRITER = """
import torch
from lib import store
store.code.of = lambda function: "code"
for seed in range(30):
    key = {"kind": "race", "seed": seed}
    found = store.tensors(key, lambda: {"x": torch.full((50000,), seed)})
    assert (found["x"] == seed).all()
"""


def test_processes_at_once_neither_fail_nor_damage_a_file(one_code, fresh_cache):
    runs = [subprocess.Popen([sys.executable, "-c", WRITER], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert said == ["", ""]
    for seed in range(30):
        store.tensors({"kind": "race", "seed": seed}, never)
    assert not list((fresh_cache / "race").glob(".*"))


# --- records


CARD = {"exhibit": "table3", "key": "k", "opened": ["ViT-B-16"]}


def seen(value=1.0):
    table = pd.DataFrame({"image": [0, 1], "class": ["dumu", "brasp"], "mi": [value, np.nan]})
    return store.Seen(table, {"curve": np.arange(6, dtype=np.float32).reshape(2, 3).T}, {"d": np.int64(3)})


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = tmp_path / "table3" / "ViT-B-16.json"
    assert store.read_record(path) is None
    card = store.write_record(path, seen(), CARD)
    found, content = store.read_record(path)
    assert found == card and card["notes"] == {"d": 3} and card["exhibit"] == "table3"
    pd.testing.assert_frame_equal(content.table, seen().table)
    assert np.array_equal(content.tensors["curve"], seen().tensors["curve"])
    assert pd.read_parquet(path.parent / card["files"]["table"]["name"]).equals(content.table)  # without this project


def test_a_record_without_tensors(tmp_path):
    path = tmp_path / "a.json"
    store.write_record(path, store.Seen(pd.DataFrame({"x": [1]})), CARD)
    assert store.read_record(path)[1].tensors == {} and len(list(tmp_path.iterdir())) == 2


def test_writing_again_leaves_nothing_of_the_old_record(tmp_path):
    path = tmp_path / "a.json"
    store.write_record(path, seen(1.0), CARD)
    store.write_record(tmp_path / "ab.json", seen(3.0), CARD)
    store.write_record(path, seen(2.0), CARD)
    assert store.read_record(path)[1].table["mi"][0] == 2 and store.read_record(tmp_path / "ab.json")
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_flipped, something_else])
@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_a_damaged_record_is_none_and_is_named(tmp_path, capsys, damage, suffix):
    store.write_record(tmp_path / "a.json", seen(), CARD)
    (file,) = tmp_path.glob(f"*{suffix}")
    damage(file)
    assert store.read_record(tmp_path / "a.json") is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "The record a.json is damaged" in said


def test_a_table_that_was_changed_is_not_believed(tmp_path, capsys):
    store.write_record(tmp_path / "a.json", seen(), CARD)
    (file,) = tmp_path.glob("*.parquet")
    table = pd.read_parquet(file)
    table["mi"] *= 2
    table.to_parquet(file, index=False)
    assert store.read_record(tmp_path / "a.json") is None and "changed" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": {}}'])
def test_a_card_that_is_none(tmp_path, capsys, content):
    (tmp_path / "a.json").write_text(content)
    assert store.read_card(tmp_path / "a.json") is None is store.read_record(tmp_path / "a.json")
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("at", [1, 2, 3])  # the table, the tensors, the card
def test_a_writer_that_was_killed_leaves_the_old_record(tmp_path, monkeypatch, at):
    path = tmp_path / "a.json"
    card = store.write_record(path, seen(1.0), CARD)
    replace, calls = os.replace, []

    def killed(*names):
        calls.append(names)
        if len(calls) == at:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(store.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write_record(path, seen(2.0), CARD)
    found, content = store.read_record(path)
    assert found == card and content.table["mi"][0] == 1.0


def test_only_what_was_handed_over_is_opened():
    store.must_be_handed("the model 'RN50'")
    with store.measuring("observe.table3"):
        with pytest.raises(UserError, match="observe.table3 opened the model 'RN50' by itself"):
            store.must_be_handed("the model 'RN50'")
        with store.measuring(None):  # by way of what is handed over
            store.must_be_handed("the model 'RN50'")
        with pytest.raises(UserError):
            store.must_be_handed("the model 'RN50'")
    store.must_be_handed("the model 'RN50'")
