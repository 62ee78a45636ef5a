from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TinyVectors

from perception.engine import sampler as sampler_module
from perception.engine.data import build_dataloader
from perception.engine.randomness import isolated_rng, rng_state, seed_all, set_rng_state
from perception.engine.sampler import ResumableSampler
from perception.errors import ConfigError


def draw(sampler: ResumableSampler, epoch: int, start: int = 0) -> list[int]:
    sampler.set_epoch(epoch, start)
    keys = list(sampler)
    assert all(key.epoch == epoch for key in keys)
    return [int(key) for key in keys]


def ranks(monkeypatch: pytest.MonkeyPatch, world: int, **options: object) -> list[ResumableSampler]:
    made = []
    for rank in range(world):
        monkeypatch.setattr(sampler_module, "get_dist_info", lambda rank=rank: (rank, world))
        made.append(ResumableSampler(range(10), seed=5, **options))
    return made


def test_order_is_a_function_of_seed_and_epoch() -> None:
    one, other = ResumableSampler(range(50), seed=3), ResumableSampler(range(50), seed=3)
    assert draw(one, 0) != draw(one, 1)
    assert sorted(draw(one, 4)) == list(range(50))
    assert draw(other, 4) == draw(one, 4)
    assert draw(ResumableSampler(range(50), seed=4), 4) != draw(one, 4)
    assert draw(ResumableSampler(range(5), shuffle=False), 7) == [0, 1, 2, 3, 4]


def test_start_leaves_out_the_first_and_not_the_length() -> None:
    sampler = ResumableSampler(range(50), seed=3)
    assert draw(sampler, 2, start=17) == draw(sampler, 2)[17:]
    sampler.set_epoch(2, 17)
    assert len(sampler) == 50


def test_ranks_deal_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    single = draw(ResumableSampler(range(10), seed=5), 1)
    dealt = [draw(s, 1) for s in ranks(monkeypatch, 2)]
    assert [i for pair in zip(*dealt, strict=True) for i in pair] == single


@pytest.mark.parametrize(("uneven", "lengths"), [("pad", [4, 4, 4]), ("drop", [3, 3, 3]), ("keep", [4, 3, 3])])
def test_uneven_division(monkeypatch: pytest.MonkeyPatch, uneven: str, lengths: list[int]) -> None:
    samplers = ranks(monkeypatch, 3, uneven=uneven)
    dealt = [draw(s, 0) for s in samplers]
    assert [len(d) for d in dealt] == lengths == [len(s) for s in samplers]
    everything = [i for d in dealt for i in d]
    if uneven == "pad":
        assert set(everything) == set(range(10)) and len(everything) == 12
    else:
        assert len(set(everything)) == len(everything)


def test_padding_of_a_data_set_smaller_than_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(4):
        monkeypatch.setattr(sampler_module, "get_dist_info", lambda rank=rank: (rank, 4))
        assert draw(ResumableSampler(range(1)), 0) == [0]


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="uneven"):
        ResumableSampler(range(3), uneven="cut")


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_is_reproducible_and_leaves_the_global_generators_alone(workers: int) -> None:
    cfg = dict(batch_size=8, num_workers=workers, dataset=dict(type="TinyVectors", transforms=[dict(type="TinyNoise")]))
    seed_all(1)
    before = torch.get_rng_state()
    seen = []
    for start in (0, 16):
        loader = build_dataloader(cfg, seed=9, training=True)
        loader.sampler.set_epoch(3, start)
        seen.append(list(loader))
    assert torch.equal(torch.get_rng_state(), before)
    assert loader.dataset.seed == 9
    assert [len(b["index"]) for b in seen[0]] == [8, 8, 8, 8, 5]
    for full, resumed in zip(seen[0][2:], seen[1], strict=True):
        assert torch.equal(full["vector"], resumed["vector"])


def test_augmentation_changes_between_epochs() -> None:
    loader = build_dataloader(
        dict(batch_size=37, dataset=dict(type="TinyVectors", transforms=[dict(type="TinyNoise")])),
        seed=0,
        training=True,
    )
    by_epoch = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        (batch,) = list(loader)
        by_epoch.append(batch["vector"][batch["index"].argsort()])
    assert not torch.equal(*by_epoch)


def test_evaluation_keeps_order_and_every_sample() -> None:
    loader = build_dataloader(dict(batch_size=10, dataset=TinyVectors()), seed=0, training=False)
    assert torch.cat([b["index"] for b in loader]).tolist() == list(range(37))


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sample"):
        build_dataloader(dict(batch_size=2, dataset=dict(type="TinyVectors", size=0)), seed=0, training=True)


def test_rng_state_is_plain_and_complete() -> None:
    import random

    def numbers() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]

    seed_all(4)
    numbers()
    state = rng_state()
    expected = numbers()
    with isolated_rng(seed=0):
        numbers()
    set_rng_state(state)
    assert numbers() == expected
