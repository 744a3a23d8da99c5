"""What is wanted of a slim model: budgets, and what it is to run in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphprune.errors import InputError
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.planning.objectives import BudgetSpec, parse_budgets
from graphprune.utils.checks import as_key, check_known, found_value, shown


@dataclass(frozen=True)
class Runtime:
    """What runs a slim model.

    Attributes:
        name: as it is called in a target.
        arguments: those of a plan without which it cannot load the slim model.
        export: the call that writes the file or folder, with ``slim`` and ``example_inputs``.
        reason: why both.
        multiple: the multiple of channels that its kernels are written for, where nothing was measured; 1: any.
        timed: is speed what counts there, rather than bytes?
        here: does this process run what it runs, so that a measurement of torch tells its time?
    """

    name: str
    reason: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    export: str = ""
    multiple: int = 1
    timed: bool = True
    here: bool = False


def _server(name: str, folder: str) -> Runtime:
    reason = f"its format ({folder}) has one number of query heads for all layers, and heads of the dense width"
    export = f'graphprune.export_deci(slim, "slim", serve="{name}")'
    return Runtime(name, reason, {"serve": name}, export)


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("cpu", "torch runs the slim model as it ran the dense one", here=True),
        Runtime("cuda", "torch runs the slim model as it ran the dense one", multiple=16, here=True),
        Runtime(
            "onnxruntime",
            "the ONNX file is compared with the slim model before it is in place",
            export='graphprune.export_onnx(slim, "slim.onnx", example_inputs)',
            multiple=16,
        ),
        Runtime(
            "tensorrt",
            "TensorRT reads ONNX files; its kernels are written for multiples of channels",
            export='graphprune.export_onnx(slim, "slim.onnx", example_inputs)',
            multiple=16,
        ),
        Runtime(
            "llama.cpp",
            "a GGUF file may have other sizes in every layer; Q8_0 stores 32 values together, and rows of other "
            "lengths stay f16",
            export='graphprune.export_gguf(slim, "slim.gguf", tokenizer)',
            multiple=32,
        ),
        Runtime(
            "transformers",
            "stock classes build what a configuration can say: equal layers",
            {"layers": "equal"},
            'graphprune.save_pretrained(slim, "slim")',
        ),
        _server("vllm", "DeciLMForCausalLM"),
        _server("sglang", "DeciLMForCausalLM"),
        _server("tensorrt_llm", "DeciLMForCausalLM"),
        Runtime(
            "size on disk",
            "a bundle holds the weights that are left, as safetensors",
            export='graphprune.save(slim, "slim")',
            timed=False,
        ),
    )
}
"""Where a slim model may run, by name."""


@dataclass(frozen=True)
class AdviceTarget:
    """Budgets and a runtime.

    Attributes:
        budgets: by kind, as for ``graph.plan``.
        runtime: what it is to run in; None: not said.
        assumed: was no budget given, so that half is assumed?
    """

    budgets: Mapping[str, BudgetSpec]
    runtime: Runtime | None = None
    assumed: bool = False

    @property
    def timed(self) -> bool:
        """Is speed what counts?"""
        return "latency" in self.budgets or (self.runtime is not None and self.runtime.timed)

    @property
    def text(self) -> str:
        """In a few words."""
        budgets = ", ".join(f"{kind}={spec!r}" for kind, spec in self.budgets.items())
        where = f" for {self.runtime.name}" if self.runtime else ""
        return f"{budgets}{where}{' (assumed: no budget was given)' if self.assumed else ''}"


def parse_target(target: Any) -> AdviceTarget:
    """A target from what a user gives.

    Args:
        target: budgets by kind (``{"macs": 0.5}``), a text of budgets and of what runs the model (``"latency=5ms"``,
            ``"vllm, macs=0.5"``), a dict with ``"runtime"`` among its keys, or None.

    Raises:
        InputError: it is none of these, or a budget or runtime is not known.
    """
    given = _as_dict(target)
    name = given.pop("runtime", None)
    runtime = None if name is None else RUNTIMES[check_known("target", name, RUNTIMES)]
    for kind in given:
        others = ", or one of what runs models: " + ", ".join(map(repr, RUNTIMES))
        check_known("target", kind, BUDGET_KINDS, others, form=as_key)
    parse_budgets(given, lambda _: 1.0)
    if given:
        return AdviceTarget(given, runtime)
    kind = "bytes" if runtime is not None and not runtime.timed else "macs"
    return AdviceTarget({kind: 0.5}, runtime, assumed=True)


def _as_dict(target: Any) -> dict[str, Any]:
    if target is None:
        return {}
    if isinstance(target, Mapping):
        return dict(target)
    if not isinstance(target, str):
        raise InputError(
            f"target: must be budgets, what runs the model, or both, but is {shown(target)}",
            found=found_value(target),
            needed='budgets such as {"macs": 0.5} or "latency=5ms", what runs the model ("vllm"), or both',
            do='pass target="vllm, macs=0.5"',
        )
    found: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in target.split(","))):
        kind, equal, amount = (text.strip() for text in part.partition("="))
        found[kind if equal else "runtime"] = _amount(amount) if equal else kind
    return found


def _amount(text: str) -> BudgetSpec:
    """A fraction if it looks like one, else an amount with its unit."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if value <= 1 else text
