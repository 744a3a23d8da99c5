"""The contexts of :mod:`benchmarks.contexts`: what a program may have set, and what models are made of."""

from __future__ import annotations

import asyncio
import copy
import cProfile
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import graphprune
from benchmarks.context_networks import COMPLEX, NETWORKS, Network

Result = TypeVar("Result")


@dataclass(frozen=True)
class Context:
    """What is around a call, or what a model is made of.

    Attributes:
        run: calls a function within the context; is given the model that is pruned, too.
        model: changes a model beforehand.
        inputs: changes its inputs.
        like: the model to compare with, for which numbers the changed one holds.
        rounding: how far repaired weights may be from those without the context, relative to the largest; None: what
            activations decide may be decided otherwise, so only what weights decide is compared.
        freezes: more is frozen, and only what is kept elsewhere is compared.
        network: the only one that is pruned.
        alone: does nothing else change what is global meanwhile?
    """

    run: Callable[[Callable[[], Any], nn.Module, Tensor], Any] = lambda call, model, x: call()
    model: Callable[[nn.Module], nn.Module] = lambda model: model
    inputs: Callable[[Tensor], Tensor] = lambda x: x
    like: Callable[[nn.Module], nn.Module] = lambda model: model
    rounding: float | None = 1e-4
    freezes: bool = False
    network: Network | None = None
    alone: bool = True


def within(enter: Callable[[], AbstractContextManager[Any]]) -> Context:
    """A context that is entered."""

    def run(call: Callable[[], Result], model: nn.Module, x: Tensor) -> Result:
        with enter():
            return call()

    return Context(run)


