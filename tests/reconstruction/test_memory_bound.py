"""Repair within a bound on memory: the same weights, what it holds, and what is refused."""

from __future__ import annotations

import errno
import gc
import io
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.errors import InputError, SaveError
from graphprune.reconstruction import fit_memory, iterative_regression
from graphprune.reconstruction.fit_memory import regression_for
from graphprune.reconstruction.iterative_regression import IterativeRegression
from graphprune.reconstruction.linear_calls import LinearCall, ParameterMemory, linear_call
from graphprune.reconstruction.memory_bound import MemoryBound, parse_memory
from graphprune.reconstruction.paused_forward import PausedForward
from graphprune.reconstruction.regression import BatchMoments, Regression
from graphprune.reconstruction.tensor_group import TensorGroup
from graphprune.utils.byte_sizes import rounded_up
from tests.networks import randomize

aten = torch.ops.aten


class Wide(nn.Module):
    """A residual stream that is much larger than the weights, so that what waits is most of what is held."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(2))
        self.leave = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


class Convolutions(nn.Module):
    """A chain in which sums are added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.back = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.leave = nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).relu_()
        x += self.back(self.norm(self.inner(x)).relu())
        return self.leave(x.mean((2, 3)))


def pruned(model: nn.Module, batches: list[Tensor]) -> graphprune.Plan:
    return graphprune.trace(model, batches[0]).plan(0.5)


def test_prune_model_hands_the_bound_on() -> None:
    model, batches = randomize(Wide()).eval(), [torch.randn(50, 4) for _ in range(2)]
    with pytest.raises(InputError, match=r"memory: 1 B is too little; repair needs at least .* to fit .*weight \["):
        graphprune.prune_model(model, 0.5, batches[0], calibration=batches, memory=1)
    with pytest.raises(InputError, match="memory: must be a number of bytes"):
        graphprune.prune_model(model, 0.5, batches[0], memory="much")
    graphprune.prune_model(model, 0.5, batches[0], calibration=batches, memory="1GB")


def least(model: nn.Module, plan: graphprune.Plan, batches: list[Tensor]) -> int:
    """The smallest bound, as the message says it."""
    with pytest.raises(InputError, match="memory: 1 B is too little; repair needs at least") as failure:
        graphprune.repair(plan.apply(model), model, plan, batches, memory=1)
    found = re.search(r"at least ([0-9.]+) (\w+)", str(failure.value))
    assert found is not None
    return int(float(found[1]) * {"MB": 1e6, "kB": 1e3}[found[2]] * 1.01)  # three digits are said


