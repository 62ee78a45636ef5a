"""IoU of maps: counts by hand, and sums that do not depend on how the set was cut."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from perception.errors import DataError
from perception.evaluation.bev_iou import THRESHOLDS, BEVIoU, threshold_counts

CLASSES = ("road", "walkway", "divider")


def maps(seed: int, samples: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(samples, 3, 9, 7, generator=generator)
    probability[probability > 0.9] = 0.5  # exactly on a threshold
    return probability, torch.rand(samples, 3, 9, 7, generator=generator) < probability


def test_counts_are_those_of_each_threshold_alone() -> None:
    probability, target = maps(0)
    counts = threshold_counts(probability, target)
    assert counts.shape == (6, 7, 3, 3) and counts.dtype == torch.int64
    for number, threshold in enumerate(THRESHOLDS):
        told = probability >= torch.tensor(threshold)
        for kind, cells in enumerate((told & target, told & ~target, ~told & target)):
            assert torch.equal(counts[:, number, :, kind], cells.sum((2, 3)))


def test_worked_out_by_hand() -> None:
    iou = BEVIoU(("road",), (0.4, 0.5, 0.6))
    iou.update(torch.tensor([[[[0.45, 0.55, 0.65, 0.1]]]]), torch.tensor([[[[0, 1, 1, 1]]]]))
    iou.update(torch.tensor([[[[0.45, 0.55, 0.9, 0.9]]]]), torch.tensor([[[[0, 0, 1, 1]]]]))
    # Sums over both: at 0.4 4 right, 3 wrong, 1 missed; at 0.5 4, 1, 1; at 0.6 3, 0, 2.
    assert iou.counts[:, 0].tolist() == [[4, 3, 1], [4, 1, 1], [3, 0, 2]]
    assert iou.iou()[:, 0].tolist() == pytest.approx([4 / 8, 4 / 6, 3 / 5])
    assert iou.best()[0].tolist() == pytest.approx([4 / 6]) and iou.best()[1].tolist() == [1]
    train = BEVIoU(("road",), (0.4, 0.5, 0.6), torch.tensor([[[1, 1, 0]], [[1, 1, 0]], [[1, 0, 0]]]))
    figures = iou.figures(train)
    assert figures["miou@0.5"] == pytest.approx(4 / 6) == figures["iou@0.5/road"]
    assert figures["miou@best"] == pytest.approx(4 / 6) and figures["miou@train"] == pytest.approx(3 / 5)


def test_best_is_picked_for_each_class() -> None:
    counts = torch.tensor([[[8, 2, 0], [1, 9, 0]], [[5, 0, 5], [6, 4, 0]]])
    iou = BEVIoU(("a", "b"), (0.4, 0.5), counts)
    figures = iou.figures()
    assert figures["miou@best"] == pytest.approx((0.8 + 0.6) / 2) and figures["miou@0.5"] == pytest.approx(0.55)
    with pytest.raises(DataError, match="not counted"):
        BEVIoU(("a",), (0.4,)).figures()


def test_the_cut_of_the_set_does_not_matter() -> None:
    probability, target = maps(1)
    whole = BEVIoU(CLASSES)
    whole.update(probability, target)
    parts = [BEVIoU(CLASSES) for _ in range(3)]
    for number, sample in enumerate(range(6)):
        parts[number % 3].update(probability[sample : sample + 1], target[sample : sample + 1])
    summed = parts[0] + parts[1] + parts[2]
    assert torch.equal(summed.counts, whole.counts) and int(whole.counts.sum()) > 0
    assert torch.equal(threshold_counts(probability, target).sum(0), whole.counts)
    with pytest.raises(DataError, match="cannot be added"):
        whole + BEVIoU(("a", "b", "c"))
    assert torch.equal(whole.over_ranks().counts, whole.counts)


def test_ranks_add_up(tmp_path: Path) -> None:
    probability, target = maps(2)
    iou = BEVIoU(CLASSES)
    iou.update(probability, target)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert torch.equal(iou.over_ranks().counts, iou.counts)
    finally:
        distributed.destroy_process_group()


def test_cells_that_do_not_count() -> None:
    probability, target = maps(3)
    valid = torch.zeros(6, 9, 7, dtype=torch.bool)
    valid[:, :4] = True
    assert torch.equal(
        threshold_counts(probability, target, valid=valid), threshold_counts(probability[:, :, :4], target[:, :, :4])
    )
    by_class = valid[:, None] & (torch.arange(3)[:, None, None] == 1)
    counts = threshold_counts(probability, target, valid=by_class)
    assert int(counts[:, :, [0, 2]].sum()) == 0 and int(counts[:, :, 1].sum()) > 0


def test_perfect_empty_and_flipped_maps() -> None:
    _, target = maps(4)
    perfect = BEVIoU(CLASSES)
    perfect.update(target.float(), target)
    assert perfect.figures()["miou@0.5"] == 1
    probability, target = maps(5)
    target[:, 2] = False
    probability[:, 2] = 0
    plain, turned = BEVIoU(CLASSES), BEVIoU(CLASSES)
    plain.update(probability, target)
    turned.update(probability.flip(2, 3), target.flip(2, 3))
    assert torch.equal(plain.counts, turned.counts)
    figures = plain.figures()  # nothing of the last class anywhere: it has no IoU, and the mean is over two
    assert torch.isnan(torch.tensor(figures["iou@best/divider"]))
    assert figures["miou@0.5"] == pytest.approx((figures["iou@0.5/road"] + figures["iou@0.5/walkway"]) / 2)


def test_bad_input_is_named() -> None:
    probability, target = maps(6)
    with pytest.raises(DataError, match="after the sigmoid"):
        threshold_counts(probability * 4 - 2, target)
    with pytest.raises(DataError, match="after the sigmoid"):
        threshold_counts(torch.full_like(probability, torch.nan), target)
    with pytest.raises(DataError, match="0 or 1"):
        threshold_counts(probability, target.long() * 255)
    with pytest.raises(DataError, match="of one shape"):
        threshold_counts(probability, target[:, :1])
    with pytest.raises(DataError, match="that rise"):
        threshold_counts(probability, target, (0.5, 0.4))
    with pytest.raises(DataError, match=r"\(B, 2, H, W\)"):
        BEVIoU(("a", "b")).update(probability, target)
    with pytest.raises(DataError, match="counts have shape"):
        BEVIoU(("a",), (0.5,), torch.ones(2, 2, 3))
