"""Models by name, for the command line: ``torchvision:resnet50``, ``hf:llama``, ``path/to/net.py:make``.

Only ``hf:`` with a hub id can download anything, and leaves that to Transformers, which honours
``HF_HUB_OFFLINE``. No form runs code that is not on this machine already.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from graphprune.cli.output import bars_for_people
from graphprune.cli.spec_forms import PUBLISHED, SPEC_FORMS
from graphprune.cli.user_files import import_file, imports_of, in_a_line
from graphprune.errors import SpecError
from graphprune.tracing.configured import needs_code
from graphprune.tracing.places import raised_at
from graphprune.utils.checks import close_matches, did_you_mean, found_value, with_article


def load_spec(spec: str, *, device: str | torch.device | None = None, pretrained: bool = False) -> nn.Module:
    """Build the model that a specification names.

    Args:
        spec: One of

            - ``torchvision:NAME``, ``timm:NAME``: a registered model with random weights, or those of the library;
            - ``hf:PATH``: a Transformers checkpoint (directory or hub id), as the class that its
              ``config.json`` names, with its weights, or random ones where only the configuration is there;
            - ``hf:MODEL_TYPE``, ``hf:CLASS``: such as ``hf:llama`` or ``hf:GPT2LMHeadModel``: the default
              configuration of that family, of its full size, with random weights;
            - ``path/to/file.py:FACTORY``: what a function without arguments, or a module class, in that
              file returns.
        device: Where parameters are created; ``"meta"`` builds a model of any size without memory.
        pretrained: With the weights that torchvision or timm publish, which they download where they are not cached.

    Raises:
        SpecError: If the specification has another form, names nothing, or building the model fails.
    """
    kind, name = _source_and_name(spec)
    with torch.device(device or "cpu"):
        model = _BUILDERS[kind](spec, name, pretrained) if kind in _BUILDERS else _from_file(spec, Path(kind), name)
    if not isinstance(model, nn.Module):
        raise SpecError(
            f"{spec!r} gave {with_article(type(model).__name__)}; needed is a torch.nn.Module",
            where=repr(spec),
            found=found_value(model),
            needed="a torch.nn.Module",
            do="name a function that returns a module, or a class of modules",
        )
    return model


def _source_and_name(spec: str) -> tuple[str, str]:
    """The two parts of a specification.

    Raises:
        SpecError: it has another form, or the source is not known.
    """
    kind, separator, name = spec.rpartition(":") if _names_a_file(spec) else spec.partition(":")
    if not separator or not kind or not name:
        raise SpecError(
            f"{spec!r} is not a model specification; needed is {SPEC_FORMS}",
            where=repr(spec),
            found="no SOURCE:NAME",
            needed=SPEC_FORMS,
            do="write torchvision:resnet50, or the path of a Python file and a function, net.py:make",
        )
    if kind not in _BUILDERS and not kind.endswith(".py"):
        raise SpecError(
            f"{spec!r} starts with {kind!r}, which is not a source of models; needed is {SPEC_FORMS}",
            where=repr(spec),
            found=f"the source {kind!r}",
            needed=SPEC_FORMS,
            do="write torchvision:resnet50, or the path of a Python file and a function, net.py:make",
        )
    return kind, name


def _names_a_file(spec: str) -> bool:
    return ".py:" in spec


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SpecError(
            f"{name} cannot be imported ({error})",
            where=name,
            found=str(error),
            needed=f"the package {name}",
            do="install it with: pip install 'graphprune[zoo]'",
        ) from error


def _unknown(spec: str, name: str, what: str, known: Iterable[str]) -> SpecError:
    source, close = spec.partition(":")[0], close_matches(name, known)
    return SpecError(
        f"{spec!r}: {name!r} is not {what}{did_you_mean(name, known)}",
        where=repr(spec),
        found=f"the name {name!r}",
        needed=what.replace(", nor ", ", or "),
        do=f"write {source}:{close[0]}" if close else f"write the name of {what.replace(', nor ', ', or ')}",
    )


_LIBRARY_ADVICE = ("what the library can build here", "do what the library says")
_CHECKPOINT_ADVICE = (
    "a folder that save_pretrained of Transformers wrote, or the hub id (owner/name) of such files",
    "give such a folder; a hub id is downloaded where there is a connection, and HF_HUB_OFFLINE is not set",
)
_FACTORY_ADVICE = (
    "a function or class that makes a model without arguments",
    "run it once in Python, and mend what it says; if it takes arguments, write a function without any that calls it",
)


def _built(spec: str, build: Callable[[], Any], advice: tuple[str, str] = _LIBRARY_ADVICE) -> Any:
    """What a function of a library or of the user makes.

    Args:
        advice: what is needed where it fails, and what to do.
    """
    try:
        with warnings.catch_warnings():
            # GoogLeNet and Inception announce a change of their initialization: no news to a pruner.
            warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
            return build()
    except SpecError:
        raise
    except (Exception, SystemExit) as error:
        raise SpecError(
            f"building {spec!r} failed with {in_a_line(error)}",
            where="\n".join(filter(None, (repr(spec), raised_at(error)))),
            found=f"{type(error).__name__}: {error}",
            needed=advice[0],
            do=advice[1],
        ) from error


# ---------------------------------------------------------------- torchvision and timm


def _from_torchvision(spec: str, name: str, pretrained: bool) -> Any:
    models = _library("torchvision").models
    if name not in (known := models.list_models()):
        raise _unknown(spec, name, "a torchvision model", known)
    extra = {"weights_backbone": None} if _takes(models.get_model_builder(name), "weights_backbone") else {}
    weights = "DEFAULT" if pretrained else None
    return _built(spec, lambda: models.get_model(name, weights=weights, **extra))


def _takes(function: Callable[..., Any], argument: str) -> bool:
    return argument in getattr(function, "__annotations__", {})


def _from_timm(spec: str, name: str, pretrained: bool) -> Any:
    timm = _library("timm")
    if not timm.is_model(name):
        raise _unknown(spec, name, "a timm model", timm.list_models())
    return _built(spec, lambda: timm.create_model(name, pretrained=pretrained))


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


def _from_transformers(spec: str, name: str, pretrained: bool) -> Any:
    transformers = _library("transformers")
    with bars_for_people():
        return _of_transformers(spec, name, transformers)


def _of_transformers(spec: str, name: str, transformers: ModuleType) -> Any:
    if Path(name).exists() or "/" in name:
        _check_folder(spec, name)
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


_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def _check_folder(spec: str, name: str) -> None:
    """Raise a SpecError if a folder is named that is not there; ``owner/name`` may be on the hub."""
    if not Path(name).exists() and not _HUB_ID.fullmatch(name):
        raise SpecError(
            f"{spec!r}: the folder {name!r} does not exist",
            where=name,
            found="no such folder",
            needed=_CHECKPOINT_ADVICE[0],
            do="give the path of such a folder",
        )


def _checkpoint(spec: str, name: str, transformers: ModuleType) -> Any:
    config = _built(spec, lambda: _config(spec, name, transformers), _CHECKPOINT_ADVICE)
    names = getattr(config, "architectures", None) or ()
    cls = next((getattr(transformers, n) for n in names if hasattr(transformers, n)), None)
    cls = cls or _class_for(config, transformers)
    if torch.get_default_device().type == "meta":  # Transformers refuses to load there, and nothing is to be loaded
        return _built(spec, lambda: cls(config).to(getattr(config, "dtype", None) or torch.get_default_dtype()))
    if Path(name).is_dir() and not _has_weights(Path(name)):
        return _built(spec, lambda: cls(config))
    return _built(spec, lambda: cls.from_pretrained(name), _CHECKPOINT_ADVICE)


def _config(spec: str, name: str, transformers: ModuleType) -> Any:
    """The configuration of a checkpoint, if no code that comes with it is needed."""
    try:
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        if not needs_code(error):
            raise
        raise SpecError(
            f"{spec!r}: its classes are of Python files that come with the checkpoint, and these are not run",
            where=f"{name}: auto_map of config.json",
            found="an auto_map, which Transformers follows with trust_remote_code=True",
            needed="a class of Transformers, or a Python file of yours",
            do="if you trust that code, give FILE.py:FUNCTION, a function that loads the model with "
            "from_pretrained(..., trust_remote_code=True)",
        ) from error


def _has_weights(directory: Path) -> bool:
    return any(file.suffix in (".safetensors", ".bin") for file in directory.iterdir())


def _class_for(config: Any, transformers: ModuleType) -> Any:
    mappings = [getattr(transformers, f"MODEL_FOR_{head}_MAPPING") for head in _HEADS]
    for mapping in (*mappings, transformers.MODEL_MAPPING):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, (tuple, list)) else found
    raise SpecError(
        f"Transformers has no model class for {type(config).__name__}",
        where=type(config).__name__,
        found="a configuration without a model class",
        needed="a class of Transformers",
        do="name one, as in hf:LlamaForCausalLM",
    )


# ---------------------------------------------------------------- a Python file


def _from_file(spec: str, path: Path, name: str) -> Any:
    if not path.is_file():
        raise SpecError(
            f"{spec!r}: the file {str(path)!r} does not exist",
            where=str(path),
            found="no such file",
            needed="a Python file",
            do="give the path of the file that makes the model",
        )
    with imports_of(path):
        factory = _defined(spec, import_file(spec, path), path, name)
        return factory if isinstance(factory, nn.Module) else _built(spec, factory, _FACTORY_ADVICE)


def _defined(spec: str, module: ModuleType, path: Path, name: str) -> Any:
    """What a file defines under a name.

    Raises:
        SpecError: nothing that makes a model.
    """
    found = getattr(module, name, None)
    if callable(found):
        return found
    own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
    there = ", ".join(own) or "no function or class"
    is_there = f"{name!r} of {path.name} makes no model" if hasattr(module, name) else f"{path.name} has no {name!r}"
    raise SpecError(
        f"{spec!r}: {is_there}{did_you_mean(name, own)}; it defines {there}",
        where=str(path),
        found=f"the name {name!r}" if found is None else found_value(found),
        needed=f"one of {there}" if own else "a function or class that makes a model",
        do=f"name a function or class of {path.name}",
    )


_BUILDERS: dict[str, Callable[[str, str, bool], Any]] = {
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "hf": _from_transformers,
}


def has_random_weights(spec: str) -> bool:
    """Does :func:`load_spec` give this model random weights unless it is asked for others?

    A factory of a Python file decides for itself.
    """
    kind, _, name = spec.partition(":")
    if _names_a_file(spec) or kind not in _BUILDERS:
        return False
    if kind in PUBLISHED:
        return True
    return not _has_weights(Path(name)) if Path(name).is_dir() else "/" not in name
