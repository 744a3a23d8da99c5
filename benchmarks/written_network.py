"""Run a network that ``export_source`` wrote in a process that can import torch and safetensors alone.

``python written_network.py FOLDER`` imports FOLDER/model.py and runs it on the inputs that lie there.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

INPUTS = "inputs.pt"
FOUND = "found.pt"

_NOT_THERE = ("graphprune", "torchvision", "timm", "transformers", "benchmarks", "models", "tests")


def main() -> None:
    """Leave the results in the folder."""
    folder = sys.argv[1]
    for name in _NOT_THERE:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails
    sys.path.insert(0, folder)
    import model as written

    torch.set_num_threads(1)
    torch.save(results(written.load(), torch.load(f"{folder}/{INPUTS}")), f"{folder}/{FOUND}")


def results(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Outputs in evaluation for each input; outputs and gradients of a step in training on the second."""
    model.eval()
    with torch.no_grad():
        outputs = [list(_tensors(model(x))) for x in inputs]
    model.train()
    torch.manual_seed(1)
    trained = _tensors(model(inputs[1]))
    torch.stack([t.square().mean() for t in trained]).sum().backward()
    gradients = [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]
    return {"eval": outputs, "train": [t.detach() for t in trained], "gradients": gradients}


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    entries = value.values() if isinstance(value, dict) else value or ()
    return [tensor for entry in entries for tensor in _tensors(entry)]


if __name__ == "__main__":
    main()