@contextmanager
def changed(change: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    """Call a setter, and call it again with what was there before."""
    change(value)
    try:
        yield
    finally:
        change(before)


# ---------------------------------------------------------------- what a program may have set


class Watched(TorchDispatchMode):
    """Looks on at operations, as profilers and counters do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Looks on at functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Sizes(TorchDispatchMode):
    """Looks at the sizes of all that is made, and adds up how much it is."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map(self._add, out)
        return out

    def _add(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.total += value.numel() * value.element_size()


@contextmanager
def global_hooks() -> Iterator[None]:
    """Hooks that every module calls, forward and backward."""
    calls: list[str] = []
    hooks = nn.modules.module
    with ExitStack() as stack:
        for register in (
            hooks.register_module_forward_pre_hook,
            hooks.register_module_forward_hook,
            hooks.register_module_full_backward_pre_hook,
            hooks.register_module_full_backward_hook,
        ):
            handle = register(lambda module, *_: calls.append(type(module).__name__))
            stack.callback(handle.remove)
        yield


@contextmanager
def deterministic() -> Iterator[None]:
    with changed(torch.use_deterministic_algorithms, True, torch.are_deterministic_algorithms_enabled()):
        yield


@contextmanager
def traced_lines() -> Iterator[None]:
    """As under a debugger or a measurement of coverage."""

    def look(frame: Any, event: str, argument: Any) -> Any:
        return look

    with changed(sys.settrace, look, sys.gettrace()):
        yield


@contextmanager
def profiled_calls() -> Iterator[None]:
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()


@contextmanager
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def profiler() -> AbstractContextManager[Any]:
    return torch.profiler.profile(record_shapes=True, with_stack=True)


def saved_elsewhere() -> AbstractContextManager[Any]:
    return torch.autograd.graph.save_on_cpu()


# ---------------------------------------------------------------- threads


def beside(work: Callable[[nn.Module, Tensor], object]) -> Context:
    """Another thread does something again and again meanwhile, and sees nothing of it."""

    def run(call: Callable[[], Result], model: nn.Module, x: Tensor) -> Result:
        done, errors = threading.Event(), []

        def go_on() -> None:
            try:
                while not done.is_set():
                    work(model, x)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            return call()
        finally:
            done.set()
            thread.join()
            if errors:
                raise errors[0]

    return Context(run)


def infer(model: nn.Module, x: Tensor) -> None:
    """Run another model than the one that is pruned, and look at the result."""
    with torch.no_grad():
        found = OTHER(IMAGES)
    if not torch.allclose(found, EXPECTED, atol=1e-5):
        raise AssertionError("another thread's model returned something else meanwhile")


def make(model: nn.Module, x: Tensor) -> None:
    """Make tensors, whose type and place nobody says, and read torch's settings."""
    made = torch.zeros(2), torch.tensor(0.5), torch.arange(3) / 2
    if any(t.dtype != torch.float32 or t.device.type != "cpu" or not t.isfinite().all() for t in made):
        raise AssertionError(f"another thread's tensors are of {[t.dtype for t in made]} meanwhile")
    if torch.finfo().eps != torch.finfo(torch.float32).eps or not torch.is_grad_enabled():
        raise AssertionError("another thread sees other settings of torch meanwhile")


def infer_same(model: nn.Module, x: Tensor) -> None:
    """Run the model that is pruned."""
    with torch.inference_mode():
        model(x)


def train(model: nn.Module, x: Tensor) -> None:
    """Train another model."""
    learner = copy.deepcopy(OTHER).train()
    learner(IMAGES).square().sum().backward()
    if any(p.grad is None for p in learner.parameters()):
        raise AssertionError("another thread's model got no gradients meanwhile")


OTHER, IMAGES = NETWORKS["residual"].model(), NETWORKS["residual"].inputs()
with torch.no_grad():
    EXPECTED = OTHER(IMAGES)


def in_thread(call: Callable[[], Result], model: nn.Module, x: Tensor) -> Result:
    """In a thread that is not the first, beside another one that prunes too."""
    found, errors = [], []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            errors.append(error)

    def prune_another() -> None:
        try:
            graphprune.prune_model(OTHER, 0.5, IMAGES, importance="wanda", calibration=[IMAGES])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (run, prune_another)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found[0]


def in_loop(call: Callable[[], Result], model: nn.Module, x: Tensor) -> Result:
    """Within an event loop, as in a notebook."""

    async def run() -> Result:
        return call()

    return asyncio.run(run())


# ---------------------------------------------------------------- what models are made of


def as_type(dtype: torch.dtype) -> Context:
    """Weights and inputs of another precision; compared with the same numbers in float32."""

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    return Context(
        model=lambda model: model.to(dtype),
        inputs=cast,
        like=lambda model: model.to(dtype).float(),
        rounding=1e-4 if dtype == torch.float64 else None,
    )


def with_parameters(change: Callable[[nn.Parameter], nn.Parameter | Tensor], **more: Any) -> Context:
    """Every parameter is put in the place of another one."""

    def model(model: nn.Module) -> nn.Module:
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    made = change(parameter)
                    module._parameters[name] = made if isinstance(made, nn.Parameter) else nn.Parameter(made)
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()
        return model

    return Context(model=model, **more)


class Marked(nn.Parameter):
    """A parameter of a class of its own."""


class Named(Tensor):
    """A tensor of a class of its own, which torch functions are told of."""


def of_class(parameter: nn.Parameter) -> nn.Parameter:
    return Tensor._make_subclass(Marked, parameter.detach(), parameter.requires_grad)


def strided(parameter: nn.Parameter) -> Tensor:
    """The same numbers, every second entry of a larger tensor."""
    wide = torch.zeros(*parameter.shape, 2)
    wide[..., 0] = parameter.detach()
    return wide[..., 0]


def in_one_piece(model: nn.Module) -> nn.Module:
    """All parameters are views of one tensor, as some optimizers want them."""
    flat, start = torch.cat([p.detach().reshape(-1) for p in model.parameters()]), 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return model


def first_matrix(model: nn.Module) -> tuple[nn.Module, str]:
    """The first module with a matrix of weights that a linear map reads, and the name of the matrix."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LSTM):
            return module, "weight_ih_l0" if isinstance(module, nn.LSTM) else "weight"
    raise LookupError(f"{type(model).__name__} has no matrix")


def replaced(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    """Another tensor in the place of one matrix of weights."""

    def model(model: nn.Module) -> nn.Module:
        module, name = first_matrix(model)
        value = getattr(module, name).detach()
        module._parameters[name] = nn.Parameter(change(value.flatten(1)), requires_grad=value.is_floating_point())
        return model

    return model


def quantized(model: nn.Module) -> nn.Module:
    """Linear layers of torchao's int8 weights, or an embedding's, where there is no linear layer."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return model


def hooked(model: nn.Module) -> nn.Module:
    """Hooks of the user's on every module, forward and backward, and on parameters."""
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: None)
        module.register_forward_hook(lambda module, args, out: None)
        module.register_full_backward_hook(lambda module, given, taken: None)
        module.register_state_dict_post_hook(lambda *_: None)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: None)
    return model


def part(change: Callable[[nn.Module], Any]) -> Callable[[nn.Module], nn.Module]:
    """Another module in the place of the first one with weights."""

    def model(model: nn.Module) -> nn.Module:
        for name, child in model.named_modules():
            if name and isinstance(child, nn.Linear | nn.Conv2d | nn.Embedding):
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, change(child))
                return model
        raise LookupError(f"{type(model).__name__} has no layer")

    return model


def compiled(model: nn.Module) -> nn.Module:
    made = torch.compile(model, backend="eager")
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1, 1))  # torch changes itself when it first compiles
    assert isinstance(made, nn.Module)
    return made


