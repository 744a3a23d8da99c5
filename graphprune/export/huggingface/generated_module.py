"""The Python file of a folder for ``trust_remote_code``: a class of Transformers with the sizes that config.json lists.

The configuration holds the slim sizes. Layers are built with those of the dense model, because many classes refuse
others or work out constants from them (the factor of attention scores), and are then cut, module by module.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from string import Template
from types import CodeType
from typing import Any

from graphprune.errors import ExportError

PREFIX = "Slim"
"""Classes are called as those that they extend, with this in front."""

OWN_FIELDS = ("dense_sizes", "layer_sizes", "slim_sizes", "skipped_blocks", "zeroed_modules")
"""The fields of ``config.json`` that only such classes read."""

_FILE = "modeling_slim_"

_TOP = '''\
"""$model with the sizes that pruning left: `slim_sizes` in config.json, by module."""

${copy}from functools import reduce

import torch
from torch import nn
$imports


def cut(owner, sizes):
    """Give a module the sizes that are left: shapes of its tensors, and numbers."""
    for name, size in sizes.items():
        old = getattr(owner, name)
        new = old.detach()[tuple(map(slice, size))].clone() if isinstance(old, torch.Tensor) else size
        if isinstance(old, nn.Parameter):
            setattr(owner, name, nn.Parameter(new))
        elif isinstance(old, torch.Tensor):
            owner.register_buffer(name, new)
        else:
            setattr(owner, name, tuple(size) if isinstance(old, tuple) else size)
'''

_EXCHANGE = '''\
def exchange(fields, sizes):
    """Set sizes of a configuration, and return those that stood there."""
    before = {}
    for name, size in sizes.items():
        if isinstance(size, dict):
            inner = fields[name]
            before[name] = exchange(inner if isinstance(inner, dict) else vars(inner), size)
        else:
            before[name], fields[name] = fields[name], size
    return before
'''

_SKIP = '''\
class Skip(nn.Module):
    """In the place of a block that is left out, with its plain attributes: returns its first argument."""

    def __init__(self, block, results):
        super().__init__()
        vars(self).update({k: v for k, v in vars(block).items() if isinstance(v, bool | int | float | str)})
        self.results = results

    def forward(self, x, *args, **kwargs):
        return (x, *[None] * (self.results - 1)) if self.results else x
'''

_ZEROS = '''\
class Zeros(nn.Module):
    """In the place of a module of a residual branch that is left out: returns zeros in the shape of its argument."""

    def __init__(self, module, results):
        super().__init__()
        vars(self).update({k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str)})
        self.results = results

    def forward(self, *args, **kwargs):
        zeros = torch.zeros_like(args[0] if args else next(iter(kwargs.values())))
        return (zeros, *[None] * (self.results - 1)) if self.results else zeros
'''

_CONFIG = """\
class $prefix$config($config):
    model_type = "$model_type"
$layers"""

_DENSE_CONFIG = '''\
class $prefix$config($config):
    """Layers are built with `dense_sizes`, and then cut."""

    model_type = "$model_type"

    def __init__(self, dense_sizes=None, **fields):
        sizes = exchange(fields, dense_sizes or {})
        super().__init__(dense_sizes=dense_sizes, **fields)
        exchange(vars(self), sizes)

    def validate(self):
        """The sizes that are left need not be multiples of each other."""
$layers'''

_LAYERS = '''\

    @property
    def per_layer_config(self):
        """The configuration of each layer, for caches."""
        layers = [copy(self) for _ in range(self.num_hidden_layers)]
        for layer, sizes in zip(layers, self.layer_sizes):
            vars(layer).update(sizes)
        return layers
'''

_MODEL = """\
class $prefix$model($model):
    config_class = $prefix$config
$float32
    def __init__(self, config):
$build        for path, sizes in config.slim_sizes.items():
            cut(reduce(getattr, filter(None, path.split(".")), self), sizes)
        self.tie_weights()
"""

_FLOAT32 = """\
    if int(transformers_version.split(".")[0]) > 4:  # earlier versions take names of parameters alone
        _keep_in_fp32_modules_strict = [*($model._keep_in_fp32_modules_strict or []), $names]
"""

_VERSION = """
from transformers import __version__ as transformers_version"""

_BUILD = """\
        super().__init__(config)
