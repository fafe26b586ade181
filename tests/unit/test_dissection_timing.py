"""Times of the steps of a dissection: which there are, what they hold, and that they are really taken."""

import pytest
import torch

from lib import store
from lib.dissection import similarity, timing
from lib.dissection.options import Options
from lib.errors import UserError
from lib.given import Given

TARGET = "ViT-B-32-supervised"
OPTIONS = Options(layers="last", concepts="descriptors")


def test_a_line_says_what_it_is_about_and_how_long_it_took():
    lines = []
    with timing.timed(lines, step="nothing"):
        pass
    assert lines[0]["step"] == "nothing" and 0 <= lines[0]["seconds"] < 0.1


def test_every_step_of_a_target_is_timed_and_nothing_is_taken_from_the_store(monkeypatch):
    kinds, real = [], store.tensors
    monkeypatch.setattr(store, "tensors", lambda key, compute: kinds.append(key["kind"]) or real(key, compute))
    seen = timing.steps(Given(TARGET, limit=2), OPTIONS)
    steps = seen.table.groupby("step").seconds.sum()
    assert set(steps.index) == {
        *("read", "embed", "activations", "labels", "labels, released way", "Network Dissection")
    }
    assert (steps > 0).all() and set(kinds) <= {"digests", "pictures"}  # of files; the miniature is drawn once
    labels = seen.table[seen.table.step == "labels"]
    assert labels.layer.tolist() == seen.notes["layers"] and (labels.same <= labels.neurons).all()
    assert labels.same.sum() >= 0.9 * labels.neurons.sum()


def test_what_is_timed_is_the_path_that_pages_take(monkeypatch):
    called = []
    real = similarity.scores

    def scores(name, *given, **changed):
        called.append(name)
        return real(name, *given, **changed)

    monkeypatch.setattr(similarity, "scores", scores)
    seen = timing.similarities(Given("any"), timing.Problem(400, 200, 20, 512))
    assert called == ["rank_reorder", "wpmi", "soft_wpmi"]
    assert seen.table.groupby("similarity").same.first().to_dict() == dict.fromkeys(called, 20)
    assert seen.table.step.tolist() == ["labels", "labels, released way"] * 3


def test_random_inputs_look_like_those_of_a_clip():
    q, X, T = timing.random_inputs(timing.Problem(300, 200, 10, 512))
    assert q.shape == (300, 10) and X.shape == (300, 512) and T.shape == (200, 512) and (q >= 0).all()
    torch.testing.assert_close(X.norm(dim=1), torch.ones(300))
    assert 0.1 < float((X @ T.T).mean()) < 0.3
    assert torch.equal(q, timing.random_inputs(timing.Problem(300, 200, 10, 512))[0])


def test_a_problem_needs_more_than_one_of_each():
    with pytest.raises(UserError, match=r"Problem\(.*problem_words=1.* is no problem; give two at least"):
        timing.Problem(problem_words=1)
