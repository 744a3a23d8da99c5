"""Example inputs as a user passes them, in the form of a call, and in a word for messages."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.utils.checks import found_value, shown, with_article
from graphprune.utils.own_objects import with_own_objects
from graphprune.utils.tree import is_mapped, map_tensors, tensors_of

Inputs: TypeAlias = "tuple[Any, ...] | dict[str, Any]"


# ---------------------------------------------------------------- calls


class MethodCall:
    """One call of a model: ``MethodCall("decode", z, scale=2)`` stands for ``model.decode(z, scale=2)``.

    Args:
        method: its name; ``"forward"`` calls the model itself.
        args, kwargs: the arguments.
    """

    def __init__(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        if not isinstance(method, str):
            raise InputError(
                f"method: must be the name of a method, but is {shown(method)}",
                found=found_value(method),
                needed="the name of a method, a string",
                do='write MethodCall("forward", x), with the name first',
            )
        self.method = method
        self.args = args
        self.kwargs = kwargs

    def __repr__(self) -> str:
        return f"MethodCall({', '.join(filter(None, (repr(self.method), describe(self.args), describe(self.kwargs))))})"

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return [*tensors_of(self.args), *tensors_of(self.kwargs)]

    def mapped(self, function: Callable[[Tensor], Tensor], objects: bool = False) -> MethodCall:
        """The same call with other tensors, and with copies of caches and other objects, for a run may change these.

        Args:
            function: gives the tensors.
            objects: also those that objects hold, which are copies else.
        """
        own = (self.args, self.kwargs)
        own = with_own_objects(own, function) if objects else with_own_objects(own)
        args, kwargs = map_tensors(function, own)
        return MethodCall(self.method, *args, **kwargs)

    def run(self, model: Callable[..., Any]) -> Any:
        """What ``model`` returns."""
        called = model if self.method == "forward" else getattr(model, self.method)
        return called(*self.args, **self.kwargs)

    def run_afresh(self, model: Callable[..., Any]) -> Any:
        """What ``model`` returns, which gets copies of caches and other objects and leaves the call as it is."""
        return self.mapped(lambda tensor: tensor).run(model)


def may_choose(given: Any) -> bool:
    """Is there a number or a name among what a call is given, which may say what of the model is used?"""
    if isinstance(given, tuple | list):
        return any(map(may_choose, given))
    if isinstance(given, Mapping):
        return any(map(may_choose, given.values()))
    return isinstance(given, int | str) and not isinstance(given, bool)


def calls_of(example_inputs: Any) -> tuple[MethodCall, ...]:
    """The calls that example inputs stand for: one, or one for each entry of a list.

    Args:
        example_inputs: as for :func:`graphprune.trace`.

    Raises:
        InputError: something is no example, the list is empty, or no example holds a sample.

    >>> calls_of([{"x": torch.zeros(1, 8), "task": "depth"}, MethodCall("decode", torch.zeros(1, 2))])
    (MethodCall('forward', x=f32[1, 8], task='depth'), MethodCall('decode', f32[1, 2]))
    """
    if isinstance(example_inputs, list) and not example_inputs:
        raise InputError(
            "example_inputs: is an empty list",
            found="[], a list without examples",
            needed="one example at least: a tensor, a tuple or a dict",
            do="pass example_inputs=torch.randn(1, 3, 224, 224), or a list of several examples",
        )
    several = isinstance(example_inputs, list) and not all(type(value) is int for value in example_inputs)
    return tuple(map(_call_of, example_inputs if several else [example_inputs]))  # integers: a shape by mistake


def check_samples(calls: Sequence[MethodCall], outputs: Sequence[Sequence[int]]) -> None:
    """Raise an InputError if the batches are empty, and so is what comes of them.

    Torch computes something else then, as a batch norm without its statistics. One input without entries beside others
    (no boxes, an empty cache) is no empty batch, and neither is a prompt of no tokens.

    Args:
        calls: the examples.
        outputs: the shapes of the outputs of all of them.
    """
    if any(math.prod(shape) for shape in outputs) or not all(map(_holds_no_sample, calls)):
        return
    raise InputError(
        "example_inputs: holds no samples",
        found=", ".join(describe((*call.args, *call.kwargs.values())) for call in calls)[:_LONGEST],
        needed="a batch of one sample or more",
        do="pass example_inputs with a sample, such as the first batch of a loader, or torch.randn(1, ...)",
    )


def _holds_no_sample(call: MethodCall) -> bool:
    given = [tensor for tensor in call.tensors if tensor.ndim]
    return not any(tensor.numel() for tensor in given) and any(not tensor.shape[0] for tensor in given)


_LONGEST = 200


def _call_of(example: Any) -> MethodCall:
    if isinstance(example, MethodCall):
        return example
    args, kwargs = normalize(example)
    return MethodCall("forward", *args, **kwargs)


# ---------------------------------------------------------------- what a user passed


def normalize(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Bring example inputs into the form of a call, ``(args, kwargs)``.

    Args:
        example_inputs: A tensor or dataclass (the only argument), a tuple or list (the positional arguments) or a
            mapping (the keyword arguments, such as what a Transformers tokenizer returns).

    Raises:
        InputError: If it is anything else.

    >>> args, kwargs = normalize(torch.zeros(1, 3, 8, 8))
    >>> len(args), kwargs
    (1, {})
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping):
        return (), _keyword_arguments(example_inputs)
    if is_mapped(example_inputs):
        return (example_inputs,), {}
    raise InputError(
        f"example_inputs: is {with_article(type(example_inputs).__name__)}",
        found=found_value(example_inputs),
        needed="a tensor (the only argument of forward), a tuple of the positional arguments, or a dict of the keyword "
        "arguments",
        do="pass tensors, for instance example_inputs=torch.randn(1, 3, 224, 224); where an object is itself the "
        "argument, a tuple with it: example_inputs=(batch,)",
    )


def are_inputs(value: Any) -> bool:
    """Is a value what :func:`normalize` takes?"""
    return isinstance(value, Tensor | Mapping) or is_mapped(value)


def _keyword_arguments(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    wrong = [key for key in mapping if not isinstance(key, str)]
    if wrong:
        raise InputError(
            f"example_inputs: is a dict with the key {wrong[0]!r}",
            found=f"the key {wrong[0]!r}, {with_article(type(wrong[0]).__name__)}",
            needed="strings, the names of forward's arguments",
            do="pass a dict by the names of arguments; if the dict is itself the argument, a tuple with it: "
            "example_inputs=(d,)",
        )
    return dict(mapping)


def advice_on(call: MethodCall, error: Exception) -> tuple[str, str]:
    """What a call that failed needed, and what to do instead."""
    if "does not require grad" in str(error):
        return (
            "a model that runs without gradients, or turns them on where it takes them",
            "take them within torch.enable_grad(), of tensors that were made, or given requires_grad_(), within it",
        )
    args = call.args
    given = [*args, *call.kwargs.values()]
    arrays = [
        value for value in given if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "shape")
    ]
    if arrays and not any(isinstance(value, Tensor) for value in given):
        return "tensors instead of numpy arrays", "make tensors of them: example_inputs=torch.from_numpy(array)"
    if len(args) > 1 and all(type(value) is int for value in given):
        shape = ", ".join(map(str, args))
        return (
            f"a tensor; example_inputs={tuple(args)} are {len(args)} integers that are passed as {len(args)} arguments",
            f"if it is the shape of the input, pass a tensor of that shape: example_inputs=torch.randn({shape})",
        )
    return (
        f"inputs with which model{'' if call.method == 'forward' else '.' + call.method}(...) runs in eval mode",
        "pass example_inputs as a tensor, a tuple of positional or a dict of keyword arguments; a list holds several "
        "examples, one for each call",
    )


def describe(inputs: Any) -> str:
    """Inputs in a word: dtype and shape of each tensor.

    >>> describe({"input_ids": torch.zeros(1, 16, dtype=torch.long)})
    'input_ids=i64[1, 16]'
    """
    if isinstance(inputs, Tensor):
        return f"{_dtype(inputs.dtype)}{list(inputs.shape)}"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key}={describe(value)}" for key, value in inputs.items())
    if isinstance(inputs, (tuple, list)):
        return ", ".join(describe(value) for value in inputs)
    return shown(inputs)


def _dtype(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return name.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")
