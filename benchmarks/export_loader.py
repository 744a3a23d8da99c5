"""Slim networks of several libraries as files, made again in a fresh process that has no graphprune.

The table says for each network whether the outputs in evaluation mode and the gradients are equal bit by bit, for one
and for five examples, what of the file is code and what sizes, and how long it took to write and to load.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphprune
from benchmarks.common import enliven, quiet_one_thread, row, table, wide_console, write_json

BATCHES = (1, 5)

Case = tuple[Callable[[], nn.Module], Callable[[int], Any], dict[str, Callable[[], Any]]]
"""What makes the network, its inputs for a batch size, and what makes arguments of ``export_loader``."""


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write ``results/export_loader.json``; 1 if anything differs."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    names = [name for name in CASES if not options.names or name in options.names]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with console.status(name):
                results[name] = written(name, Path(folder) / name)
        with console.status("fresh process"):
            made = reloaded(Path(folder), [n for n in names if "error" not in results[n]])
    shown = table(
        "Slim networks without graphprune", "network", *("outputs", "gradients"), "lines", "write s", "load s"
    )
    for name in names:
        results[name] |= made.get(name, {})
        row(shown, *_cells(name, results[name]))
    console.print(shown)
    failed = [name for name in names if not (results[name].get("outputs") and results[name].get("gradients"))]
    console.print(f"{len(names) - len(failed)} of {len(names)} equal bit by bit")
    if not options.names:
        write_json("export_loader.json", {"torch": torch.__version__, "networks": results})
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks (default: all)")
    return parser.parse_args(arguments)


def _cells(name: str, result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [name, result["error"][:70], "", "", "", ""]
    equal = {True: "equal", False: "DIFFERENT"}
    lines = f"{result['code']} + {result['lines'] - result['code']}"
    return [name, *(equal[result[k]] for k in ("outputs", "gradients")), lines, result["write"], result["load"]]


# ---------------------------------------------------------------- writing


def written(name: str, folder: Path) -> dict[str, Any]:
    """Prune a network, write it, and keep what it answers beside it."""
    make, inputs, options = CASES[name]
    torch.manual_seed(0)
    try:
        dense = make().eval()
    except ImportError as error:
        return {"error": f"not installed: {error}"}
    enliven(dense)
    slim = graphprune.prune_model(dense, 0.5, inputs(1))
    start = time.perf_counter()
    try:
        given = {name: made() for name, made in options.items()}
        path = graphprune.export_loader(slim, folder, example_inputs=inputs(1), **given)
    except graphprune.ExportError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - start
    text = path.read_text().splitlines()
    answers = [(inputs(size), *answer(slim, inputs(size))) for size in BATCHES]
    torch.save(answers, folder / "answers.pt")
    code = sum(not line.startswith(("    ", "}")) or "def " in line or ":" not in line for line in text)
    return {"lines": len(text), "code": code, "write": f"{seconds:.1f}", "params": _count(slim), "of": _count(dense)}


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def answer(model: nn.Module, inputs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the gradients of the sum of their squares."""
    model.zero_grad()
    result = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    found = [t for t in tensors_in(result) if t.is_floating_point()]
    sum((t.double().square().sum() for t in found), torch.zeros(())).backward()
    return [t.detach() for t in found], [p.grad for p in model.parameters() if p.grad is not None]


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors of an output, with names or without."""
    if isinstance(result, Tensor):
        return [result]
    values = result.values() if isinstance(result, dict) else result if isinstance(result, list | tuple) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


# ---------------------------------------------------------------- a fresh process


def reloaded(folder: Path, names: list[str]) -> dict[str, Any]:
    """What a process in another folder, which cannot import graphprune, finds."""
    functions = "\n\n".join(map(inspect.getsource, (answer, tensors_in)))
    text = _CHILD.format(functions=functions, folder=str(folder), names=names, paths=sys.path)
    child = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(child.stderr)
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


_CHILD = """
import importlib.util, json, sys, time, warnings
from typing import Any
sys.modules["graphprune"] = None
sys.path[:] = [p for p in {paths!r} if not p.endswith("/graphprune")]
import torch
from torch import Tensor, nn
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
{functions}
report = {{}}
for name in {names!r}:
    spec = importlib.util.spec_from_file_location("slim_" + name, f"{folder}/{{name}}/slim_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    start = time.perf_counter()
    model = module.load()
    seconds = time.perf_counter() - start
    answers = torch.load(f"{folder}/{{name}}/answers.pt", weights_only=True)
    found = [answer(model, inputs) for inputs, *_ in answers]
    equal = [
        all(len(a[i]) == len(b[i + 1]) and all(map(torch.equal, a[i], b[i + 1])) for a, b in zip(found, answers))
        for i in (0, 1)
    ]
    report[name] = {{"outputs": equal[0], "gradients": equal[1], "load": f"{{seconds:.2f}}"}}
print(json.dumps(report))
"""


# ---------------------------------------------------------------- networks


def _image(size: int, batch: int) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def _ids(batch: int, **more: Callable[[int], Tensor]) -> dict[str, Tensor]:
    ids = torch.randint(3, 90, (batch, 12), generator=torch.Generator().manual_seed(batch))
    return {"input_ids": ids, **{name: make(batch) for name, make in more.items()}}


def _timm(name: str, size: int = 64, given: bool = False, **options: Any) -> Case:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, **options)

    def factory() -> Any:
        import timm

        return partial(timm.create_model, name, **options)

    return make, partial(_image, size), {"factory": factory} if given else {}


def _third_party(path: str, inputs: Callable[[int], Any], **arguments: Any) -> Case:
    """A class of another library, by ``package.module:Class``, with its arguments."""
    module, _, name = path.partition(":")

    def factory() -> Any:
        return partial(getattr(importlib.import_module(module), name), **arguments)

    return lambda: factory()(), inputs, {"factory": factory}


def _torchvision(name: str, size: int = 64) -> Case:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name)

    return make, partial(_image, size), {}


_SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = _SMALL | {"intermediate_size": 64, "max_position_embeddings": 64}
_LLM = _TEXT | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_VISION |= {"image_size": 32, "patch_size": 8}
_SPEECH = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
_SPEECH |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 16}
_SPEECH |= {"vocab_size": 100, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0}
_SPEECH |= {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
_TRANSLATOR = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_BOTH = {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 32}


def _transformers(kind: str, config: dict[str, Any], inputs: Callable[[int], Any] = _ids) -> Case:
    def make() -> nn.Module:
        import transformers

        made = getattr(transformers, kind)
        model: nn.Module = made(made.config_class(**config))
        return model

    return make, inputs, {}


def _pixels(batch: int) -> dict[str, Tensor]:
    return {"pixel_values": _image(32, batch)}


def _speech(batch: int) -> dict[str, Tensor]:
    sound = torch.randn(batch, 16, 64, generator=torch.Generator().manual_seed(batch))
    return {"input_features": sound, "decoder_input_ids": _ids(batch)["input_ids"]}


_decoded = partial(_ids, decoder_input_ids=lambda batch: _ids(batch)["input_ids"])
_captioned = partial(_ids, pixel_values=partial(_image, 32))

_VIT = {"num_classes": 10, "dim": 32, "depth": 2, "heads": 4, "dim_head": 8, "mlp_dim": 64}
_CCT = {"embedding_dim": 32, "num_layers": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 10}
_UNET = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}
_DIFFUSION = {"sample_size": 32, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
_DIFFUSION |= {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8}
_DIFFUSION |= {"up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


def _noisy(batch: int) -> dict[str, Tensor]:
    return {"sample": _image(32, batch), "timestep": torch.tensor(7)}


CASES: dict[str, Case] = {
    "timm-resnet50": _timm("resnet50"),
    "timm-vit_tiny": _timm("vit_tiny_patch16_224", img_size=64),
    "timm-convnext_atto": _timm("convnext_atto"),
    "timm-swin_tiny": _timm("swin_tiny_patch4_window7_224", 56, img_size=56),
    "timm-efficientnet_b0": _timm("efficientnet_b0"),
    "timm-mobilenetv3": _timm("mobilenetv3_small_100"),
    "timm-regnety_002": _timm("regnety_002"),
    "timm-eva02_tiny": _timm("eva02_tiny_patch14_224", 56, img_size=56),
    "timm-features": _timm("resnet18", 64, given=True, features_only=True, out_indices=(1, 3)),
    "torchvision-resnet18": _torchvision("resnet18"),
    "torchvision-mobilenet_v2": _torchvision("mobilenet_v2"),
    "torchvision-densenet121": _torchvision("densenet121"),
    "torchvision-vit_b_16": _torchvision("vit_b_16", 224),
    "torchvision-swin_t": _torchvision("swin_t"),
    "transformers-llama": _transformers("LlamaForCausalLM", _LLM | {"tie_word_embeddings": True}),
    "transformers-qwen2": _transformers("Qwen2ForCausalLM", _LLM),
    "transformers-gemma": _transformers("GemmaForCausalLM", _LLM | {"head_dim": 8}),
    "transformers-mixtral": _transformers("MixtralForCausalLM", _LLM | {"num_local_experts": 4}),
    "transformers-bert": _transformers("BertForSequenceClassification", _TEXT),
    "transformers-gpt2": _transformers("GPT2LMHeadModel", {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "transformers-t5": _transformers("T5ForConditionalGeneration", _TRANSLATOR, _decoded),
    "transformers-whisper": _transformers("WhisperForConditionalGeneration", _SPEECH, _speech),
    "transformers-vit": _transformers("ViTForImageClassification", _VISION, _pixels),
    "transformers-clip": _transformers("CLIPModel", _BOTH, _captioned),
    "vit_pytorch-vit": _third_party("vit_pytorch:ViT", partial(_image, 32), image_size=32, patch_size=8, **_VIT),
    "vit_pytorch-cct": _third_party("vit_pytorch.cct:CCT", partial(_image, 32), img_size=32, **_CCT),
    "monai-unet": _third_party("monai.networks.nets:UNet", partial(_image, 32), **_UNET),
    "diffusers-unet": _third_party("diffusers:UNet2DModel", _noisy, **_DIFFUSION),
}


if __name__ == "__main__":
    sys.exit(main())
