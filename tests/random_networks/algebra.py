"""A random walk of shapes: channels are taken apart, moved, combined along any axis, and joined again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.random_networks.writer import Layer, Value, block

MOST = 72
"""Channels that a walk may come to."""


@dataclass
class Walk:
    """A tensor ``y`` whose first ``front`` dimensions are batch and positions, and what the others are now."""

    layer: Layer
    front: int
    dims: list[int]

    @property
    def rank(self) -> int:
        return self.front + len(self.dims)

    def axis(self) -> tuple[int, int]:
        """One of the axes of channels: its number among them, and in the tensor (from either end)."""
        i = self.layer.rng.randrange(len(self.dims))
        d = self.front + i
        return i, d if self.layer.chance(0.6) else d - self.rank

    def size(self, i: int) -> str:
        """An expression for the size of an axis."""
        return self.layer.size("y", self.front + i, self.dims[i], self.rank)

    def mixes(self) -> None:
        self.layer.facts.mixes = True

    def go(self, *lines: str) -> None:
        self.layer.line(*lines)


Step = Callable[[Walk], bool]
"""Takes a step; False: it is not possible here."""


def apart(walk: Walk) -> bool:
    i, _ = walk.axis()
    n = walk.dims[i]
    parts = [p for p in range(2, n) if n % p == 0]
    if not parts or len(walk.dims) > 3:
        return False
    p = walk.layer.rng.choice(parts)
    d = walk.front + i
    number, rest = walk.layer.constant(p), walk.layer.constant(n // p)
    before, after = f"*y.shape[:{d}]", f"*y.shape[{d + 1}:]"
    ways = [
        f"y = y.unflatten({d}, ({number}, -1))",
        f"y = y.unflatten({d}, (-1, {rest}))",
        f"y = y.unflatten({d}, ({number}, {rest}))",
        f"y = y.reshape({before}, {number}, {walk.size(i)} // {number}, {after})",
        f"y = y.reshape({before}, {walk.size(i)} // {rest}, {rest}, {after})",
        f"y = torch.stack(y.chunk({number}, {d}), {d})",
    ]
    walk.go(walk.layer.pick(*ways))
    walk.dims[i : i + 1] = [p, n // p]
    return True


def join(walk: Walk) -> bool:
    if len(walk.dims) < 2:
        return False
    i = walk.layer.rng.randrange(len(walk.dims) - 1)
    d = walk.front + i
    before, after = f"*y.shape[:{d}]", f"*y.shape[{d + 2}:]"
    ways = [
        f"y = y.flatten({d}, {d + 1})",
        f"y = y.reshape({before}, -1, {after})",
        f"y = y.reshape({before}, {walk.size(i)} * {walk.size(i + 1)}, {after})",
        f"y = torch.cat(y.unbind({d}), {d})",
    ]
    walk.go(walk.layer.pick(*ways))
    walk.dims[i : i + 2] = [walk.dims[i] * walk.dims[i + 1]]
    return True


def swap(walk: Walk) -> bool:
    if len(walk.dims) < 2:
        return False
    i, j = walk.layer.rng.sample(range(len(walk.dims)), 2)
    a, b = walk.front + i, walk.front + j
    if walk.layer.chance(0.5):
        walk.go(f"y = y.transpose({a}, {b})")
        walk.dims[i], walk.dims[j] = walk.dims[j], walk.dims[i]
    else:
        walk.go(f"y = y.movedim({a}, {b})")
        walk.dims.insert(j, walk.dims.pop(i))
    return True


def scale(walk: Walk) -> bool:
    sizes = [n if walk.layer.chance(0.5) else 1 for n in walk.dims]
    gain = walk.layer.parameter("gain", *sizes)
    way = walk.layer.pick(
        "y = y * {}", "y = y + {}", "y = y - {}", "y = torch.mul({}, y)", "y = y / (1 + {}.abs())", "y = {} + y"
    )
    walk.layer.facts.offsets |= 1 in sizes and any(s in way for s in "+-")
    walk.go(way.format(gain))
    return True


def activate(walk: Walk) -> bool:
    walk.go(f"y = {walk.layer.activation('y')}")
    return True


def along(walk: Walk) -> bool:
    """Something along an axis that keeps its size."""
    _, d = walk.axis()
    ways = [
        f"y = y.softmax({d})",
        f"y = y.cumsum({d})",
        f"y = F.normalize(y, dim={d})",
        f"y = y.sort(dim={d}).values",
        f"y = y.flip({d})",
        f"y = y.roll(1, {d})",
        f"y = y - y.mean({d}, keepdim=True)",
        f"y = y * y.amax({d}, keepdim=True)",
        f"y = y + y.sum(dim={d}, keepdim=True)",
        f"y = y / (1 + y.norm(dim={d}, keepdim=True))",
        f"y = y.cummax({d}).values",
        f"y = F.log_softmax(y, dim={d})",
        f"y = y * (y == y.amax({d}, keepdim=True))",
        f"y = y / (y.abs().sum({d}, keepdim=True) + 1)",
        f"y = y * torch.sigmoid(y.mean({d}, keepdim=True))",
        f"y = y + torch.arange(y.shape[{d}], dtype=y.dtype).view(-1, *[1] * {walk.rank - 1 - d % walk.rank})",
        f"w = torch.linspace(0.5, 1, y.size({d}), dtype=y.dtype); y = (y.movedim({d}, -1) * w).movedim(-1, {d})",
        f"y = torch.cat([y[..., :1] * 0 + y.narrow({d}, 0, 1).mean(), y[..., 1:]], -1)",
    ]
    way = walk.layer.pick(*ways)
    walk.mixes()
    walk.go(way)
    return True


def ended(walk: Walk) -> bool:
    """An axis is summed up, or one entry of it is picked."""
    if len(walk.dims) < 2:
        return False
    i, d = walk.axis()
    ways = [
        "y = y.sum({})",
        "y = y.mean({})",
        "y = y.amax({})",
        "y = y.select({}, 0)",
        "y = y.logsumexp({})",
        "y = y.norm(dim={})",
    ]
    ways += [
        "y = y.std({}, unbiased=False)",
        "y = y.prod({})",
        "y = y.var({}, unbiased=False)",
        "y = sum(y.unbind({}))",
        "y = y.max({}).values",
    ]
    walk.mixes()
    walk.go(walk.layer.pick(*ways).format(d))
    del walk.dims[i]
    return True


def multiply(walk: Walk) -> bool:
    """A product with a weight along one axis, one weight for all or one for each entry of another axis."""
    letters = "ijkl"[: len(walk.dims)]
    i, _ = walk.axis()
    outputs = walk.layer.rng.choice([2, 3, 4])
    if walk.layer.chance(0.4) and i == len(walk.dims) - 1:
        walk.go(f"y = {walk.layer.module('fc', f'nn.Linear({walk.dims[i]}, {outputs})')}(y)")
        walk.layer.facts.offsets = True
    else:
        shared = [j for j in range(len(walk.dims)) if j != i and walk.layer.chance(0.3)]
        weight = walk.layer.parameter("weight", *(walk.dims[j] for j in shared), walk.dims[i], outputs)
        left = "".join(letters[j] for j in shared)
        out = letters.replace(letters[i], "o")
        walk.go(f"y = torch.einsum('...{letters},{left}{letters[i]}o->...{out}', y, {weight})")
    walk.dims[i] = outputs
    return True


def part(walk: Walk) -> bool:
    """A part of an axis."""
    i, _ = walk.axis()
    n, d = walk.dims[i], walk.front + i
    if n < 4 or n % 2:
        return False
    here = f"(slice(None),) * {d}"
    ways: dict[str, int] = {
        f"y = y.narrow({d}, 0, {walk.size(i)} // 2)": n // 2,
        f"y = y[{here} + (slice(0, None, 2),)]": n // 2,
        f"y = y[{here} + (slice(1, None, 2),)]": n // 2,
        f"y = y[{here} + (slice(1, None),)]": n - 1,
        f"y = y[{here} + (slice(None, -1),)]": n - 1,
        f"a, c = y.chunk(2, {d}); y = a * c": n // 2,
        f"a, c = y.chunk(2, {d}); y = a + torch.tanh(c)": n // 2,
        f"a, c = torch.split(y, y.shape[{d}] // 2, {d}); y = torch.cat([c, a], {d})": n,
        f"a, c = y.chunk(2, {d}); y = torch.stack([c, a], {d}).flatten({d}, {d + 1})": n,
        f"a, c = y.chunk(2, {d}); y = torch.stack([a, c], {d + 1}).flatten({d}, {d + 1})": n,
        f"a, c = y.split([1, {n - 1}], {d}); y = torch.sigmoid(a) * c": n - 1,
        f"y = torch.diff(y, dim={d})": n - 1,
        f"y = y.index_select({d}, torch.arange({n // 2}))": n // 2,
        f"y = torch.cat([y.narrow({d}, 1, y.shape[{d}] - 1), y.narrow({d}, 0, 1)], {d})": n,
    }
    way = walk.layer.pick(*ways)
    walk.layer.facts.contracts = walk.layer.facts.offsets = True
    walk.go(way)
    walk.dims[i] = ways[way]
    return True


def more(walk: Walk) -> bool:
    """More entries than before."""
    i, _ = walk.axis()
    n, d = walk.dims[i], walk.front + i
    total = 1
    for m in walk.dims:
        total *= m
    if 2 * total > MOST:
        return False
    ways: dict[str, list[int]] = {
        f"y = torch.cat([y, y * 0.5], {d})": [2 * n],
        f"y = torch.cat([y, y.flip({d})], dim={d})": [2 * n],
        f"y = torch.stack([y, torch.relu(y)], {d})": [2, n],
        f"y = torch.stack((torch.tanh(y), y), dim={d + 1})": [n, 2],
        f"y = y.repeat_interleave(2, {d})": [2 * n],
        f"y = y.unsqueeze({d}) * {{}}": [2, n],
        f"y = y.unsqueeze({d}).expand(*[-1] * {d}, 2, *[-1] * {walk.rank - d})": [2, n],
        f"y = torch.cat([y, torch.zeros_like(y)], {d})": [2 * n],
        f"y = F.pad(y.movedim({d}, -1), (1, 0)).movedim(-1, {d})": [n + 1],
        f"y = y.tile([2 if k == {d} else 1 for k in range(y.dim())])": [2 * n],
    }
    way = walk.layer.pick(*ways)
    grown = ways[way]
    if "{}" in way:
        way = way.format(
            walk.layer.parameter("copies", 2, *(n if walk.layer.chance(0.5) else 1 for n in walk.dims[i:]))
        )
    walk.go(way)
    walk.dims[i : i + 1] = grown
    return True


def products(walk: Walk) -> bool:
    """All pairs of an axis, or two axes that meet."""
    if len(walk.dims) < 2 or walk.dims[-2] ** 2 > 36:
        return False
    walk.layer.facts.contracts = True
    ways = [("y = y @ y.transpose(-1, -2)", -2), ("y = torch.einsum('...ij,...kj->...ik', y, torch.tanh(y))", -2)]
    ways.append(("y = torch.einsum('...ij,...ik->...jk', y, y)", -1))
    way, kept = walk.layer.rng.choice(ways)
    if walk.dims[kept] ** 2 > 36:
        return False
    walk.go(way)
    walk.dims[-2:] = [walk.dims[kept]] * 2
    if walk.layer.chance(0.3):
        walk.mixes()
        walk.go("y = y * torch.ones(y.shape[-2], y.shape[-1], dtype=y.dtype).tril()")
    return True


def normalized(walk: Walk) -> bool:
    count = walk.layer.rng.randint(1, len(walk.dims))
    walk.mixes()
    sizes = walk.dims[-count:]
    if walk.layer.chance(0.5):
        walk.go(f"y = {walk.layer.module('norm', f'nn.LayerNorm({sizes})')}(y)")
    else:
        walk.go(f"y = F.layer_norm(y, y.shape[-{count}:])")
    return True


def numbers(walk: Walk) -> bool:
    """A size as a number."""
    i, _ = walk.axis()
    size = walk.size(i)
    ways = [
        "y = y * {} ** -0.5",
        "y = y / math.sqrt({})",
        "y = y * (1.0 / {})",
        "y = y / max(1, {})",
        "y = y * float({} > 2)",
    ]
    walk.go(walk.layer.pick(*ways).format(size if size.startswith(("y", "self")) and "*" not in size else f"({size})"))
    return True


STEPS: tuple[tuple[Step, int], ...] = (
    (apart, 6),
    (join, 3),
    (swap, 3),
    (scale, 3),
    (activate, 2),
    (along, 3),
    (ended, 2),
    (multiply, 3),
    (part, 3),
    (more, 3),
    (products, 1),
    (normalized, 1),
    (numbers, 1),
)


def _walk(layer: Layer, x: Value, front: int) -> Value:
    width = layer.rng.choice([6, 8, 12, 12])
    fc = layer.module("enter", f"nn.Linear({x.channels}, {width})")
    layer.line(f"y = {fc}(x)")
    walk = Walk(layer, front, [width])
    layer.facts.contracts = True
    for _ in range(layer.rng.randint(3, 8)):
        (step,) = layer.rng.choices([s for s, _ in STEPS], [w for _, w in STEPS])
        step(walk)
    total = 1
    for n in walk.dims:
        total *= n
    layer.line(layer.pick(f"y = y.flatten({front})", f"y = y.reshape(*y.shape[:{front}], -1)"))
    layer.line(f"y = {layer.module('leave', f'nn.Linear({total}, {x.channels})')}(y)", layer.pick("x = x + y", "x = y"))
    return x


@block("tokens")
def walk_of_tokens(layer: Layer, x: Value) -> Value:
    return _walk(layer, x, 2)


@block("vector")
def walk_of_vectors(layer: Layer, x: Value) -> Value:
    return _walk(layer, x, 1)


@block("image")
def walk_of_pixels(layer: Layer, x: Value) -> Value:
    """Channels last, and back."""
    layer.line("x = x.permute(0, 2, 3, 1)")
    _walk(layer, x, 3)
    layer.line("x = x.permute(0, 3, 1, 2)")
    return x
