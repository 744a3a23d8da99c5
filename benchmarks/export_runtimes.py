"""Slim networks in the runtimes that people deploy with: does each run them, and what does it compute?

Every network is pruned to 60 % of its multiplications, so that no two layers are alike. Each runtime gets the slim
module with open batch sizes (and lengths of texts) by its own documented call, and its outputs for batches of 1 and 5
are compared with the module's, relative to the largest value; 8-bit integers are expected to differ by some percent.
A runtime that is not installed is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import graphprune
from benchmarks.common import call, enliven, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.networks_to_export import NETWORKS, VOCABULARY, ExportedNetwork
from graphprune.utils.tree import tensors_of

BATCHES = (1, 5)
Measured = tuple[float, int | None]
"""The largest relative difference, and bytes of the file that the runtime reads."""


@dataclass(frozen=True)
class Runtime:
    """A way to run a module.

    Attributes:
        packages: what has to be installed.
        tolerance: how far outputs may be from the module's.
        measure: runs a module, with the network for its inputs, and a folder for files.
        texts: only for models that generate texts.
    """

    packages: tuple[str, ...]
    tolerance: float
    measure: Callable[[nn.Module, ExportedNetwork, Path], Measured]
    texts: bool = False


def main() -> int:
    """Print the table, write ``results/export_runtimes.json``; 1 if a runtime did not run a network as it should."""
    options = _options()
    quiet_one_thread()
    console = wide_console()
    results = []
    for name in options.networks or NETWORKS:
        slim = _slim(NETWORKS[name])
        for runtime in options.runtimes or RUNTIMES:
            with console.status(f"{name}, {runtime}"):
                results.append(
                    {"network": name, "runtime": runtime, **measured(slim, NETWORKS[name], RUNTIMES[runtime])}
                )
    console.print(_table(results))
    if not options.networks and not options.runtimes:
        write_json("export_runtimes.json", {"torch": torch.__version__, "results": results})
    return 1 if any("error" in result for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="some of the networks (default: all)")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="some of the runtimes (default: all)")
    return parser.parse_args()


def _slim(network: ExportedNetwork) -> nn.Module:
    torch.manual_seed(0)
    model = network.make().eval()
    enliven(model)
    return graphprune.trace(model, network.inputs(2, 7)).plan(macs=0.6).apply(model)


def measured(slim: nn.Module, network: ExportedNetwork, runtime: Runtime) -> dict[str, Any]:
    """What a runtime makes of a network: its difference and size, why it was left out, or its error."""
    missing = [package for package in runtime.packages if importlib.util.find_spec(package) is None]
    if missing:
        return {"skipped": f"{missing[0]} is not installed"}
    if runtime.texts and not network.generates:
        return {"skipped": "language models only"}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            difference, size = runtime.measure(copy.deepcopy(slim), network, Path(folder))
        except Exception as error:
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    if not difference <= runtime.tolerance:
        return {"error": f"differs by {difference:.1e}", "difference": difference, "size": size}
    return {"difference": difference, "size": size}


def _table(results: list[dict[str, Any]]) -> Any:
    title = "slim networks in runtimes: largest difference relative to the largest output, and size of the file"
    made = table(title, "network", "runtime", "runs", "difference", "MB", left=3)
    for result in results:
        outcome = result.get("error") or result.get("skipped") or "yes"
        difference = f"{result['difference']:.1e}" if "difference" in result else ""
        size = f"{result['size'] / 1e6:.2f}" if result.get("size") else ""
        row(
            made,
            result["network"],
            result["runtime"],
            outcome,
            difference,
            size,
            style="red" if "error" in result else "",
        )
    return made


def _difference(slim: nn.Module, network: ExportedNetwork, run: Callable[[Any], Any]) -> float:
    """The largest relative difference over all batches."""
    apart = 0.0
    for batch in BATCHES:
        inputs = network.inputs(batch, 4 + batch)
        (expected, *_), (found, *_) = tensors_of(call(slim, inputs)), tensors_of(run(inputs))
        apart = max(apart, float((found - expected).abs().max() / expected.abs().max()))
    return apart


# ---------------------------------------------------------------- runtimes


def exported_program(slim: nn.Module, network: ExportedNetwork) -> torch.export.ExportedProgram:
    """The module by ``torch.export``, with open batch size and length."""
    inputs = network.inputs(2, 7)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
    shapes = {name: _open(value) for name, value in kwargs.items()} or tuple(map(_open, args))
    return torch.export.export(slim, args, kwargs, dynamic_shapes=shapes, strict=False)


def _open(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    return dict.fromkeys(range(1 if value.is_floating_point() else 2), Dim.DYNAMIC)


def _torch_export(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    torch.export.save(exported_program(slim, network), folder / "slim.pt2")
    loaded = torch.export.load(folder / "slim.pt2").module()
    return _difference(slim, network, partial(call, loaded)), (folder / "slim.pt2").stat().st_size


def _torch_compile(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    torch._dynamo.reset()
    compiled = torch.compile(slim, fullgraph=True)
    return _difference(slim, network, partial(call, compiled)), None


def _onnx_runtime(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    import onnxruntime

    file = graphprune.export_onnx(slim, folder / "slim.onnx", network.inputs(2, 7), check=False)
    session = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])

    def run(inputs: Any) -> list[Tensor]:
        arrays = {name: value.numpy() for name, value in _named(inputs, file.inputs).items()}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return _difference(slim, network, run), file.size


def _named(inputs: Any, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of inputs by the names that a runtime has for them."""
    return dict(zip(names, tensors_of(inputs), strict=True))


