import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from lib.errors import UserError
from lib.mutual import matching


def similarities(images=6, parts=5, bank=60, spread=0.03, seed=0):
    generator = torch.Generator().manual_seed(seed)
    similarity = 0.25 + spread * torch.randn(images, parts, bank, generator=generator)
    fit = 0.25 + 0.03 * torch.randn(images, bank, generator=generator)
    return similarity, fit, torch.ones(images, parts, dtype=torch.bool)


def rounds_one_by_one(similarity, rounds, temperature=1.0):
    """The plan itself, scaled row by row and column by column."""
    plan = np.exp(2.5 * similarity.double().numpy() / temperature)
    for _ in range(rounds):
        plan /= plan.sum(axis=1, keepdims=True)
        plan /= plan.sum(axis=0, keepdims=True)
    return plan


def matched(similarity, fit, present, top=500, rules=("intersection", "released"), **options):
    """Candidates, relevance filter and match, as the pipeline joins them."""
    candidate = matching.relevant(fit, matching.candidates(similarity, present, top, rules[0]), rules[1])
    return matching.match(similarity, present, candidate, **options)


def everything(similarity):
    return torch.ones(similarity.shape[0], similarity.shape[2], dtype=torch.bool)


@pytest.mark.parametrize("rounds", [1, 2, 5, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_scaling_factors_give_the_plan_of_as_many_rounds(rounds, temperature):
    similarity, _, present = similarities(images=2)
    plan = matching.sinkhorn(similarity, present, everything(similarity), temperature, rounds)
    for ours, image in zip(plan, similarity, strict=True):
        np.testing.assert_allclose(ours, rounds_one_by_one(image, rounds, temperature), rtol=1e-9)


def test_twelve_rounds_rank_as_a_thousand_do():
    similarity, fit, present = similarities(images=20, bank=400)
    short, published = (matched(similarity, fit, present, top=300, rounds=r) for r in (12, 1000))
    assert (short == published).all()
    for image, candidate, ids in zip(
        similarity,
        matching.relevant(fit, matching.candidates(similarity, present, 300)),
        published,
        strict=True,
    ):
        chosen = candidate.nonzero().ravel()
        order = np.argsort(-rounds_one_by_one(image[:, chosen], 1000), axis=1)[:, :3]
        assert (chosen[order] == ids).all()


def test_a_round_comes_nearer_to_the_limit_at_birkhoffs_rate():
    similarity, _, present = similarities(images=1, spread=0.1)
    score = 2.5 * similarity[0].double()
    cross = score[:, None, :, None] - score[:, None, None, :] - score[None, :, :, None] + score[None, :, None, :]
    rate = torch.tanh(cross.max() / 4) ** 2
    limit, *plans = (matching.sinkhorn(similarity, present, everything(similarity), rounds=r)[0] for r in (99, 1, 2, 3))
    ratios = [(plan / limit).log()[0] for plan in plans]
    distances = [float(r.max() - r.min()) for r in ratios]
    assert 0 < distances[1] <= rate * distances[0] and distances[2] <= rate * distances[1]


def test_transport_amounts_to_similarity_centred_over_parts():
    similarity, fit, present = similarities(images=20, bank=400)
    transport, centred, plain = (
        matched(similarity, fit, present, matching=m, top=300) for m in ("transport", "centred", "top")
    )
    assert (transport == centred).double().mean() > 0.95
    assert (transport == plain).double().mean() < 0.5


def test_transport_by_hand():
    # both parts prefer descriptor 0; part 0 by more than part 1. Descriptor 1 is, relatively, part 1's.
    similarity = torch.tensor([[[0.9, 0.1, 0.2], [0.8, 0.7, 0.2]]])
    fit, present = torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool)
    assert matched(similarity, fit, present, per_part=1).tolist() == [[[0], [1]]]
    assert matched(similarity, fit, present, per_part=1, matching="top").tolist() == [[[0], [0]]]


def test_nearest_ranks_the_candidates_and_top_the_whole_bank():
    similarity = torch.tensor([[[0.9, 0.1, 0.5, 0.3], [0.9, 0.2, 0.1, 0.4]]])
    fit, present = torch.tensor([[-9.0, 0, 0, 0]]), torch.ones(1, 2, dtype=torch.bool)  # the filter drops 0
    options = {"per_part": 2, "top": 4}
    assert matched(similarity, fit, present, matching="nearest", **options).tolist() == [[[2, 3], [3, 1]]]
    assert matched(similarity, fit, present, matching="top", **options).tolist() == [[[0, 2], [0, 3]]]


def test_candidates_by_hand():
    similarity = torch.tensor([[[4.0, 3, 2, 1], [1.0, 4, 3, 2], [9.0, 0, 0, 8]]])
    present = torch.tensor([[True, True, False]])
    assert matching.candidates(similarity, present, top=2).tolist() == [[False, True, False, False]]
    assert matching.candidates(similarity, present, top=2, candidates="union").tolist() == [[True, True, True, False]]
    assert matching.candidates(similarity, present, top=99).all()
    assert not matching.candidates(similarity, present & False, top=4).any()


def test_relevance_rules_by_hand():
    fit = torch.tensor([[0.10, 0.20, 0.21, 0.60, 9.0]])
    candidate = torch.tensor([[True, True, True, True, False]])  # mean 0.2775, median 0.205
    released, paper, none = (matching.relevant(fit, candidate, rule) for rule in ("released", "paper", "none"))
    assert released.tolist() == [[False, False, False, True, False]]
    assert matching.relevant(fit, candidate, offset=0.07).tolist() == [[False, False, True, True, False]]
    assert paper.tolist() == [[False, False, False, True, False]]
    assert matching.relevant(fit, candidate, "paper", offset=0.004).tolist() == [[False, False, True, True, False]]
    assert (none == candidate).all()


def test_absent_parts_count_for_nothing():
    similarity, fit, present = similarities()
    present[:, 3:] = False
    garbage = similarity.clone()
    garbage[:, 3:] = 7
    ours = matched(garbage, fit, present, top=30)
    assert (ours[:, 3:] == -1).all()
    assert (ours[:, :3] == matched(similarity[:, :3], fit, present[:, :3], top=30)).all()


def test_a_single_part_is_ranked_by_similarity():
    similarity = torch.tensor([[[0.3, 0.9, 0.5, 0.7]]])
    ids = matched(similarity, torch.zeros(1, 4), torch.ones(1, 1, dtype=torch.bool))
    assert ids.tolist() == [[[1, 3, 2]]]


def test_no_common_candidate_is_no_concept():
    similarity = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.2]]])
    present = torch.ones(2, 2, dtype=torch.bool)
    ids = matched(similarity, torch.zeros(2, 2), present, top=1, per_part=2)
    assert ids.tolist() == [[[-1, -1], [-1, -1]], [[0, -1], [0, -1]]]
    assert (matched(similarity[:1], torch.zeros(1, 2), present[:1], top=1, per_part=2) == -1).all()
    assert matching.vision_concepts(ids, torch.zeros(2, 2)).tolist() == [[-1] * 4, [0, -1, -1, -1]]


