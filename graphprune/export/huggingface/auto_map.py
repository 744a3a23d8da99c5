"""A slim model of any sizes as a folder that stock Transformers loads with ``trust_remote_code=True``.

The folder has ``config.json`` with the slim sizes, module by module, a generated Python file of a few dozen lines
(:mod:`graphprune.export.huggingface.generated_module`), and what Transformers itself writes: weights as sharded
safetensors, the generation configuration, tokenizer and processor files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.errors import ExportError, InputError
from graphprune.export.huggingface.dense_fields import DenseModel, dense_model, merged_fields, nested_fields
from graphprune.export.huggingface.generated_module import GeneratedModule, base_class, imported_module
from graphprune.export.huggingface.processing_files import Processing, write_processing
from graphprune.export.huggingface.reading_back import SAVE_INSTEAD, differing_buffers, is_size, same_outputs
from graphprune.export.huggingface.true_fields import LAYER_SIZES, TrueFields, true_fields
from graphprune.export.huggingface.weight_files import TransformersFiles, WeightFiles
from graphprune.export.slim_record import SlimRecord, slim_record
from graphprune.tracing.inputs import MethodCall, calls_of
from graphprune.utils.checks import shown, with_article
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.folders import replace_folder
from graphprune.utils.modules import all_tensors

Replace = Callable[[Path, Callable[[Path], object]], None]
"""As :func:`graphprune.utils.folders.replace_folder`."""

ATTEMPTS = 3
"""How often a folder is written: with true fields, without those, and with buffers that the class makes otherwise."""

SlimSizes = dict[str, dict[str, Any]]
"""By the path of a module, shapes of its tensors and values of its attributes."""


def write_auto_map(
    slim: nn.Module,
    folder: Path,
    *,
    processing: Processing = None,
    files: WeightFiles | None = None,
    replace: Replace = replace_folder,
    example_inputs: Any = None,
) -> None:
    """Write a folder that ``AutoModel...from_pretrained(folder, trust_remote_code=True)`` loads without graphprune.

    The folder is loaded before it takes its place, to see that weights, buffers, sizes and outputs are the same.

    Args:
        slim: a model of Transformers that was pruned, trained further or not.
        folder: is made; if it exists, it must be empty or hold what graphprune wrote.
        processing: the tokenizer or processor that belongs to the model, or a folder with their files.
        files: how weights are written, and how the folder is loaded; None: by Transformers.
        replace: lets a function fill a new folder, and puts that in the place of ``folder``.
        example_inputs: what outputs are compared on, as for :func:`graphprune.trace`; None: what is guessed.

    Raises:
        ExportError: the folder would not load as the same model; the message says why.
        InputError: the model is none of Transformers, or the directory holds something else.
        TraceError: the model fails on ``example_inputs``.
    """
    export = _Export.of(slim)
    calls = None if example_inputs is None else calls_of(example_inputs)

    def write(temporary: Path) -> None:
        left: _Export | None = export
        for _ in range(ATTEMPTS):
            left = None if left is None else left.write(temporary, files or TransformersFiles(), calls)
        if left is not None:
            raise ExportError(
                "slim: the folder makes another model of it when it is loaded",
                where=type(slim).__name__,
                found=f"another model after {ATTEMPTS} attempts",
                needed="a class that makes the same from its configuration",
                do=SAVE_INSTEAD,
            )
        write_processing(processing, temporary)

    replace(folder, write)


_CODE_OF_CHECKPOINTS = "transformers_modules."
"""What Transformers calls modules of files that come with checkpoints."""


def _check_importable(kind: type) -> None:
    """Raise an ExportError if a class is from a file of a checkpoint, which another file cannot import."""
    if kind.__module__.startswith(_CODE_OF_CHECKPOINTS):
        file = f"{kind.__module__.rpartition('.')[2]}.py"
        raise ExportError(
            f"slim: {kind.__name__} is from {file} of a checkpoint, and no class that a generated file can extend",
            where=f"{file}: class {kind.__name__}",
            found="a class that came with a checkpoint",
            needed="a class of Transformers or another installed package, or a plan with layers='equal'",
            do="plan with layers='equal', or save it with graphprune.save instead",
        )


@dataclass(frozen=True)
class _Export:
    """What the folder is made from.

    Attributes:
        slim: the model, as an instance of the class of Transformers.
        dense: what it was before pruning.
        record: what distinguishes the two.
        true: fields with slim sizes that the configuration of the slim model may have otherwise.
        module: the Python file.
        kept: buffers that are written too, though the class says that it makes them itself.
    """

    slim: Any
    dense: DenseModel
    record: SlimRecord
    true: TrueFields
    module: GeneratedModule
    kept: tuple[str, ...]

    @staticmethod
    def of(model: nn.Module) -> _Export:
        if not hasattr(model, "config") or not hasattr(type(model), "from_pretrained"):
            raise InputError(
                f"slim: must be a model of Transformers, but is {shown(model)}",
                found=f"{with_article(type(model).__name__)}",
                needed="a model of Transformers",
                do=SAVE_INSTEAD,
            )
        _check_importable(base_class(type(model)))
        dense = dense_model(model)
        slim = _as_stock(model, dense.model)
        record = slim_record(slim, dense.model)
        if record.attention:
            raise ExportError(
                f"slim: {record.attention[0]} is an attention of graphprune's own",
                where=record.attention[0],
                found="an attention of graphprune's own",
                needed="modules of Transformers and torch",
                do=SAVE_INSTEAD,
            )
        true = true_fields(slim, dense.model)
        exchanged = bool(dense.fields or true.dense)
        config, layered = base_class(type(model.config)), LAYER_SIZES in true.fields
        module = GeneratedModule(type(slim), config, exchanged, bool(record.skipped), bool(record.zeroed), layered)
        return _Export(slim, dense, record, true, module, _resized_buffers(slim, dense.model))

    def write(self, folder: Path, files: WeightFiles, calls: Sequence[MethodCall] | None) -> _Export | None:
        """Write all but the files of tokenizers, and load it.

        Returns:
            What to write instead, because buffers or outputs differ; None: all is the same.

        Raises:
            ExportError: something else differs.
        """
        path = folder / f"{self.module.name}.py"
        path.write_text(replace(self.module, float32=self._float32()).source)
        with imported_module(self.module.name, path) as generated:
            config = getattr(generated, self.module.config_class).from_dict(self._fields())
            model = self._with_weights(getattr(generated, self.module.model_class), config)
            files.write(model, folder)
        try:
            loaded = files.read(type(model), folder, self.slim.dtype)
        except RuntimeError as error:  # the class makes buffers anew, in sizes that it reads in the configuration
            return self.without_true_fields(f"fails to load ({error})")
        return self._compared(loaded, calls)

    def _float32(self) -> tuple[str, ...]:
        """The names of buffers that keep their precision when they are read; others take that of the model."""
        names = {n.rpartition(".")[2] for n in self.kept if self.slim.get_buffer(n).dtype == torch.float32}
        return tuple(sorted(names))

    def _compared(self, loaded: Any, calls: Sequence[MethodCall] | None) -> _Export | None:
        loaded.__class__ = type(self.slim)
        differing = differing_buffers(self.slim, loaded, self.kept, self.true.dense)
        if differing:
            return replace(self, kept=tuple(sorted({*self.kept, *differing})))
        return None if same_outputs(self.slim, loaded, calls) else self.without_true_fields("has other outputs")

    def _fields(self) -> dict[str, Any]:
        """The contents of ``config.json``."""
        fields: dict[str, Any] = self.slim.config.to_dict()
        fields |= {"model_type": self.module.model_type, "auto_map": _auto_map(self.module)}
        fields = merged_fields(fields, nested_fields(self.true.fields))
        if self.module.dense:
            fields["dense_sizes"] = nested_fields(self.dense.fields | self.true.dense)
        if self.record.skipped:
            fields["skipped_blocks"] = self.record.skipped
        if self.record.zeroed:
            fields["zeroed_modules"] = self.record.zeroed
        return fields | {"slim_sizes": self._sizes()}

    def _sizes(self) -> SlimSizes:
        """What differs between the dense and the slim model, by module, in the order of the modules."""
        sizes: SlimSizes = {path: {} for path, _ in self.slim.named_modules(remove_duplicate=False)}
        buffers = {name: list(self.slim.get_buffer(name).shape) for name in self.kept}
        for name, shape in (self.record.shapes | buffers).items():
            owner, _, tensor = name.rpartition(".")
            sizes[owner][tensor] = shape
        for path, values in self.record.attributes.items():
            for place in values:
                self._note_attribute(sizes, path, place)
        return {path: values for path, values in sizes.items() if values}

    def _note_attribute(self, sizes: SlimSizes, path: str, place: str) -> None:
        """Note an attribute of a module, or of an object that it holds, if it is a number or a list of numbers."""
        whole = place.partition("[")[0]
        *inner, name = whole.split(".")
        owner: Any = self.slim.get_submodule(path)
        for step in inner:
            owner = getattr(owner, step)
        value = getattr(owner, name)
        if owner is not self.slim.config and is_size(value):
            sizes.setdefault(".".join(filter(None, (path, *inner))), {})[name] = value

    def without_true_fields(self, problem: str) -> _Export:
        """The same with the fields that the configuration of the slim model has.

        Args:
            problem: why.

        Raises:
            ExportError: it is that already.
        """
        if not self.true.dense:
            raise ExportError(
                f"slim: the folder of this {type(self.slim).__name__} {problem}",
                where=type(self.slim).__name__,
                found=f"a folder that {problem}",
                needed="a folder that loads as the same model",
                do=SAVE_INSTEAD,
            )
        module = replace(self.module, dense=bool(self.dense.fields))
        return replace(self, true=self.true.without_exchange(), module=module)

    def _with_weights(self, kind: Any, config: Any) -> Any:
        """A model of the generated class that shares its tensors with the slim one."""
        with torch.device("meta"):
            model = kind(config)
        state = self.slim.state_dict()
        state |= {name: self.slim.get_buffer(name) for name in model.state_dict().keys() - state.keys()}
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        if getattr(self.slim, "generation_config", None) is not None:
            model.generation_config = copy.deepcopy(self.slim.generation_config)
        return model


def _resized_buffers(slim: nn.Module, dense: nn.Module) -> tuple[str, ...]:
    """Buffers of modules that would make one in another size; they are not saved with the model."""
    others = dict(dense.named_buffers(remove_duplicate=False))
    saved = slim.state_dict().keys()
    buffers = slim.named_buffers(remove_duplicate=False)
    unsaved = {n: n in others and t.shape != others[n].shape for n, t in buffers if n not in saved}
    owners = {name.rpartition(".")[0] for name, resized in unsaved.items() if resized}
    return tuple(name for name in unsaved if name.rpartition(".")[0] in owners)


def _as_stock(slim: nn.Module, dense: nn.Module) -> Any:
    """The model, or one that shares its tensors if its class is from such a folder, and saves what ``dense`` does."""
    kind = base_class(type(slim))
    if kind is type(slim):
        return slim
    shared: Any = copy_module(slim, {id(tensor): tensor for tensor in all_tensors(slim)})
    shared.__class__ = kind
    modules = dict(dense.named_modules(remove_duplicate=False))
    for path, module in shared.named_modules(remove_duplicate=False):
        unsaved = modules[path]._non_persistent_buffers_set if path in modules else set()
        module._non_persistent_buffers_set |= unsaved & module._buffers.keys()
    return shared


def _auto_map(module: GeneratedModule) -> dict[str, str]:
    """The ``Auto`` classes of Transformers that load the model's class, and what they are to load instead."""
    from transformers.models.auto import modeling_auto

    model = f"{module.name}.{module.model_class}"
    autos = [name for name, auto in vars(modeling_auto).items() if _loads(name, auto, module)]
    return {"AutoConfig": f"{module.name}.{module.config_class}"} | dict.fromkeys(autos or ["AutoModel"], model)


def _loads(name: str, auto: Any, module: GeneratedModule) -> bool:
    mapping = getattr(auto, "_model_mapping", None) if name.startswith("AutoModel") else None
    if mapping is None or module.config not in mapping:
        return False
    kinds = mapping[module.config]
    return module.model in (kinds if isinstance(kinds, tuple | list) else (kinds,))
