"""Teachers that follow a student as an exponential moving average of its weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def as_teacher(module: Net) -> Net:
    """Turn a copy of the student into a teacher: eval mode, and every parameter a buffer of the same name.

    Buffers are in checkpoints and follow ``.to``, but no optimiser, weight decay or gradient exchange ever meets them,
    however parameters are collected.
    """
    seen: dict[int, Tensor] = {}  # tied weights stay tied
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            del part._parameters[name]
            part.register_buffer(name, seen.setdefault(id(parameter), parameter.detach()))
    return module.eval()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher <- momentum * teacher + (1 - momentum) * student``, by name, all tensors at once.

    Buffers of the student, such as statistics of a normalisation, are taken over as they are. The student may have
    more than the teacher.
    """
    weights = dict(student.named_parameters(remove_duplicate=False))
    buffers = dict(student.named_buffers(remove_duplicate=False))
    averages: list[Tensor] = []
    sources: list[Tensor] = []
    copies: list[Tensor] = []
    originals: list[Tensor] = []
    for name, tensor in teacher.named_buffers():
        if name in weights:
            averages.append(tensor)
            sources.append(weights[name])
        else:
            copies.append(tensor)
            originals.append(buffers[name])
    if averages and momentum < 1.0:
        torch._foreach_lerp_(averages, sources, 1.0 - momentum)
    if copies:
        torch._foreach_copy_(copies, originals)
