"""The text of a Python file that rebuilds a slim network with torch and the library of its class alone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphprune.export import resizing
from graphprune.export.python_text import Expressions, assigned
from graphprune.export.slim_record import SlimRecord
from graphprune.pruning.attention import PrunedMultiheadAttention
from graphprune.pruning.skip import Skip, Zeros, identity_in_place, plain_settings


@dataclass(frozen=True)
class Builder:
    """How the architecture is made: lines of imports and an expression.

    Attributes:
        expression: ``create_model("resnet50")``.
        imports: ``from timm import create_model``.
        constants: by name, dictionaries that the expression reads.
        on_meta: it is built without storage; not where a class works out values while it is built.
    """

    expression: str
    imports: tuple[str, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    on_meta: bool = True

    @staticmethod
    def of(expression: str, writer: Expressions) -> Builder:
        """The builder of an expression, with all that its writer noted."""
        return Builder(expression, tuple(writer.import_lines()), writer.constants)

    def text(self) -> str:
        """The function ``build`` and the constants that it reads."""
        constants = "".join(assigned(name, value) for name, value in self.constants.items())
        return "\n\n".join(filter(None, (constants, self._function())))

    def _function(self) -> str:
        if not self.on_meta:
            doc = "The architecture, with sizes and values of its own."
            return f'def build() -> nn.Module:\n    """{doc}"""\n    return {self.expression}\n'
        doc = "The architecture, with sizes of its own; nothing is stored."
        body = f'    with torch.device("meta"):\n        return {self.expression}\n'
        return f'def build() -> nn.Module:\n    """{doc}"""\n{body}'


def loader_text(builder: Builder, record: SlimRecord, what: str, weights: str, channels_last: str = "") -> str:
    """The whole file.

    Args:
        builder: makes the architecture.
        record: what it must be given.
        what: the first line of its docstring.
        weights: the name of the file of weights beside it.
        channels_last: the attribute of torch that is the memory format of images, where it is not the usual one.
    """
    body = "\n\n".join(
        ["".join(_constants(record, weights)), builder.text(), _load(record, channels_last), *_functions(record)]
    )
    return _HEAD.format(what=what, imports="\n".join(_imports(builder, body))) + body


_HEAD = '''"""{what}

``load()`` makes it; that needs no more than is imported here.
"""

from __future__ import annotations

{imports}

'''

_STANDARD = {
    "import copy": "copy.",
    "import re": "re.",
    "from collections.abc import Callable": "Callable[",
    "from functools import partial": "partial(",
    "from pathlib import Path": "Path(",
    "from typing import Any": "Any",
}

_OTHERS = {
    "import torch": "torch.",
    "import torch.nn.functional as F": "F.",
    "from safetensors import safe_open": "safe_open(",
    "from torch import Tensor, nn": "Tensor",
}


_CONSTANTS = ("WEIGHTS", "SIZES", "SKIPPED", "ZEROED", "IDENTITIES", "ATTENTION", "TIED", "ABSENT", "FROZEN", "STEP")
_COPIED = ("Skip", "Zeros", "PrunedMultiheadAttention", "identity_in_place", "plain_settings")
_IMPORTED = {
    name.rpartition(" as ")[2]: line.split()[1]
    for line in (*_STANDARD, *_OTHERS)
    for name in line.rpartition("import ")[2].split(", ")
}
OWN_NAMES = dict.fromkeys((*vars(resizing), *_CONSTANTS, *_COPIED, "load", "build"), "") | _IMPORTED
"""The names that a file gives a meaning of its own, with the modules that some of them are imported from."""


def _imports(builder: Builder, body: str) -> Iterator[str]:
    """What the text uses, the standard library first."""
    yield from (line for line, use in _STANDARD.items() if re.search(rf"\b{re.escape(use)}", body))
    yield ""
    used = {line for line, use in _OTHERS.items() if re.search(rf"\b{re.escape(use)}", body)}
    yield from sorted({*builder.imports, *used}, key=lambda line: (line.startswith("from"), line))


def _constants(record: SlimRecord, weights: str) -> Iterator[str]:
    yield f'WEIGHTS = Path(__file__).with_name("{weights}")\n'
    for name, value in _named_constants(record):
        if value:
            yield assigned(name, value)
    yield assigned("SIZES", record.attributes)
    yield '"""What differs from the network that build() makes, by module."""\n'


def _named_constants(record: SlimRecord) -> Iterator[tuple[str, Any]]:
    yield "SKIPPED", record.skipped
    yield "ZEROED", record.zeroed
    yield "IDENTITIES", list(record.identities)
    yield "ATTENTION", list(record.attention)
    yield "TIED", record.tied
    yield "ABSENT", list(record.absent)
    yield "FROZEN", tuple(f"{path}." if path else "" for path in record.frozen)


def _load(record: SlimRecord, channels_last: str) -> str:
    lines = [
        'def load(device: str = "cpu") -> nn.Module:',
        '    """The slim network; its weights are mapped from the file."""',
        '    with safe_open(WEIGHTS, "pt", device=device) as file:',
        "        tensors = {name: file.get_tensor(name) for name in list(file.keys())}",
        '        if file.metadata()["sizes"] != "STAMP":',
        '            raise ValueError(f"{WEIGHTS} belongs to another {Path(__file__).name}")',
        "    tensors = {name: aligned(tensor) for name, tensor in tensors.items()}",
        "    model = build()",
    ]
    for name, kind in [("SKIPPED", Skip)] * bool(record.skipped) + [("ZEROED", Zeros)] * bool(record.zeroed):
        lines += [f"    for path, results in {name}.items():"]
        lines += [f"        replace_modules(model, [path], partial({kind.__name__}, results=results))"]
    lines += ["    replace_modules(model, IDENTITIES, identity_in_place)"] if record.identities else []
    if record.attention:
        lines += ["    replace_modules(model, ATTENTION, lambda m: PrunedMultiheadAttention(m, m.num_heads, 1.0))"]
    lines += [f"    model.train({record.training})", "    set_attributes(model, SIZES)"]
    absent = " | dict.fromkeys(ABSENT)" if record.absent else ""
    lines += [f"    set_tensors(model, tensors{absent}, {'TIED' if record.tied else '{}'})"]
    if record.frozen:
        lines += ["    for name, parameter in model.named_parameters():"]
        lines += ['        parameter.requires_grad_(not f"{name}.".startswith(FROZEN))']
    kept = f"model.to(memory_format=torch.{channels_last})" if channels_last else "model"
    return "\n".join([*lines, f"    return {kept}\n"])


def _functions(record: SlimRecord) -> Iterator[str]:
    """Copies of functions and classes of graphprune."""
    yield f"STEP = re.compile({_raw(resizing.STEP.pattern)})\n"
    used: list[Any] = [resizing.aligned, resizing.set_tensors, resizing.set_attributes, resizing.set_place]
    left_out = record.skipped or record.zeroed or record.identities
    used += [resizing.replace_modules] if left_out or record.attention else []
    used += [plain_settings] if left_out else []
    used += [identity_in_place] if record.identities else []
    used += [Skip] if record.skipped else []
    used += [Zeros] if record.zeroed else []
    used += [PrunedMultiheadAttention] if record.attention else []
    for function in used:
        yield re.sub(r"  # (type|noqa): ?\S+$", "", inspect.getsource(function), flags=re.MULTILINE)


def _raw(pattern: str) -> str:
    return f'r"{pattern}"'
