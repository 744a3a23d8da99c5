"""Models by name, for the command line: ``torchvision:resnet50``, ``hf:llama``, ``path/to/net.py:make``.

Only ``hf:`` with a hub id can download anything, and leaves that to Transformers, which honours
``HF_HUB_OFFLINE``. No form runs code that is not on this machine already.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from graphprune.errors import SpecError
from graphprune.utils.checks import did_you_mean

SPEC_FORMS = "torchvision:NAME, timm:NAME, hf:MODEL_TYPE_OR_CLASS_OR_PATH or path/to/file.py:FACTORY"


def load_spec(spec: str, *, device: str | torch.device | None = None) -> nn.Module:
    """Build the model that a specification names.

    Args:
        spec: One of

            - ``torchvision:NAME``, ``timm:NAME``: a registered model with random weights;
            - ``hf:PATH``: a Transformers checkpoint (directory or hub id), as the class that its
              ``config.json`` names, with its weights, or random ones where only the configuration is there;
            - ``hf:MODEL_TYPE``, ``hf:CLASS``: such as ``hf:llama`` or ``hf:GPT2LMHeadModel``: the default
              configuration of that family, of its full size, with random weights;
            - ``path/to/file.py:FACTORY``: what a function without arguments, or a module class, in that
              file returns.
        device: Where parameters are created; ``"meta"`` builds a model of any size without memory.

    Raises:
        SpecError: If the specification has another form, names nothing, or building the model fails.
    """
    kind, separator, name = spec.rpartition(":") if _names_a_file(spec) else spec.partition(":")
    if not separator or not kind or not name:
        raise SpecError(f"{spec!r} is not a model specification; needed is {SPEC_FORMS}")
    build = _BUILDERS.get(kind)
    if build is None and not kind.endswith(".py"):
        raise SpecError(f"{spec!r} starts with {kind!r}, which is not a source of models; needed is {SPEC_FORMS}")
    with torch.device(device or "cpu"):
        model = build(spec, name) if build is not None else _from_file(spec, Path(kind), name)
    if not isinstance(model, nn.Module):
        raise SpecError(f"{spec!r} gave a {type(model).__name__}; needed is a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict from a ``.safetensors`` or ``torch.save`` file into ``model``; runs no pickled code.

    Raises:
        SpecError: If the file is missing, is not a state dict, or has other names or shapes than the model.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"the weights file {str(path)!r} does not exist")
    try:
        model.load_state_dict(_read_state(path))
    except Exception as error:
        raise SpecError(f"{str(path)!r} does not fit {type(model).__name__}: {error}") from error


def _read_state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state = torch.load(path, map_location="cpu", weights_only=True)
    found: dict[str, Any] = state.get("state_dict", state)
    return found


def _names_a_file(spec: str) -> bool:
    return ".py:" in spec


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SpecError(
            f"{name} cannot be imported ({error}); install it with: pip install 'graphprune[zoo]'"
        ) from error


def _unknown(spec: str, name: str, what: str, known: Iterable[str]) -> SpecError:
    return SpecError(f"{spec!r}: {name!r} is not {what}{did_you_mean(name, known)}")


def _built(spec: str, build: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            # GoogLeNet and Inception announce a change of their initialization: no news to a pruner.
            warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
            return build()
    except Exception as error:
        raise SpecError(f"building {spec!r} failed with {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------- torchvision and timm


def _from_torchvision(spec: str, name: str) -> Any:
    models = _library("torchvision").models
    if name not in (known := models.list_models()):
        raise _unknown(spec, name, "a torchvision model", known)
    extra = {"weights_backbone": None} if _takes(models.get_model_builder(name), "weights_backbone") else {}
    return _built(spec, lambda: models.get_model(name, weights=None, **extra))


def _takes(function: Callable[..., Any], argument: str) -> bool:
    return argument in getattr(function, "__annotations__", {})


def _from_timm(spec: str, name: str) -> Any:
    timm = _library("timm")
    if not timm.is_model(name):
        raise _unknown(spec, name, "a timm model", timm.list_models())
    return _built(spec, lambda: timm.create_model(name, pretrained=False))


# ---------------------------------------------------------------- Transformers

_HEADS = (
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "CAUSAL_LM",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
)
"""Tasks in the order of preference. A model with a head is preferred to the bare one: that returns its
residual stream, whose width then cannot be pruned."""


def _from_transformers(spec: str, name: str) -> Any:
    transformers = _library("transformers")
    if Path(name).exists() or "/" in name:
        return _checkpoint(spec, name, transformers)
    known = transformers.CONFIG_MAPPING
    if name in known:
        config = _built(spec, known[name])
        return _built(spec, lambda: _class_for(config, transformers)(config))
    named = getattr(transformers, name, None)
    if isinstance(named, type) and issubclass(named, nn.Module) and hasattr(named, "config_class"):
        return _built(spec, lambda: named(named.config_class()))
    what = "a model type or class of Transformers, nor a directory or a hub id (owner/name)"
    raise _unknown(spec, name, what, known)


def _checkpoint(spec: str, name: str, transformers: ModuleType) -> Any:
    config = _built(spec, lambda: transformers.AutoConfig.from_pretrained(name))
    names = getattr(config, "architectures", None) or ()
    cls = next((getattr(transformers, n) for n in names if hasattr(transformers, n)), None)
    cls = cls or _class_for(config, transformers)
    if Path(name).is_dir() and not _has_weights(Path(name)):
        return _built(spec, lambda: cls(config))
    return _built(spec, lambda: cls.from_pretrained(name))


def _has_weights(directory: Path) -> bool:
    return any(file.suffix in (".safetensors", ".bin") for file in directory.iterdir())


def _class_for(config: Any, transformers: ModuleType) -> Any:
    mappings = [getattr(transformers, f"MODEL_FOR_{head}_MAPPING") for head in _HEADS]
    for mapping in (*mappings, transformers.MODEL_MAPPING):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, (tuple, list)) else found
    raise SpecError(f"Transformers has no model class for {type(config).__name__}; name one, as in hf:LlamaForCausalLM")


# ---------------------------------------------------------------- a Python file


def _from_file(spec: str, path: Path, name: str) -> Any:
    if not path.is_file():
        raise SpecError(f"{spec!r}: the file {str(path)!r} does not exist")
    module = _import_file(spec, path)
    if not hasattr(module, name):
        defined = [
            n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        there = ", ".join(defined) or "no function or class"
        raise SpecError(f"{spec!r}: {path.name} has no {name!r}; it defines {there}")
    factory = getattr(module, name)
    return factory if isinstance(factory, nn.Module) else _built(spec, factory)


def _import_file(spec: str, path: Path) -> ModuleType:
    """Import a file as a script sees itself: with its own directory on the import path."""
    name = f"graphprune_spec_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise SpecError(f"{spec!r}: {str(path)!r} cannot be imported as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickling look a class's module up here
    sys.path.insert(0, str(path.resolve().parent))
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SpecError(f"{spec!r}: importing {path.name} failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


_BUILDERS: dict[str, Callable[[str, str], Any]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "hf": _from_transformers,
}