def test_vision_concepts_by_hand():
    top_ids = torch.tensor([[[5, 2, 4], [2, 0, -1]]])
    fit = torch.tensor([[0.1, 9.0, 0.3, 9.0, 0.1, 0.2]])
    assert matching.vision_concepts(top_ids, fit).tolist() == [[2, 5, 4, 0, -1, -1]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"similarity": torch.full((6, 5, 60), torch.nan)}, "NaN"),
        ({"fit": torch.full((6, 60), torch.nan)}, "NaN"),
        ({"per_part": 61}, "per_part = 61"),
        ({"matching": "greedy"}, "matching is 'greedy'; choose one of transport, centred, nearest, top"),
        ({"rules": ("all", "none")}, "candidates is 'all'"),
        ({"rules": ("union", "mean")}, "relevance is 'mean'"),
        ({"top": 0}, "top = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, message):
    arguments = dict(zip(("similarity", "fit", "present"), similarities(), strict=True)) | change
    with pytest.raises(UserError, match=message):
        matched(**arguments)


def test_shapes_that_do_not_fit_are_named():
    similarity, _, present = similarities()
    with pytest.raises(UserError, match="do not fit; expected"):
        matching.match(similarity, present, torch.ones(6, 59, dtype=torch.bool))


def test_entropy_of_an_image_is_that_of_scipy():
    ids = np.array([[[1, 2, 3], [1, 2, 4]], [[5, 5, 5], [-1, -1, -1]], [[-1, -1, -1]] * 2])
    found = matching.entropy(ids)
    assert found[0] == pytest.approx(scipy_entropy([2, 2, 1, 1])) and found[1] == 0 and found[2] == 0
    assert matching.entropy(ids, "bits")[0] == pytest.approx(scipy_entropy([2, 2, 1, 1], base=2))
    distinct = np.arange(15).reshape(1, 5, 3)
    assert matching.entropy(distinct)[0] == pytest.approx(np.log(15))
    with pytest.raises(UserError, match="unit is 'shannons'; choose one of nats, bits"):
        matching.entropy(ids, "shannons")


def test_agreement_by_hand():
    a = np.array([[[1, 2], [3, 4]], [[-1, -1], [-1, -1]]])
    b = np.array([[[2, 1], [4, 5]], [[-1, -1], [-1, -1]]])
    found = matching.agreement(a, b)
    assert found[0] == 0.75 and np.isnan(found[1])
