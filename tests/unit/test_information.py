import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from lib.errors import UserError
from lib.mutual import information as inf

VISION = np.array([[4, 7, 2, 9], [1, 3, -1, -1], [5, 6, 8, -1]])
LANGUAGE = np.array([[2, 7, 0], [8, 9, 0], [5, 1, 0]])


def contingency(n, m, k):
    table = np.zeros((n, m), dtype=int)
    table[range(k), range(k)] = 1
    return table


@pytest.mark.parametrize("n, m, k", [(15, 50, 1), (15, 50, 5), (9, 4, 4), (1, 1, 1)])
def test_information_is_made_of_the_entropies_of_the_table(n, m, k):
    joint = entropy(contingency(n, m, k).ravel())
    assert inf.information(n, m, k, "definition") == pytest.approx(np.log(n) + np.log(m) - joint)
    assert inf.information(n, m, k, "released") == pytest.approx(np.log(n) + np.log(m) + joint)
    own_mutual_information = mutual_info_score(None, None, contingency=contingency(n, m, k))
    assert inf.information(n, m, k, "consistent") == pytest.approx(own_mutual_information, abs=1e-12)


def test_released_values_of_the_specification():
    k = [0, 1, 2, 3, 5, 8, 15]
    expected = [0, 6.620, 7.313, 7.719, 8.230, 8.700, 9.328]
    np.testing.assert_allclose(inf.information(15, 50, k), expected, atol=5e-4)


@pytest.mark.parametrize("measure", inf.MEASURES)
def test_no_overlap_is_zero_for_every_measure(measure):
    assert inf.information([15, 0], [50, 50], 0, measure).tolist() == [0, 0]


def test_counts_and_last_hit_by_hand():
    n, m, k = inf.overlap_counts(VISION, LANGUAGE)
    assert (n.tolist(), m.tolist(), k.tolist()) == ([4, 2, 3], [3, 3, 3], [2, 0, 1])
    assert inf.last_hit(VISION, LANGUAGE).tolist() == [3, 0, 1]


def test_curves_by_hand():
    dummy = inf.curves(VISION, LANGUAGE)
    np.testing.assert_allclose(dummy[0], [np.log(24), np.log(24), np.log(12), 0, 0])
    np.testing.assert_allclose(dummy[1], [0, 0, 0, np.nan, np.nan])
    np.testing.assert_allclose(dummy[2], [np.log(9), 0, 0, 0, np.nan])
    dropped = inf.curves(VISION, LANGUAGE, removal="drop")
    np.testing.assert_allclose(dropped[0], [np.log(24), np.log(18), np.log(6), 0, 0])
    falling_sign = inf.curves(VISION, LANGUAGE, measure="definition")
    np.testing.assert_allclose(falling_sign[0], [np.log(6), np.log(6), np.log(12), 0, 0])


def test_mean_curve_pads_with_zeros_to_the_longest_list():
    curves = np.array([[4.0, 2, 0], [2.0, 0, np.nan]])
    np.testing.assert_allclose(inf.mean_curve(curves), [3, 1, 0])
    np.testing.assert_allclose(inf.mean_curve(curves, length=4), [3, 1, 0, 0])
    assert inf.auc(inf.mean_curve(curves)) == pytest.approx(4 / 3)
    assert inf.mean_curve(curves[1:]).tolist() == [2, 0]
    with pytest.raises(UserError, match="length = 2"):
        inf.mean_curve(curves, length=2)


def test_image_scores_average_to_the_scores_of_the_mean_curve():
    curves = inf.curves(VISION, LANGUAGE)
    mi, auc = inf.image_scores(curves)
    assert mi.mean() == pytest.approx(inf.mean_curve(curves)[0])
    assert auc.mean() == pytest.approx(inf.auc(inf.mean_curve(curves)))


def test_an_image_without_concept_counts_as_zero():
    curves = inf.curves(np.full((1, 3), -1), LANGUAGE[:1])
    np.testing.assert_array_equal(curves, [[0, np.nan, np.nan, np.nan]])


def test_language_concepts_are_the_nearest_of_each_images_class():
    scores = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    assert inf.language_concepts(scores, [1, 0, 0], 2).tolist() == [[0, 1], [1, 2], [1, 2]]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: inf.information(3, 3, 1, "bits"), "measure 'bits' is unknown"),
        (lambda: inf.information(3, 3, 4), "overlap k"),
        (lambda: inf.curves(VISION, LANGUAGE, removal="delete"), "Removal 'delete' is unknown"),
        (lambda: inf.curves(VISION, LANGUAGE[:2]), "3 vision lists and 2 language lists"),
        (lambda: inf.curves([[1, 1]], [[2, 3]]), "same descriptor twice"),
        (lambda: inf.curves([[-1, 1]], [[2, 3]]), "after its -1 padding"),
        (lambda: inf.curves([[0.5, 1.0]], [[2, 3]]), "expected integers"),
        (lambda: inf.language_concepts(np.zeros((2, 3)), [0], 4), "top_u = 4"),
        (lambda: inf.language_concepts([[np.nan, 1.0]], [0], 1), "NaN"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()
