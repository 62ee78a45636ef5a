"""Every registry of the library. A registry imports its rooms only when a type is first asked for."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from mmengine import registry as mm

SCOPE = "perception"


class Registry(mm.Registry):
    """An mmengine registry whose ``locations`` are packages that are walked, so that a new file needs no list.

    Args:
        name: name of the registry.
        locations: packages whose modules hold the registered types.
        parent: the mmengine registry that the runner builds from.
        common_keys: keys that every config of this registry may carry besides the type's own arguments;
            whoever builds the type takes them out first.
    """

    def __init__(
        self,
        name: str,
        locations: Iterable[str],
        parent: mm.Registry | None = None,
        common_keys: Iterable[str] = (),
        build_func: Any = None,
    ) -> None:
        super().__init__(name, build_func=build_func, parent=parent, scope=SCOPE, locations=list(locations))
        self.common_keys = tuple(common_keys)

    _imported: bool

    def import_from_location(self) -> None:
        """Import every module below the locations, once."""
        if self._imported:
            return
        self._imported = True  # set first: the modules below register into this registry while it is imported
        try:
            if self.parent is not None:
                import_module("mmengine.runner")  # fills mmengine's registries, which have no locations of their own
            for location in self._locations:
                package = import_module(location)
                for module in pkgutil.walk_packages(package.__path__, prefix=location + "."):
                    import_module(module.name)
        except BaseException:
            self._imported = False  # else the next look-up would take the half-filled registry for whole
            raise

    def names(self) -> list[str]:
        """All registered names, sorted, with those of the parents."""
        self.import_from_location()
        names = set(self._module_dict)
        parent = self.parent
        while parent is not None:
            parent.import_from_location()
            names |= set(parent._module_dict)
            parent = parent.parent
        return sorted(names)


def _build_backbone(cfg: Any, registry: Any, **kwargs: Any) -> Any:
    from perception.exporting import build_backbone

    return build_backbone(cfg, **kwargs)


# What the mmengine runner builds: children of mmengine's own registries.
RUNNERS = Registry("runner", ["perception.engine"], mm.RUNNERS)
LOOPS = Registry("loop", ["perception.engine"], mm.LOOPS)
HOOKS = Registry("hook", ["perception.engine"], mm.HOOKS)
OPTIM_WRAPPERS = Registry("optim_wrapper", ["perception.engine"], mm.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor", ["perception.engine"], mm.OPTIM_WRAPPER_CONSTRUCTORS
)
OPTIMIZERS = Registry("optimizer", ["perception.engine"], mm.OPTIMIZERS)
PARAM_SCHEDULERS = Registry("parameter scheduler", ["perception.engine"], mm.PARAM_SCHEDULERS)
DATA_SAMPLERS = Registry("data sampler", ["perception.engine"], mm.DATA_SAMPLERS)
METRICS = Registry("metric", ["perception.evaluation"], mm.METRICS)
MODELS = Registry("model", ["perception.tasks", "perception.engine"], mm.MODELS)
DATASETS = Registry("dataset", ["perception.datasets", "perception.graphs"], mm.DATASETS)
TRANSFORMS = Registry("transform", ["perception.transforms"], mm.TRANSFORMS)
FUNCTIONS = Registry("function", ["perception.transforms"], mm.FUNCTIONS)

# What our own models build.
BACKBONES = Registry(
    "backbone", ["perception.backbones", "perception.graphs"], common_keys=("init_from",), build_func=_build_backbone
)
PRETEXTS = Registry("pretext", ["perception.pretext", "perception.graphs"])
PREPROCESSES = Registry("preprocess record", ["perception.transforms", "perception.graphs"])
TOKENIZERS = Registry("tokenizer", ["perception.text"])
TEXT_ENCODERS = Registry("text encoder", ["perception.text"])
PROTOCOLS = Registry("evaluation protocol", ["perception.evaluation"])
BALANCERS = Registry("loss balancer", ["perception.engine"])
