"""Put masks on single weights: by magnitude, at random, by threshold or percentile, or N of M in a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from graphprune.errors import InputError
from graphprune.sparsity.amounts import MaskAmount, MethodClass, Pattern, method_class, read_amount
from graphprune.sparsity.attention import hook_attention
from graphprune.sparsity.counting import Sparsity, sparsity_of
from graphprune.sparsity.ranking import Ranking, WeightMasks
from graphprune.sparsity.selection import LayerKey, LayerKeys, chosen_weights, several_keys
from graphprune.utils.checks import check_count, check_known, check_type
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import check_tensors
from graphprune.utils.prune_masks import MASK, ORIGINAL, apply_masks, parameters_in_order
from graphprune.utils.random_state import random_numbers_kept, seed_all

SCOPES = ("local", "global")


@leaves_torch_alone
def sparsify(
    model: nn.Module,
    amount: MaskAmount,
    *,
    method: str | MethodClass = "l1",
    scope: str = "local",
    layers: LayerKeys | None = None,
    skip: LayerKeys = (),
    overrides: Mapping[LayerKey, MaskAmount] | None = None,
    importance: Mapping[str, Tensor] | None = None,
    seed: int | None = None,
) -> Sparsity:
    """Mask single weights, in place, by the parametrization of ``torch.nn.utils.prune``.

    The parameter ``weight`` becomes ``weight_orig``, the same object, so that optimizers go on with it; a buffer
    ``weight_mask`` is what it is multiplied by before each call of its module. Masked weights stay zero whatever an
    optimizer does. A call masks more of what earlier ones, or torch's own functions, left: ``n`` calls with a fraction
    ``g`` mask ``1 - (1 - g) ** n``. Layers that share a weight share its mask.

    Args:
        model: changed in place.
        amount: with ``"l1"`` and ``"random"`` as torch takes it: a float between 0 and 1 is the fraction of what is not
            masked yet, an int the number of weights (of each layer, or of all together with ``scope="global"``). A
            magnitude with ``"threshold"``, up to which weights go. Between 0 and 100 with ``"percentile"``: weights go
            whose magnitude is below it. A pattern ``"2:4"`` keeps the 2 largest (with ``"random"``, any 2) of every 4
            weights that follow each other along the inputs of an output.
        method: ``"l1"``, ``"random"``, ``"threshold"``, ``"percentile"``, or a subclass of
            ``prune.BasePruningMethod`` of the type ``"unstructured"`` that takes an ``amount``.
        scope: ``"local"``: each layer for itself; ``"global"``: one ranking over all layers.
        layers: patterns for names of modules or parameters, modules, or module classes; None: all weights that inputs
            are multiplied by (linear, convolutional and recurrent layers, attention), and neither embeddings, biases
            nor normalizations, which can be named.
        skip: what stays as it is, by the same keys.
        overrides: other amounts, by the same keys; the last that matches counts. Such layers are each for themselves.
        importance: scores by the name of a parameter, of its shape, that are ranked by magnitude in its place.
        seed: of ``"random"``; None: torch's generator goes on, as in torch's functions.

    Returns:
        The zeros of the model afterwards.

    Raises:
        InputError: an argument is not what is needed. The model is unchanged.

    Warns:
        DenseWeightsWarning: weights stay dense that modules make of other parameters (``weight_norm``,
            ``spectral_norm``, parametrizations).
    """
    check_tensors(check_model(model))
    amounts = check_overrides(overrides)
    ranking = Ranking(method_class(method), check_mapping("importance", importance, "a dict of tensors by names"))
    common = _common_amount(amount, ranking.method, check_known("scope", scope, SCOPES))
    read = {key: read_amount("overrides", each, ranking.method) for key, each in amounts.items()}
    chosen = chosen_weights(model, None if layers is None else several_keys(layers), several_keys(skip), amounts)
    ranking.check(chosen)
    own = {weight: each for weight in chosen if (each := weight.override(read)) is not None}
    others = [weight for weight in chosen if weight not in own]
    with drawn(seed):
        masks = {weight: ranking.mask_of(weight, each) for weight, each in own.items()}
        if scope == "global" and others and not isinstance(common, Pattern):
            masks |= ranking.masks_of(others, common)
        else:
            masks |= {weight: ranking.mask_of(weight, common) for weight in others}
    put_masks(model, masks)
    return sparsity_of(model)


def put_masks(model: nn.Module, masks: WeightMasks) -> None:
    """Give weights these masks, in the buffers that they have or in new ones, which training can use in any case."""
    with torch.inference_mode(False), torch.no_grad():
        for weight, mask in masks.items():
            for place in weight.places:
                if place.mask is None:
                    with parameters_in_order(place.module, {place.attribute: place.attribute + ORIGINAL}):
                        prune.identity(place.module, place.attribute)
                place.module.get_buffer(place.attribute + MASK).copy_(mask)
        hook_attention(model)
        apply_masks(model)


def check_overrides(overrides: Any) -> dict[LayerKey, Any]:
    """The dict of amounts by layers that an argument gives; None: an empty one."""
    return check_mapping("overrides", overrides, "a dict of amounts by layers")


def check_mapping(name: str, value: Any, what: str) -> dict[Any, Any]:
    """The dict that an argument gives; None: an empty one."""
    check_type(name, {} if value is None else value, Mapping, what)
    return dict(value or {})


def _common_amount(amount: object, method: MethodClass, scope: str) -> float | int | Pattern:
    found = read_amount("amount", amount, method)
    if isinstance(found, Pattern) and scope == "global":
        raise InputError(
            f"scope: a pattern such as {amount!r} holds in every row for itself",
            found=f"scope={scope!r} and the pattern {amount!r}",
            needed="scope='local'",
            do="use scope='local', or a fraction as the amount",
        )
    return found


@contextmanager
def drawn(seed: int | None, *more: int) -> Iterator[None]:
    """Random numbers of a seed and of other numbers, or those that come next."""
    if seed is None:
        yield
        return
    check_count("seed", seed, 0)
    with random_numbers_kept():
        seed_all(seed, *more)
        yield
