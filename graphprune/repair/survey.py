"""Run a model and note its consumers: which depend on which, how often each is called, what its bias is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.contractions import FORMS
from graphprune.nested import tensors_of
from graphprune.repair.calls import Contact, Key, contact
from graphprune.repair.flow import Flow
from graphprune.repair.memory import Memory, View, address
from graphprune.repair.sums import Lost, Sum, Ways
from graphprune.repair.takers import Addition, Taker, addition, goes_straight, own_bias
from graphprune.trace import short_name


@dataclass(eq=False)
class Site:
    """What is known of a consumer.

    Attributes:
        number: in order of first execution.
        first: its first call.
        outputs: how many it has, in all blocks.
        calls: how often each batch called it.
        after: the consumers that its inputs depend on, as a set of bits.
        takers: what is added to its results, first of all; None for any other use of them.
        scaled: a call multiplies the product with a factor.
        adds: a call adds something to the product itself.
        sums: how many results go into a sum with what does not come from them.
        strays: a result is used in another way.
        beside: the consumers that the other operands of these sums depend on, as a set of bits.
        factor: what outputs are multiplied with before. [blocks, outputs]
    """

    number: int
    key: Key
    first: Contact
    outputs: int
    calls: list[int] = field(default_factory=list)
    after: int = 0
    takers: set[Taker | None] = field(default_factory=set)
    scaled: bool = False
    adds: bool = False
    sums: int = 0
    strays: bool = False
    beside: int = 0
    factor: Tensor | None = None

    @property
    def summed(self) -> bool:
        """Does all that it returns go into sums?"""
        return not self.strays and self.sums == sum(self.calls)


class Survey(TorchDispatchMode):
    """Watches a model; see :meth:`batch`.

    Attributes:
        memory: the model's.
        names: its parameters.
        sites: consumers by key, in order of execution.
        other_uses: by parameter or buffer, an operation that used it otherwise than as a weight or what is added.
        fed_by: by what is added, the numbers of the consumers whose results it is added to; None for other tensors.
        computed: parameters from which the weight of a product is computed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.memory = Memory(model)
        self.names = frozenset(n for n, t in self.memory.tensors.items() if isinstance(t, nn.Parameter))
        self.sites: dict[Key, Site] = {}
        self.other_uses: dict[str, str] = {}
        self.fed_by: dict[View, set[int | None]] = {}
        self.computed: set[str] = set()
        self._flow = Flow(self.memory)
        self._ways = Ways(self.memory)
        self._results: dict[int, tuple[Site, tuple[int, ...]]] = {}
        self._count: Counter[Key] = Counter()
        self._batches = 0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Watch one run."""
        with self:
            yield
        self._flow.clear()
        self._ways.clear()
        self._results.clear()
        for key, site in self.sites.items():
            site.calls += [0] * (self._batches - len(site.calls)) + [self._count[key]]
        self._count.clear()
        self._batches += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        operands = [*tensors_of(args), *tensors_of(kwargs)]
        met = contact(func, args, kwargs, self.memory, self.names)
        site = self._meet(met, operands) if met else None
        out = func(*args, **kwargs)
        results = list(tensors_of(out))
        self._use(func, args, kwargs, operands, results, met)
        for end in self._ways.follow(func, args, kwargs, operands, results):
            self._end(end)
        new = self._flow.follow(func, operands, results, 1 << site.number if site else 0)
        self._forget(new | {address(t) for t in operands[:1] if func._schema.is_mutable})
        if met and site:
            self._add_own(met, site, results[0])
            if met.form.result is not None:
                self._ways.start(site, results[0])
        elif func in FORMS:
            self._note_computed(func, args)
        return out

    # ------------------------------------------------------------ consumers

    def _meet(self, met: Contact, operands: list[Tensor]) -> Site:
        key = met.key
        if key not in self.sites:
            blocks, _, outputs = met.places().shape
            self.sites[key] = Site(len(self.sites), key, met.light(), blocks * outputs)
        site = self.sites[key]
        self._count[key] += 1
        site.scaled |= met.scaled
        site.adds |= met.bias is not None
        site.after |= self._flow.reach(operands)
        return site

    def _note_computed(self, func: Any, args: tuple) -> None:
        for form in FORMS[func]:
            sources = self._flow.sources(args[form.weight])
            if sources:
                self.computed |= sources & self.names
                return

    # ------------------------------------------------------------ what is added to results

    def _add_own(self, met: Contact, site: Site, result: Tensor) -> None:
        """Note the bias that the call itself adds; without one, what becomes of the result."""
        if met.bias is None:
            self._results[address(result)] = site, tuple(result.shape)
            return
        taker = own_bias(met, site.outputs, self.memory, self.names)
        self._added(site, taker)
        if taker is None and (name := self.memory.owner(met.bias)):
            self.other_uses.setdefault(name, short_name(met.key.op))

    def _added(self, site: Site, taker: Taker | None) -> None:
        site.takers.add(taker)
        if taker is not None:
            self.fed_by.setdefault(taker.view, set()).add(site.number)

    def _forget(self, places: set[int]) -> None:
        """Storages that are new, or are written to, hold no result of a consumer."""
        for place in places:
            self._results.pop(place, None)

    def _end(self, end: Sum | Lost) -> None:
        """Note a sum, unless what is added comes from the result, or from consumers that come later."""
        if isinstance(end, Lost):
            end.token.strays = True
            return
        site: Site = end.way.token
        reach = self._flow.reach([end.other])
        factors = site.first.result(end.way.laid_out(end.way.factor))
        factor = factors[0, :, :, 0]
        site.strays |= bool(reach >> site.number) or bool((factors != factor.unsqueeze(-1)).any())
        site.strays |= site.factor is not None and not torch.equal(site.factor, factor)
        site.factor = factor.clone()
        site.beside |= reach
        site.sums += 1

    # ------------------------------------------------------------ what tensors are used for

    def _use(
        self, func: Any, args: tuple, kwargs: dict, operands: list[Tensor], results: list[Tensor], met: Contact | None
    ) -> None:
        """Note how results of consumers, parameters and buffers are used; to make a view is no use."""
        views = set() if func._schema.is_mutable else {address(t) for t in results}
        found = addition(func, args, kwargs, self.memory, self.names)
        known = [id(t) for t in ((met.args[met.form.weight], met.bias) if met else ())]
        known += [id(found.added)] if found else []
        if found and address(found.to) not in self._results:
            self.fed_by.setdefault(found.taker.view, set()).add(None)
        for tensor in operands:
            if id(tensor) in known or address(tensor) in views:
                continue
            if name := self.memory.owner(tensor):
                self.other_uses.setdefault(name, short_name(func))
            elif place := self._results.get(address(tensor)):
                self._use_result(*place, tensor, found)

    def _use_result(self, site: Site, shape: tuple[int, ...], tensor: Tensor, found: Addition | None) -> None:
        straight = found and tensor is found.to and goes_straight(site.first, shape, site.outputs, found)
        self._added(site, found.taker if found and straight else None)
        if found and not straight:
            self.fed_by.setdefault(found.taker.view, set()).add(None)
