"""What a config will cost: sizes on the meta device, then one real batch."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from perception.datasets.base import SampleKey
from perception.errors import PerceptionError
from perception.registry import DATASETS, MODELS

if TYPE_CHECKING:
    from mmengine.config import Config

Rows = list[tuple[str, str]]


def sizes(cfg: Config) -> Rows:
    """Parameters by part and whatever the parts say of themselves, from a model that holds no values.

    A module may offer ``describe() -> dict[str, object]`` of sizes worth knowing, such as its number of tokens.
    """
    model = _on_meta(cfg)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = [("parameters", f"{total:,}"), ("parameters trained", f"{trained:,}")]
    for name, part in model.named_children():
        parts = part.named_children() if isinstance(part, nn.ModuleDict) else [("", part)]
        for inner, module in parts:
            count = sum(p.numel() for p in module.parameters())
            if count:
                rows.append((f"parameters of {name}{'.' if inner else ''}{inner}", f"{count:,}"))
    for name, module in model.named_modules():
        describe = getattr(module, "describe", None)
        if callable(describe):
            rows += [(f"{name or 'model'}: {key}", str(value)) for key, value in describe().items()]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    rows.append(("weights + gradients", _bytes(weights + gradients)))
    return rows


def _on_meta(cfg: Config) -> nn.Module:
    """The model without memory: weights are not read, so ``init_from`` is left out."""
    model_cfg = copy.deepcopy(cfg.model.to_dict())
    _drop(model_cfg, "init_from")
    with torch.device("meta"):
        model: nn.Module = MODELS.build(model_cfg)
    return model


def _drop(node: Any, key: str) -> None:
    if isinstance(node, dict):
        node.pop(key, None)
        for value in node.values():
            _drop(value, key)


class SavedBytes:
    """Bytes that autograd keeps from forward for backward: each storage once, parameters and buffers not at all."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if _strided(t)}
        self._seen: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        for part in _dense_parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes seen so far."""
        return sum(self._seen.values())


def _strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided


def _dense_parts(tensor: Tensor) -> Iterable[Tensor]:
    """The tensors that hold a sparse tensor's data; a dense tensor itself."""
    if _strided(tensor):
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        return (tensor._indices(), tensor._values())
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    return (tensor.ccol_indices(), tensor.row_indices(), tensor.values())


def trial(cfg: Config, seed: int, samples: int) -> Rows:
    """Build the model for real, run one batch of the training data forward and backward, and say what happened."""
    torch.manual_seed(seed)
    loader = cfg.train_dataloader
    dataset = DATASETS.build(loader.dataset.to_dict())
    dataset.seed = seed
    configured = min(int(loader.get("batch_size", 1)), len(dataset))
    count = min(samples, configured)
    started = time.perf_counter()
    batch = dataset.__getitems__([SampleKey(i, 0) for i in range(count)])
    fetched = time.perf_counter()
    model = MODELS.build(cfg.model.to_dict())
    model.train()
    if hasattr(model, "fit_to"):
        model.fit_to(dataset)
    if hasattr(model, "before_step"):
        model.before_step(0, 1)
    built = time.perf_counter()
    precision = getattr(torch, str(cfg.optim_wrapper.get("dtype", "float32")))
    with SavedBytes(model) as saved, torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        losses = model(*model.data_preprocessor(batch, True), mode="loss")
    total, log = model.parse_losses(losses)
    total.backward()
    done = time.perf_counter()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    rows = [(f"{key}", _shape(value)) for key, value in batch.items()]
    rows += [(name, f"{float(value.detach()):.6g}") for name, value in log.items()]
    if not torch.isfinite(total):
        raise PerceptionError(f"one batch gives a loss that is not finite: {dict(rows)}")
    rows.append(("gradient norm", f"{_gradient_norm(model):.4g}"))
    if without:
        rows.append(("trained, but without gradient", ", ".join(without[:4]) + (" ..." if len(without) > 4 else "")))
    rows.append((f"activations, {count} sample{'s' if count > 1 else ''}", _bytes(saved.total)))
    if count != configured:
        scaled = saved.total * configured / count
        rows.append((f"activations, batch of {configured} (estimate)", _bytes(scaled)))
    rows.append(("data / forward + backward", f"{fetched - started:.3f} s / {done - built:.3f} s"))
    return rows


def _gradient_norm(model: nn.Module) -> float:
    squares = [float(p.grad.double().pow(2).sum()) for p in model.parameters() if p.grad is not None]
    return sum(squares) ** 0.5


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "num_nodes") and hasattr(value, "num_edges"):
        return f"{value.num_nodes:,} nodes, {value.num_edges:,} edges"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__ if not isinstance(value, (str, int, float)) else repr(value)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