"""

_DENSE_BUILD = """\
        sizes = exchange(vars(config), config.dense_sizes)
        super().__init__(config)
        exchange(vars(config), sizes)
"""

_SKIPPING = """\
        for path, results in config.skipped_blocks.items():
            self.set_submodule(path, Skip(self.get_submodule(path), results))
"""

_ZEROING = """\
        for path, results in config.zeroed_modules.items():
            self.set_submodule(path, Zeros(self.get_submodule(path), results))
"""


@dataclass(frozen=True)
class GeneratedModule:
    """What the file is made from.

    Attributes:
        model, config: the classes of Transformers that are extended.
        dense: layers are built with other sizes than the configuration has (``dense_sizes``).
        skipped: blocks are left out (``skipped_blocks``).
        zeroed: residual branches are left out (``zeroed_modules``).
        layered: layers have sizes of their own (``layer_sizes``).
        float32: names of buffers that are read from the weights and keep their precision.
    """

    model: type
    config: type
    dense: bool
    skipped: bool
    zeroed: bool
    layered: bool = False
    float32: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        """The name by which configurations of this class are known, ``"slim_llama"``."""
        return f"slim_{self.config.model_type}"  # type: ignore[attr-defined]

    @property
    def name(self) -> str:
        """The name of the file without its ending, ``"modeling_slim_llama"``."""
        return f"{_FILE}{self.config.model_type}".replace("-", "_").replace(".", "_")  # type: ignore[attr-defined]

    @property
    def config_class(self) -> str:
        return PREFIX + self.config.__name__

    @property
    def model_class(self) -> str:
        return PREFIX + self.model.__name__

    @property
    def source(self) -> str:
        """The text of the file."""
        parts = [_TOP]
        parts += [_EXCHANGE] if self.dense else []
        parts += [_SKIP] if self.skipped else []
        parts += [_ZEROS] if self.zeroed else []
        parts += [_DENSE_CONFIG if self.dense else _CONFIG, _MODEL]
        names = ", ".join(f'"{name}"' for name in self.float32)
        build = [_DENSE_BUILD if self.dense else _BUILD]
        build += [_SKIPPING] if self.skipped else []
        build += [_ZEROING] if self.zeroed else []
        with_parts = Template("\n\n".join(parts)).safe_substitute(
            build="".join(build),
            copy="from copy import copy\n" if self.layered else "",
            float32=_FLOAT32 if self.float32 else "",
            layers=_LAYERS if self.layered else "",
        )
        return Template(with_parts).substitute(
            prefix=PREFIX,
            model=self.model.__name__,
            config=self.config.__name__,
            model_type=self.model_type,
            imports=_imports(self.config, self.model) + (_VERSION if self.float32 else ""),
            names=names,
        )


def is_generated(kind: type) -> bool:
    """Is this a class from such a file, not one of Transformers?"""
    return kind.__module__.rpartition(".")[2].startswith(_FILE)


def base_class(kind: type) -> type:
    """The class of Transformers that a generated class extends; others as they are.

    Transformers itself extends classes that it loads from files, under the same name.
    """
    return next(base for base in kind.__mro__ if not is_generated(base))


class _Loader(SourceFileLoader):
    """Neither reads nor leaves bytecode, which would stand in the folder that is written, or be of an earlier file."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


@contextmanager
def imported_module(name: str, path: Path) -> Iterator[Any]:
    """A module from a file, which is known by its name only meanwhile, as Transformers looks classes up there."""
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    if spec is None or spec.loader is None:
        raise ExportError(
            f"slim: {path} is no Python file that can be imported",
            where=str(path),
            found="a file without a loader",
            needed="a Python file",
            do="report this with the model: graphprune wrote the file itself",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]


def _imports(*kinds: type) -> str:
    """Import statements, from the library itself where it offers the classes there."""
    by_module: dict[str, list[str]] = {}
    for kind in kinds:
        library = kind.__module__.partition(".")[0]
        offered = getattr(importlib.import_module(library), kind.__name__, None) is kind
        by_module.setdefault(library if offered else kind.__module__, []).append(kind.__name__)
    return "\n".join(f"from {module} import {', '.join(names)}" for module, names in sorted(by_module.items()))
