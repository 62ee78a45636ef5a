"""Losses of TIP against numbers worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from perception.losses.contrastive import clip_loss
from perception.losses.table_image import (
    category_losses,
    draw_cells,
    draw_negatives,
    hidden_cell_loss,
    image_table_contrast,
    same_rows,
)


def unit(rows, width=8):
    return F.normalize(torch.randn(rows, width), dim=1)


@pytest.mark.parametrize(("rows", "temperature"), [(4, 0.1), (7, 0.5), (2, 1.0)])
def test_contrast_of_equal_orthonormal_rows(rows, temperature):
    z = torch.eye(8)[:rows]
    expected = math.log(1 + (rows - 1) * math.exp(-1 / temperature))
    for weight in (0.0, 0.3, 1.0):
        assert image_table_contrast(z, z, temperature, weight).item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_swapping_the_sides_and_the_weights_gives_the_same():
    image, table = unit(5), unit(5)
    forth, back = (image_table_contrast(image, table, 0.2, weight) for weight in (1.0, 0.0))
    assert image_table_contrast(image, table, 0.2, 0.8) == pytest.approx(0.8 * forth + 0.2 * back)
    assert image_table_contrast(table, image, 0.2, 0.2) == pytest.approx(0.8 * forth + 0.2 * back)
    assert abs(forth - back) > 1e-3
    row = (image[1] @ table.T / 0.2).tolist()  # by hand: -log softmax of the first direction
    mean = sum(
        -math.log(math.exp((image[i] @ table[i]) / 0.2) / sum(math.exp((image[i] @ table[j]) / 0.2) for j in range(5)))
        for i in range(5)
    )
    assert len(row) == 5 and forth.item() == pytest.approx(mean / 5, rel=1e-5)


def test_in_equal_parts_it_is_clips():
    image, table = unit(6), unit(6)
    torch.testing.assert_close(image_table_contrast(image, table, 0.1), clip_loss(image, table, 10.0))
    with pytest.raises(ValueError, match="must be embeddings"):
        image_table_contrast(image, table[:5])


def test_negatives_never_come_from_the_diagonal_and_follow_the_softmax():
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 2.0, 1.0, -50.0]]).repeat(20_000, 1)
    square = torch.full((4, 4), -3.0)
    square.fill_diagonal_(99.0)  # however alike a pair is
    for _ in range(300):
        drawn = draw_negatives(square)
        assert (drawn != torch.arange(4)).all()
    big = similarity[:4].clone()
    for options, floor in (({}, 1e-4), ({"floor": 1e-3}, 1e-3), ({"floor": 1.0}, 1.0)):  # softmax: nearly all its own
        counts = torch.zeros(4)
        for _ in range(5_000):
            counts[draw_negatives(big, **options)[0]] += 1
        weights = torch.tensor([9.0, 2.0, 1.0, -50.0]).softmax(0) + floor
        weights[0] = 0.0
        torch.testing.assert_close(counts / 5_000, weights / weights.sum(), atol=0.03, rtol=0)
    with pytest.raises(ValueError, match="at least two"):
        draw_negatives(torch.zeros(1, 1))


def test_equal_tables_are_no_negatives_unless_nothing_is_left():
    table = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0], [1.0, 0.0]])
    missing = torch.tensor([[False, False], [False, False], [False, False], [False, True]])
    equal = same_rows(table, missing)
    by_hand = torch.eye(4, dtype=torch.bool)
    by_hand[0, 1] = by_hand[1, 0] = True
    assert torch.equal(equal, by_hand)
    table[2, 1] = 0.0  # 0 and a hole are different cells
    assert not same_rows(table, missing)[2, 3]
    for _ in range(200):
        drawn = draw_negatives(torch.zeros(4, 4), equal)
        assert set(drawn[:2].tolist()) <= {2, 3} and drawn[2] != 2 and drawn[3] != 3
    drawn = draw_negatives(torch.zeros(3, 3), torch.ones(3, 3, dtype=torch.bool))
    assert (drawn != torch.arange(3)).all()


@pytest.mark.parametrize(
    ("columns", "rate", "count"), [(17, 0.5, 8), (5, 0.5, 2), (7, 0.5, 4), (4, 0.3, 1), (6, 1.0, 6)]
)
def test_exactly_as_many_cells_are_hidden_as_python_rounds(columns, rate, count):
    assert count == round(columns * rate)
    hidden = draw_cells(torch.zeros(50, columns, dtype=torch.bool), rate)
    assert (hidden.mask.sum(1) == count).all() and hidden.valid.all()
    assert hidden.mask.gather(1, hidden.places).all()
    assert count == columns or hidden.mask.float().mean(0).max() < 1  # not always the same ones


def test_hidden_cells_are_seeded_and_never_missing_ones():
    torch.manual_seed(0)
    missing = torch.rand(40, 9) < 0.5
    missing[0], missing[1] = True, False
    torch.manual_seed(3)
    hidden = draw_cells(missing, 0.5)
    torch.manual_seed(3)
    assert torch.equal(draw_cells(missing, 0.5).mask, hidden.mask)
    assert not torch.equal(draw_cells(missing, 0.5).mask, hidden.mask)
    assert not (hidden.mask & missing).any()
    assert hidden.mask.sum(1).tolist() == [round(0.5 * n) for n in (~missing).sum(1).tolist()]
    assert torch.equal(hidden.valid.sum(1), hidden.mask.sum(1)) and hidden.mask[0].sum() == 0


def test_kinds_that_do_not_exist_weigh_nothing():
    empty, cells = torch.zeros(0, requires_grad=True), torch.tensor([1.0, 3.0], requires_grad=True)
    assert hidden_cell_loss(cells, torch.tensor([10.0])) == (2.0 + 10.0) / 2
    assert hidden_cell_loss(cells, empty) == 2.0 and hidden_cell_loss(empty, cells) == 2.0
    nothing = hidden_cell_loss(empty, empty)
    nothing.backward()
    assert nothing == 0


def test_category_losses():
    logits, target = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 9.0]]), torch.tensor([1, 0])
    p = [math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(0.5)), 1 / (2 + math.exp(9))]
    expected = torch.tensor([-math.log(v) for v in p])
    torch.testing.assert_close(category_losses(logits, target), expected)
    shifted = torch.tensor([-math.log(v + 1e-8) for v in p])
    torch.testing.assert_close(category_losses(logits, target, "global"), shifted)
    certain = torch.tensor([[60.0, 0.0]])
    for vocabulary in ("column", "global"):
        assert abs(category_losses(certain, torch.tensor([0]), vocabulary).item()) <= 1e-6
