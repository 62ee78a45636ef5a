"""Parameter groups: no weight decay where it does harm, and lower rates for lower layers."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from perception.errors import ConfigError, Fault, nearest
from perception.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

_KEYS = ("decay", "backbone_scale", "no_decay_names", "separate")
# Learned vectors that stand for a token or a place: they have no product with the input that decay could bound.
_TOKENS = (
    "token",
    "tokens",
    "pos_embed",
    "pos_embed_class",
    "pos_embed_spatial",
    "pos_embed_temporal",
    "position_embedding",
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(name=["LayerDecayConstructor", "LayerDecay"])
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Groups parameters by weight decay and by layer (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).

    A parameter of the backbone's layer i of L (``backbone.layer_id``, ``backbone.layer_count``) gets the rate
    ``lr * decay ** (L - 1 - i)``; what is outside the backbone (heads, decoders) gets ``lr``. Vectors, biases and
    tokens are not decayed. ``paramwise_cfg`` takes:

    * ``decay``: 1.0 leaves the rates alone and only sorts out the weight decay;
    * ``backbone_scale``: factor of the rates inside the backbone, 0.01 where heads learn a hundred times faster;
    * ``no_decay_names``: more names, or last parts of names, without weight decay;
    * ``separate``: modules whose parameters form groups of their own, called by the module, for schedules that treat
      them apart from the others; behind the name of the one that is not decayed stands ``_no_decay``.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        options = dict(paramwise_cfg or {})
        unknown = [key for key in options if key not in _KEYS]
        if unknown:
            raise ConfigError(
                [
                    Fault(
                        f"optim_wrapper.paramwise_cfg.{key}", options[key], f"not one of {_KEYS}", nearest(key, _KEYS)
                    )
                    for key in unknown
                ]
            )
        self.decay = float(options.get("decay", 1.0))
        self.no_decay_names = tuple(options.get("no_decay_names", ()))
        self.separate = tuple(options.get("separate", ()))
        if not 0.0 < self.decay <= 1.0:
            raise ConfigError([Fault("optim_wrapper.paramwise_cfg.decay", self.decay, "lies outside (0, 1]")])
        self.backbone_scale = float(options.get("backbone_scale", 1.0))
        if not self.backbone_scale > 0.0:
            where = "optim_wrapper.paramwise_cfg.backbone_scale"
            raise ConfigError([Fault(where, self.backbone_scale, "must be positive")])

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper around the grouped parameters."""
        bare: Any = model.module if is_model_wrapper(model) else model
        optimizer_cfg = dict(self.optimizer_cfg)
        wrapper_cfg = {"type": "AutocastOptimWrapper", **self.optim_wrapper_cfg}
        if "lr" not in optimizer_cfg:
            raise ConfigError(
                [Fault("optim_wrapper.optimizer.lr", None, "layer-wise decay scales it: give it a value")]
            )
        optimizer_cfg["params"] = self.groups(bare, optimizer_cfg["lr"], optimizer_cfg.get("weight_decay", 0.0))
        optimizer = OPTIMIZERS.build(optimizer_cfg)
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args={"optimizer": optimizer})

    def groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups of ``model``, from the input to the head.

        Returns:
            Groups with ``params``, ``lr``, ``weight_decay``, ``lr_scale`` and ``name``. Frozen parameters are in none.
        """
        backbone: Any = getattr(model, "backbone", None)
        count = backbone.layer_count() if hasattr(backbone, "layer_count") else 1
        modules = dict(model.named_modules())
        absent = [part for part in self.separate if part not in modules]
        if absent:
            where = "optim_wrapper.paramwise_cfg.separate"
            raise ConfigError([Fault(where, p, "the model has no such module", nearest(p, modules)) for p in absent])
        groups: dict[tuple[int, float, str, bool], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            inside = name.startswith("backbone.") and hasattr(backbone, "layer_id")
            layer = backbone.layer_id(name.removeprefix("backbone.")) if inside else count - 1
            scale = self.decay ** (count - 1 - layer) * (self.backbone_scale if inside else 1.0)
            decayed = parameter.ndim > 1 and not self._is_exempt(name)
            part = next((part for part in self.separate if name.startswith(f"{part}.")), "")
            group = groups.setdefault(
                (layer, scale, part, decayed),
                {
                    "params": [],
                    "lr": lr * scale,
                    "weight_decay": weight_decay if decayed else 0.0,
                    "lr_scale": scale,
                    "name": f"{part or f'layer_{layer}'}{'' if decayed else '_no_decay'}",
                },
            )
            group["params"].append(parameter)
        return [groups[key] for key in sorted(groups)]

    def _is_exempt(self, name: str) -> bool:
        last = name.rsplit(".", 1)[-1]
        if last == "bias" or last.endswith(_TOKENS):
            return True
        return any(name == other or name.endswith("." + other) for other in self.no_decay_names)
