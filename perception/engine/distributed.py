"""Joining the processes of one training run."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_dist_info

from perception.errors import ConfigError, Fault, nearest

LAUNCHERS = ("none", "pytorch")


def init_distributed(launcher: str) -> bool:
    """Join the process group that ``torchrun`` describes in the environment.

    It runs before the runner is built, because mmengine's own start asks for a GPU. Without one the group is gloo's.

    Returns:
        Whether this call made the group, so that the caller knows to destroy it.
    """
    if launcher not in LAUNCHERS:
        fault = Fault("launcher", launcher, f"not one of {LAUNCHERS}", nearest(launcher, LAUNCHERS))
        raise ConfigError([fault])
    if launcher == "none" or dist.is_initialized():
        return False
    missing = [n for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise ConfigError(
            f"launcher 'pytorch' finds no {', '.join(missing)} in the environment: start the run with "
            "'torchrun --nproc_per_node N -m perception train ... --launcher pytorch'"
        )
    # One thread per process unless the user says otherwise: processes times cores threads would fight for the cores.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    return True


def agree(flag: bool) -> bool:
    """Whether ``flag`` is set on any rank; every rank gets the same answer."""
    if get_dist_info()[1] == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def share(value: Any) -> Any:
    """The first rank's ``value``, on every rank."""
    if get_dist_info()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in the order of ranks."""
    world = get_dist_info()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values
