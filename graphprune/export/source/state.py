"""Which tensors the weights of a file hold, and under which names."""

from __future__ import annotations

from torch import Tensor, nn

from graphprune.export.source.program import Program


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by all their names."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        saved = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
        found |= {prefix + n: t for n, t in (*module._parameters.items(), *saved.items()) if t is not None}
    return found


def unsaved_tensors(program: Program) -> dict[str, Tensor]:
    """Tensors that the constructors leave empty and that no state has: by the name of the first place."""
    found = {}
    for part in program.parts:
        statements = part.template.statements if part.template is not None else []
        names = [s.name for s in statements if s.kind in ("unsaved", "tensor")]
        for module in part.modules:
            path = program.paths[id(module)]
            for name in names:
                tensor = getattr(module, name, None)
                full = f"{path}.{name}" if path else name
                is_parameter = name in module._parameters
                if isinstance(tensor, Tensor) and not is_parameter and program.paths[id(tensor)] == full:
                    found[full] = tensor
    return found
