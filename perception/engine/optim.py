"""The optimiser wrapper: autocast, gradient accumulation, clipping, and gradients that are checked."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.errors import ConfigError, Fault, nearest
from perception.registry import OPTIM_WRAPPERS
from perception.signatures import at_least

_CLIPPING = frozenset(inspect.signature(nn.utils.clip_grad_norm_).parameters) - {"parameters"}
_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Backward and update, in mixed precision on any device.

    Args:
        optimizer: the optimiser.
        dtype: ``float32``, ``bfloat16`` or ``float16`` of the matrix products in the forward pass. Parameters,
            gradients and the optimiser stay in float32. ``float16`` scales the loss.
        accumulative_counts: batches per update. Losses are divided by it, so that the update is that of the mean
            over all their samples, where batches are of equal size.
        clip_grad: ``dict(max_norm=1.0)`` (any arguments of ``torch.nn.utils.clip_grad_norm_``) or just the norm.
        check_gradients: skip an update whose gradients are not finite, and keep ``nonfinite_gradients`` for
            ``NonFiniteGuard``. Costs one norm over the gradients where they are not clipped anyway.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        accumulative_counts: int = 1,
        clip_grad: dict[str, Any] | float | None = None,
        check_gradients: bool = True,
    ) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(
                [Fault("optim_wrapper.dtype", dtype, f"not one of {list(_DTYPES)}", nearest(dtype, _DTYPES))]
            )
        if isinstance(clip_grad, (int, float)):
            clip_grad = {"max_norm": float(clip_grad)}
        super().__init__(optimizer, accumulative_counts, dict(clip_grad) if clip_grad else None)
        self.dtype = _DTYPES[dtype]
        self.check_gradients = check_gradients
        self.grad_norm: Tensor | None = None
        self.nonfinite_gradients: Tensor | None = None
        self.parameter_names: dict[int, str] = {}  # filled by the guard hook
        self.bad_parameters: list[str] = []
        device = optimizer.param_groups[0]["params"][0].device.type
        self.scaler = torch.amp.GradScaler(device) if self.dtype is torch.float16 else None

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """At least one batch per update, and a bound of the gradients that torch knows."""
        yield from at_least(cfg, 1, "accumulative_counts")
        clip = cfg.get("clip_grad")
        if isinstance(clip, (int, float)) and clip <= 0:
            yield "clip_grad", f"must be positive, got {clip}"
        elif isinstance(clip, dict):
            for key in sorted(set(clip) - _CLIPPING - {"type"}):  # validation looks at types
                near = nearest(key, _CLIPPING)
                yield f"clip_grad.{key}", f"not one of {sorted(_CLIPPING)}" + (f"; meant {near[0]!r}?" if near else "")

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forward pass: autocast, and no gradient exchange between ranks before the last batch of an update."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Backward pass of the (scaled) loss."""
        super().backward(loss if self.scaler is None else self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs: Any) -> None:
        """Clip, check and update."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._measure()
        if self.scaler is not None:
            self.scaler.step(self.optimizer, **kwargs)  # skips steps that overflowed and lowers the scale
            self.scaler.update()
            return
        if self.check_gradients and self.grad_norm is not None:
            bad = ~torch.isfinite(self.grad_norm)
            # On a GPU the answer stays there until somebody asks: waiting for it here would stall the queue.
            self.nonfinite_gradients = bad if self.nonfinite_gradients is None else self.nonfinite_gradients | bad
            if bad.device.type == "cpu" and bool(bad):
                self.bad_parameters = self._named_nonfinite()
                return
        self.optimizer.step(**kwargs)

    def _measure(self) -> None:
        """Total gradient norm, clipped if asked for."""
        params = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not params:
            return
        if self.clip_grad_kwargs:
            norm = self.clip_func(params, **self.clip_grad_kwargs)
        elif self.check_gradients:
            norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        else:
            return
        self.grad_norm = None if norm is None else norm.detach()

    def at_boundary(self) -> bool:
        """Whether no gradients are waiting for the rest of their update: a state that a checkpoint can hold."""
        return self.should_update()

    def _named_nonfinite(self) -> list[str]:
        """Names of the parameters whose gradient is not finite, as far as ``parameter_names`` knows them."""
        params = (p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None)
        return [self.parameter_names.get(id(p), "?") for p in params if not bool(torch.isfinite(p.grad).all())]

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser and of the loss scale."""
        state = super().state_dict()
        if self.scaler is not None:
            state["loss_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        state = dict(state_dict)
        scaler = state.pop("loss_scaler", None)
        if self.scaler is not None and scaler is not None:
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state)
