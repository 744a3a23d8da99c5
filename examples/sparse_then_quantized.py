"""Channels, then single weights, then int8: files of `graphprune.save_sparse` and accuracy on handwritten digits.

Run: python examples/sparse_then_quantized.py (ten seconds; scikit-learn, pip install 'graphprune[quant]').
"""

import copy
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import Tensor, fx, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

import graphprune

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
x, (train, test) = images.float().view(-1, 1, 8, 8) / 8 - 1, torch.randperm(len(images)).split((1347, 450))
batches = list(zip(x[train].split(64), labels[train].split(64), strict=True))
TUNE = {"epochs": 5, "lr": 0.05, "weight_decay": 5e-4, "progress": False}


def stored(model: nn.Module) -> dict[str, Tensor]:
    """What a file needs: of torchao's tensors the integers and scales, of a program what its graph reads."""
    read = [n.target for n in model.graph.nodes if n.op == "get_attr"] if isinstance(model, fx.GraphModule) else None
    state = {n: t for n, t in model.state_dict().items() if read is None or n in read}
    parts = {n: {f"{n}.{p}": getattr(t, p) for p in getattr(t, "tensor_data_names", ())} for n, t in state.items()}
    return {key: tensor for name, t in state.items() for key, tensor in (parts[name] or {name: t}).items()}


@torch.no_grad()
def row(name: str, model: nn.Module) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = graphprune.save_sparse(stored(model), f"{folder}/model")
    right = (model(x[test]).argmax(1) == labels[test]).float().mean()
    print(f"{name:<32}{file.bytes / 1e3:>8.1f} kB{right:>8.1%}")


conv = [nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
dense = nn.Sequential(*conv, nn.Flatten(), nn.Linear(64 * 16, 256), nn.ReLU(), nn.Linear(256, 10))
graphprune.finetune(dense, batches, **TUNE)
row("dense", dense.eval())
slim = graphprune.prune_model(dense, 0.5, x[:1])
graphprune.finetune(slim, batches, **TUNE)
row("half of the channels", slim.eval())
sparse = copy.deepcopy(slim)
sparsifier = graphprune.GradualSparsifier(sparse, graphprune.Gradual(0, 80, 10), 0.9, scope="global")
graphprune.finetune(sparse, batches, **TUNE, on_step=sparsifier.on_step)
row("  then 90 % of the weights", graphprune.make_permanent(sparse).eval())
for name, model in (("  then int8 (torchao)", slim), ("  then both", sparse)):
    quantize_(quantized := copy.deepcopy(model), Int8WeightOnlyConfig())
    row(name, quantized)
program = torch.export.export(slim, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
everywhere = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
prepared = prepare_pt2e(program.module(), everywhere)
prepared(x[train])
row("  then int8 (PT2E, all layers)", convert_pt2e(prepared))
