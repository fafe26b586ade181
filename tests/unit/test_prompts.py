import numpy as np
import pytest
import torch
from skimage.filters import gaussian

from lib.errors import UserError
from lib.mutual import prompts


def picture(size=48, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 250, (3, size, size), dtype=np.uint8))


def disc(size=48, centre=(20, 28), radius=9, part=2):
    y, x = np.mgrid[:size, :size]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
    return torch.from_numpy(np.where(inside, part, -1))


def test_ellipse_of_a_disc_is_the_disc():
    (x, y), (width, height), _ = prompts.part_ellipse((disc() >= 0).numpy().astype(np.uint8))
    assert (x, y) == pytest.approx((28, 20), abs=0.1)
    assert (width, height) == pytest.approx((17, 17), abs=0.3)  # through pixel centres within the radius


def test_variants_of_a_disc():
    image = picture()
    shown, image_index, part_index = prompts.red_circles(image[None], disc()[None])
    assert shown.shape == (1, 3, 3, 48, 48) and shown.dtype == torch.uint8
    assert (image_index.tolist(), part_index.tolist()) == ([0], [2])
    y, x = np.mgrid[:48, :48]
    distance = torch.from_numpy(np.hypot(y - 20, x - 28))
    red = (shown[0] == torch.tensor([255, 0, 0])[:, None, None]).all(dim=1)
    assert (distance[red[0]] - 9).abs().max() < 1.5 and red[0].sum() > 40
    assert (red == red[0]).all()
    inside, outside = distance < 7, distance > 10.5
    assert (shown[0, :, :, inside] == image[:, inside]).all()
    assert (shown[0, 0, :, outside] == image[:, outside]).all()
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * image).sum(dim=0)
    assert (shown[0, 1].float() - luma)[:, outside].abs().max() <= 1
    # OpenCV's automatic sigma for a width of 11
    blurred = gaussian(image.numpy().astype(float), sigma=(0, 2, 2), truncate=2.5, mode="mirror")
    assert np.abs(shown[0, 2].numpy() - blurred)[:, outside].max() <= 2


def test_label_maps_are_scaled_up_and_parts_come_in_order():
    grid = torch.full((2, 6, 6), -1)
    grid[0, 1:3, 1:3], grid[0, 4:, 4:], grid[1, 2:4, 2:4] = 3, 1, 0
    pixels = torch.stack([picture(), picture(seed=1)])
    shown, image_index, part_index = prompts.red_circles(pixels, grid)
    assert (image_index.tolist(), part_index.tolist()) == ([0, 0, 1], [1, 3, 0])
    full_size = grid.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    assert (prompts.red_circles(pixels, full_size)[0] == shown).all()


def test_only_the_largest_piece_of_a_part_is_circled():
    both = torch.where(disc(centre=(40, 6), radius=4) >= 0, 2, disc())
    shown = prompts.red_circles(picture()[None], both[None])[0]
    assert (shown == prompts.red_circles(picture()[None], disc()[None])[0]).all()


@pytest.mark.parametrize("rows, columns", [((3, 4), (5, 6)), ((3, 5), (4, 6)), ((7, 8), (0, 20)), ((0, 1), (0, 1))])
def test_pieces_without_five_points_or_without_area(rows, columns):
    mask = np.zeros((24, 24), np.uint8)
    mask[slice(*rows), slice(*columns)] = 1
    (x, y), size, _ = prompts.part_ellipse(mask)
    assert (x, y) == ((columns[0] + columns[1] - 1) / 2, (rows[0] + rows[1] - 1) / 2)
    assert np.isfinite(size).all() and min(size) > 0
    labels = torch.from_numpy(mask.astype(int) - 1)[None]
    first, second = (prompts.red_circles(picture(24)[None], labels)[0] for _ in range(2))
    assert (first == second).all() and (first[0, 0] != picture(24)).any()


def test_no_part_gives_no_prompt():
    shown, image_index, part_index = prompts.red_circles(picture()[None], torch.full((1, 6, 6), -1))
    assert shown.shape == (0, 3, 3, 48, 48) and len(image_index) == len(part_index) == 0


def test_bad_input_is_one_clear_sentence():
    with pytest.raises(UserError, match="expected uint8"):
        prompts.red_circles(picture()[None].float(), disc()[None])
    with pytest.raises(UserError, match="2 label maps were given for 1 images"):
        prompts.red_circles(picture()[None], torch.stack([disc(), disc()]))


def test_by_image_puts_rows_in_their_places():
    rows = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    padded, present = prompts.by_image(rows, torch.tensor([0, 0, 2]), torch.tensor([1, 0, 1]), images=3, parts=2)
    assert padded.tolist() == [[[3, 4], [1, 2]], [[0, 0], [0, 0]], [[0, 0], [5, 6]]]
    assert present.tolist() == [[True, True], [False, False], [False, True]]