@contextmanager
def counted_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of what is written to files."""
    sizes: list[int] = []
    write = TensorGroup._write
    with monkeypatch.context() as patch:
        patch.setattr(TensorGroup, "_write", lambda self, s, at: (sizes.append(s.nbytes()), write(self, s, at))[1])
        yield sizes


@pytest.mark.parametrize(
    ("build", "shape"), [(Wide, (500, 4)), (Convolutions, (8, 3, 20, 20))], ids=["wide", "convolutions"]
)
def test_weights_are_the_same_within_a_bound(
    build: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = randomize(build()).double().eval()
    batches = [torch.randn(shape, dtype=torch.float64) for _ in range(4)]
    plan = pruned(model, batches)
    free = plan.apply(model)
    graphprune.repair(free, model, plan, batches)
    smallest = least(model, plan, batches)
    for bound in (smallest, 2 * smallest):
        slim = plan.apply(model)
        with counted_writes(monkeypatch) as sizes:
            graphprune.repair(slim, model, plan, batches, memory=bound)
        assert len(sizes) > len(batches)
        for name, tensor in slim.state_dict().items():
            torch.testing.assert_close(tensor, free.state_dict()[name], rtol=2e-3, atol=2e-4, msg=name)
        if bound > smallest:  # from second moments again, not iteratively
            for name, tensor in slim.state_dict().items():
                torch.testing.assert_close(tensor, free.state_dict()[name], rtol=1e-8, atol=1e-10, msg=name)


def test_what_is_held_stays_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = randomize(Wide()).eval()
    batches = [torch.randn(6000, 4) for _ in range(4)]
    plan = pruned(model, batches)
    slim = plan.apply(model)
    bound = least(model, plan, batches)
    monkeypatch.setattr(iterative_regression, "CG_STEPS", 2)
    held: list[int] = []
    wait, waits = PausedForward.wait, itertools.count()

    def measured(forward: PausedForward) -> None:
        if next(waits) % 5 == 0:  # looking takes long
            held.append(tensor_bytes())
        wait(forward)

    before = tensor_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(PausedForward, "wait", measured)
        graphprune.repair(slim, model, plan, batches, memory=bound)
        within = max(held) - before
        held.clear()
        graphprune.repair(plan.apply(model), model, plan, batches)
    assert within <= bound < max(held) - before


def tensor_bytes() -> int:
    """The bytes of all tensors of this process, each storage once."""
    found = {}
    for one in gc.get_objects():
        if type(one) in (Tensor, nn.Parameter) and one.layout is torch.strided and one.device.type == "cpu":
            storage = one.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return sum(found.values())


class Caching(nn.Module):
    """What one pass computes another one reads."""

    TABLE: dict[int, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        table = self.TABLE.setdefault(len(x), torch.arange(len(x), dtype=x.dtype).unsqueeze(1) / len(x))
        return self.three(self.two((self.one(x) + table).relu()).relu() * table)


def test_passes_may_share_tensors() -> None:
    torch.manual_seed(0)
    model, batches = randomize(Caching()).eval(), [torch.randn(2000, 4) for _ in range(3)]
    Caching.TABLE = {}
    plan = pruned(model, batches)
    Caching.TABLE.clear()
    free, slim = plan.apply(model), plan.apply(model)
    graphprune.repair(free, model, plan, batches)
    Caching.TABLE.clear()
    bound = 2 * least(model, plan, batches)
    Caching.TABLE.clear()
    graphprune.repair(slim, model, plan, batches, memory=bound)
    for name, tensor in slim.state_dict().items():
        torch.testing.assert_close(tensor, free.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


def test_after_a_failure_weights_are_as_before_and_files_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batches = randomize(Wide()).eval(), [torch.randn(3000, 4) for _ in range(3)]
    plan = pruned(model, batches)
    slim, bound = plan.apply(model), least(model, plan, batches)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    files: list[Any] = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: (files.append(temporary(**given)), files[-1])[1])
    calls = iter(range(100))
    solve = Regression.solve

    def interrupted(self: Regression, ridge: float, centered: bool) -> Tensor:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return solve(self, ridge, centered)

    monkeypatch.setattr(Regression, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graphprune.repair(slim, model, plan, batches, memory=2 * bound)
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())
    assert files and all(file.closed for file in files)


@pytest.mark.parametrize("size", [1, 999, 1001, 4_349, 99_950, 999_999, 1_000_001, 43_500_001, 12_345_678_901])
def test_bytes_that_are_advised_are_enough(size: int) -> None:
    assert size <= parse_memory(rounded_up(size)) < 1.01 * size + 1  # type: ignore[operator]


@pytest.mark.parametrize("width", [20, 23, 27, 31])
def test_the_memory_that_is_advised_is_enough(width: int) -> None:
    """It was rounded to the nearest, and refused."""
    model, x = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 5)).eval(), torch.randn(64, 6)
    plan = graphprune.trace(model, x[:1]).plan(0.5)
    with pytest.raises(InputError, match="is too little") as raised:
        graphprune.repair(plan.apply(model), model, plan, [x], memory="1B")
    advised = str(raised.value.do).split("'")[1]
    graphprune.repair(plan.apply(model), model, plan, [x], memory=advised)


@pytest.mark.parametrize("memory", ["4 parsecs", "GB", ".GB", 0, -1, 0.5, True, "0.1B", "9" * 400 + "GB"])
def test_no_memory_is_refused(memory: Any) -> None:
    with pytest.raises(InputError, match=r"memory: must be a number of bytes, such as '4GB'"):
        parse_memory(memory)


def test_a_bound_is_a_number_of_bytes() -> None:
    assert [parse_memory(spec) for spec in ("4GB", "1.5 KiB", 7, None)] == [4_000_000_000, 1536, 7, None]


# ---------------------------------------------------------------- conjugate gradients


def called(weight: Tensor, x: Tensor, op: Any, *rest: Any) -> LinearCall:
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    memory = ParameterMemory(layer)
    found = linear_call(op, (x, layer.weight, *rest), {}, memory, memory.parameters)
    assert found is not None
    return found


def calls(kind: str, n: int) -> LinearCall:
    if kind == "linear":
        mixed = torch.randn(n, 30, dtype=torch.float64) @ torch.randn(30, 40, dtype=torch.float64) + 1
        return called(torch.randn(40, 6, dtype=torch.float64), mixed + torch.randn_like(mixed) / 9, aten.mm.default)
    x, weight = torch.randn(n // 20, 6, 9, 7, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    return called(weight, x, aten.convolution.default, None, [2, 1], [1, 1], [1, 1], False, [0, 0], 2)


@pytest.mark.parametrize("kind", ["linear", "grouped convolution"])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("entries", [1, 10**6])
def test_conjugate_gradients_find_what_the_matrix_gives(
    kind: str, centered: bool, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    full, memory = Regression(), MemoryBound(None)
    iterative = IterativeRegression(memory, entries)
    for n in (200, 60):
        call = calls(kind, n)
        result = call.result(call.again())
        residual = torch.randn_like(result) + 0.5 + result / 3
        iterative.add(call, residual, result)
        for place, x in call.inputs():
            full.add(BatchMoments.of(x, residual[place]), result[place])
    assert iterative.count == full.count and iterative.channels == full.channels
    wanted = full.solve(0.01, centered)
    loose = iterative.solve(0.01, centered)
    monkeypatch.setattr(iterative_regression, "CG_TOLERANCE", 1e-12)
    exact = iterative.solve(0.01, centered)
    torch.testing.assert_close(exact, wanted, rtol=1e-6, atol=1e-9)
    for change in (exact, loose):
        torch.testing.assert_close(iterative.intercept(change), full.intercept(change))
    errors = [one.error(change) for one, change in ((full, wanted), (iterative, exact), (iterative, loose))]
    assert errors[1] == pytest.approx(errors[0], rel=1e-6) and errors[2] == pytest.approx(errors[0], rel=0.01)
    shift = full.intercept(wanted)
    assert iterative.error(wanted, shift) == pytest.approx(full.error(wanted, shift))
    assert iterative.error() == pytest.approx(full.error())


class OneOfTwo(Communicator):
    """One of two threads that stand for processes."""

    def __init__(self, rank: int, both: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.count, self.rank = 2, rank
        self._both, self._barrier = both, barrier

    def gather(self, value: Any) -> list[Any]:
        self._both[self.rank] = value
        self._barrier.wait()
        found = list(self._both)
        self._barrier.wait()
        return found

    def sum(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(sum(self.gather(tensor.clone())))


@pytest.mark.parametrize("split", [1, 2])
def test_processes_share_the_rows(split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(iterative_regression, "CG_TOLERANCE", 1e-12)
    data = [(call := calls("linear", n), torch.randn_like(call.result(call.again()))) for n in (200, 60)]
    both, barrier = [None, None], threading.Barrier(2, timeout=20)

    def solved(rows: Sequence[tuple[LinearCall, Tensor]], communicator: Communicator) -> tuple[Tensor, float, int]:
        with torch.no_grad():
            one = IterativeRegression(MemoryBound(None), 10**6)
            for call, residual in rows:
                one.add(call, residual, residual)
            one.pool(communicator)
            change = one.solve(0.01, True)
            return change, one.error(change, one.intercept(change)), one.count

    with ThreadPoolExecutor(2) as pool:
        shares = data[:split], data[split:]  # with a split of 2, the second one has none
        made = [pool.submit(solved, share, OneOfTwo(n, both, barrier)) for n, share in enumerate(shares)]
        found = [one.result() for one in made]
    wanted = solved(data, ALONE)
    for change, error, count in found:
        torch.testing.assert_close(change, wanted[0], rtol=1e-6, atol=1e-9)
        assert error == pytest.approx(wanted[1]) and count == wanted[2]


def test_pieces_do_not_change_the_sums() -> None:
    for kind in ("linear", "grouped convolution"):
        call = calls(kind, 60)
        whole = torch.cat([x for _, x in call.inputs()])
        pieces = list(call.inputs(50))
        assert len(pieces) > 1
        torch.testing.assert_close(torch.cat([x for _, x in pieces]), whole)


def test_what_does_not_fit_into_free_memory_is_fitted_iteratively(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 3)).double().eval()
    batches = [torch.randn(200, 4, dtype=torch.float64) for _ in range(2)]
    plan = pruned(model, batches)
    free, slim = plan.apply(model), plan.apply(model)
    exact = graphprune.reconstruct(free, model, plan, batches)
    kinds: list[type] = []

    def watched(*given: Any) -> Any:
        kinds.append(type((found := regression_for(*given))[0]))  # type: ignore[index]
        return found

    monkeypatch.setattr("graphprune.reconstruction.lockstep.regression_for", watched)
    monkeypatch.setattr(fit_memory, "PLENTY", 0)
    monkeypatch.setattr(fit_memory, "free_memory", lambda device: 50_000)
    near = graphprune.reconstruct(slim, model, plan, batches)
    assert set(kinds) == {Regression, IterativeRegression}
    for one, other in zip(exact.repaired, near.repaired, strict=True):
        assert other.after == pytest.approx(one.after, rel=0.02)


class FullDisk(io.RawIOBase):
    """A file into which no more than some bytes can be written."""

    def __init__(self, room: int) -> None:
        self._room, self._file = room, io.BytesIO()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, target: Any) -> int:
        return self._file.readinto(target)

    def write(self, part: Any) -> int:
        if self._file.tell() + len(part) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(part)


def no_folder(**_: Any) -> Any:
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")


@pytest.mark.parametrize(
    ("file", "number"), [(lambda **_: FullDisk(40_000), errno.ENOSPC), (no_folder, errno.ENOENT)], ids=["full", "none"]
)
def test_temporary_files_that_cannot_be_written_are_told_of(
    file: Callable[..., Any], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, batches = randomize(Wide()).eval(), [torch.randn(3000, 4) for _ in range(3)]
    plan = pruned(model, batches)
    slim, bound = plan.apply(model), least(model, plan, batches)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    monkeypatch.setattr(tempfile, "TemporaryFile", file)
    with pytest.raises(SaveError, match=r"memory: a temporary file in .* could not be written: No ") as raised:
        graphprune.repair(slim, model, plan, batches, memory=2 * bound)
    assert isinstance(raised.value, OSError) and raised.value.errno == number
    assert "TMPDIR" in raised.value.do and "memory=" in raised.value.do
    assert all(torch.equal(tensor, before[name]) for name, tensor in slim.state_dict().items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_gpu_go_to_the_cpu_and_to_files() -> None:
    tensor = torch.randn(1000, device="cuda")
    group, wanted = TensorGroup(), tensor.cpu()
    group.add([tensor])
    for room, on_host in ((0, 0), (4000, 4000)):
        group.move_out(room)
        assert tensor.untyped_storage().nbytes() == 0 and group.on_host == on_host and group.moved_out == 4000
        group.bring_back()
        assert torch.equal(tensor.cpu(), wanted)
    group.close()
