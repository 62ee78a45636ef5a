"""Two gloo processes against one: wav2vec 2.0's loss and gradients, ranks hiding different numbers of frames."""

from __future__ import annotations

import torch
import torch.distributed as dist
from tiny_speech import clips, tiny
from torch import multiprocessing

from perception.pretext.wav2vec2 import Wav2Vec2

WORLD, LENGTHS = 2, (8000, 5200, 6000, 4100)


def loss_of(rows):
    torch.manual_seed(0)
    backbone = tiny("layer").double()
    pretext = Wav2Vec2(entries=6, code_dim=12, project_dim=10, mask_length=3, mask_variant="transformers").eval()
    pretext.attach(backbone)
    pretext.double().eval()
    batch = clips(*LENGTHS)
    mask = pretext.draw_mask(backbone.frame_lengths(batch["audio_length"]), 24)
    assert len(set(mask.sum(dim=1).tolist())) > 1
    part = {"audio": batch["audio"][rows].double(), "audio_length": batch["audio_length"][rows]}
    frames = pretext.run(backbone, part, mask[rows])
    own = torch.cat([torch.arange(int(n)) for n in mask[rows].sum(dim=1)])
    hidden = torch.cat([n.expand(int(n)) for n in mask[rows].sum(dim=1)])
    negatives = (own[:, None] + torch.arange(1, 6)) % hidden[:, None]
    losses = pretext.losses(frames, negatives)
    named = [(k, p) for m in (backbone, pretext) for k, p in m.named_parameters()]
    gradients = torch.autograd.grad(losses["loss"], [p for _, p in named], allow_unused=True)
    kept = {k: g for (k, _), g in zip(named, gradients, strict=True) if g is not None}
    return {k: losses[k].detach() for k in ("loss", "contrast", "diversity", "penalty", "perplexity")}, kept


def work(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD)
    losses, gradients = loss_of(slice(rank * 2, rank * 2 + 2))
    for gradient in gradients.values():  # as DistributedDataParallel does
        dist.all_reduce(gradient)
        gradient /= WORLD
    torch.save({"losses": losses, "gradients": gradients}, folder / f"{rank}.pth")
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    multiprocessing.spawn(work, args=(tmp_path / "rendezvous", tmp_path), nprocs=WORLD)
    losses, gradients = loss_of(slice(None))
    assert len(gradients) > 50
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        for name, value in losses.items():
            torch.testing.assert_close(found["losses"][name], value, msg=name, atol=1e-5, rtol=1e-5)
        for name, value in gradients.items():
            torch.testing.assert_close(found["gradients"][name], value, msg=name, atol=1e-5, rtol=1e-3)