def _openvino(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    import openvino

    converted = openvino.convert_model(exported_program(slim, network))
    openvino.save_model(converted, folder / "slim.xml", compress_to_fp16=False)
    compiled = openvino.compile_model(folder / "slim.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Any) -> list[Tensor]:
        found = compiled([tensor.numpy() for tensor in tensors_of(inputs)])
        return [torch.from_numpy(found[output]) for output in compiled.outputs]

    return _difference(slim, network, run), sum(file.stat().st_size for file in folder.iterdir())


def _torchao_weights(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = copy.deepcopy(slim)
    quantize_(small, Int8WeightOnlyConfig())
    return _difference(slim, network, partial(call, small)), _saved_size(small)


def _pt2e(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported_program(slim, network).module(), quantizer)
    for seed_batch in (2, 3, 5):  # calibration
        call(prepared, network.inputs(seed_batch, 4 + seed_batch))
    converted = convert_pt2e(prepared)
    return _difference(slim, network, partial(call, converted)), _saved_size(converted)


def _saved_size(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def _llama_cpp(slim: nn.Module, network: ExportedNetwork, folder: Path) -> Measured:
    from benchmarks.llama_cpp import byte_tokenizer, completion, serving

    file = graphprune.export_gguf(slim, folder / "slim.gguf", byte_tokenizer(), dtype="f32")
    prompt = network.inputs(1, 7)["input_ids"]
    with serving(file.path) as address:
        found = completion(address, prompt[0].tolist(), 1, [], VOCABULARY)
    expected = call(slim, {"input_ids": prompt}).logits[0, -1].log_softmax(-1)
    apart = max(abs(value - float(expected[token])) for token, value in found.first.items())
    return apart / float(expected.abs().max()), file.size


RUNTIMES = {
    "torch.export": Runtime((), 1e-5, _torch_export),
    "torch.compile": Runtime((), 1e-4, _torch_compile),
    "ONNX Runtime": Runtime(("onnx", "onnxscript", "onnxruntime"), 1e-4, _onnx_runtime),
    "OpenVINO": Runtime(("openvino",), 1e-4, _openvino),
    "llama.cpp": Runtime(("gguf", "xllamacpp"), 1e-4, _llama_cpp, texts=True),
    "torchao int8 weights": Runtime(("torchao",), 0.1, _torchao_weights),
    "PT2E int8": Runtime(("torchao",), 0.5, _pt2e),
}


if __name__ == "__main__":
    sys.exit(main())