def compiled_in_place(model: nn.Module) -> nn.Module:
    compiled(nn.Linear(1, 1))
    model.compile(backend="eager")
    return model


def in_inference_mode(model: nn.Module) -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(model)


def partly_training(model: nn.Module) -> nn.Module:
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    return model


def partly_fixed(model: nn.Module) -> nn.Module:
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    return model


AROUND: dict[str, Context] = {
    "no_grad": within(torch.no_grad),
    "enable_grad": within(torch.enable_grad),
    "inference_mode": within(torch.inference_mode),
    "autocast to bfloat16": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "autocast to float16": within(lambda: torch.autocast("cpu", torch.float16)),
    "torch.device('meta')": within(lambda: torch.device("meta")),
    "default device meta": within(lambda: changed(torch.set_default_device, "meta", None)),
    "default device cpu": within(lambda: changed(torch.set_default_device, "cpu", None)),
    "default dtype float64": within(lambda: changed(torch.set_default_dtype, torch.float64, torch.float32)),
    "default dtype bfloat16": within(lambda: changed(torch.set_default_dtype, torch.bfloat16, torch.float32)),
    "default dtype float16": within(lambda: changed(torch.set_default_dtype, torch.float16, torch.float32)),
    "TorchDispatchMode": within(Watched),
    "TorchDispatchMode that looks at sizes": within(Sizes),
    "TorchFunctionMode": within(Functions),
    "both modes": within(lambda: both(Watched(), Functions())),
    "FlopCounterMode": within(lambda: FlopCounterMode(display=False)),
    "autograd profiler": within(torch.autograd.profiler.profile),
    "torch.profiler": within(profiler),
    "cProfile": within(profiled_calls),
    "sys.settrace": within(traced_lines),
    "global module hooks": within(global_hooks),
    "save_on_cpu": within(saved_elsewhere),
    "detect_anomaly": within(lambda: torch.autograd.set_detect_anomaly(True)),
    "deterministic algorithms": within(deterministic),
    "forward-mode gradients": within(torch.autograd.forward_ad.dual_level),
    "fork_rng": within(torch.random.fork_rng),
    "flush_denormal": within(lambda: changed(torch.set_flush_denormal, True, False)),
    "attention by formula": within(lambda: torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)),
    "numpy raises": within(lambda: np.errstate(all="raise")),
    "warnings are errors": within(warnings_are_errors),
    "no garbage collector": within(without_collector),
    "an event loop": Context(in_loop),
    "two threads that prune": Context(in_thread, alone=False),
    "a thread that infers beside": beside(infer),
    "a thread that infers with the same model": beside(infer_same),
    "a thread that trains beside": beside(train),
    "a thread that makes tensors beside": beside(make),
    "force_eager": within(lambda: torch.compiler.set_stance("force_eager")),
    "torch.func.vmap": Context(lambda call, model, x: torch.func.vmap(lambda t: (call(), t)[1])(torch.ones(2))),
    "FakeTensorMode": within(lambda: torch._subclasses.fake_tensor.FakeTensorMode()),
}
"""By name, what may be around a call."""


@contextmanager
def both(*managers: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for manager in managers:
            stack.enter_context(manager)
        yield


MADE_OF: dict[str, Context] = {
    "bfloat16": as_type(torch.bfloat16),
    "float16": as_type(torch.float16),
    "float64": as_type(torch.float64),
    "channels_last": Context(
        model=lambda model: model.to(memory_format=torch.channels_last),
        inputs=lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
    ),
    "strided parameters": with_parameters(strided),
    "parameters in one tensor": Context(model=in_one_piece),
    "parameters in shared memory": Context(model=nn.Module.share_memory),
    "subclass of Parameter": with_parameters(of_class),
    "subclass of Tensor": with_parameters(lambda p: nn.Parameter(p.detach().as_subclass(Named)), rounding=None),
    "made in inference_mode": Context(model=in_inference_mode),
    "partly in training mode": Context(model=partly_training),
    "partly without gradients": Context(model=partly_fixed),
    "hooks": Context(model=hooked),
    "complex64": Context(network=COMPLEX),
    "compiled": Context(model=compiled),
    "compiled in place": Context(model=compiled_in_place),
    "compiled part": Context(model=part(compiled)),
    "scripted part": Context(model=part(torch.jit.script), freezes=True),
    "scripted": Context(model=torch.jit.script, freezes=True),
    "quantized (torchao)": Context(model=quantized),
    "sparse": Context(model=replaced(Tensor.to_sparse)),
    "sparse, compressed": Context(model=replaced(Tensor.to_sparse_csr)),
    "nested": Context(model=replaced(lambda value: torch.nested.nested_tensor(list(value)))),
    "on meta": Context(model=lambda model: model.to("meta")),
}
"""By name, what models may be made of."""
