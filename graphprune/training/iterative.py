"""Prune in rounds: remove some channels, train, measure, and again. A run that is killed goes on where it was."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from torch import nn
from typing_extensions import Unpack

from graphprune.api import ChannelGraph, apply_and_repair, trace
from graphprune.choosing.automatic import best_plan
from graphprune.errors import InputError, LoadError
from graphprune.planning.asked import asked_of
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.planning.options import PruningOptions
from graphprune.training.checkpoint import (
    Folder,
    checkpoint_folder,
    fingerprint,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from graphprune.training.distributed import check_accelerator, from_first_process
from graphprune.training.finetuning import check_gradients_on, finetune
from graphprune.training.history import History
from graphprune.training.loop import Quality, quality_of
from graphprune.training.rounds import IterativeResult, Round
from graphprune.training.schedules import Iterative, remaining_at
from graphprune.training.targets import PruningTargets
from graphprune.utils.checks import (
    as_key,
    check_callable,
    check_flag,
    check_known,
    found_value,
    is_number,
    shown,
    with_article,
)
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.files import delete_folder
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.random_state import random_numbers_kept, seed_all
from graphprune.utils.typed_json import convert_data

Tune = Callable[[nn.Module], object] | Mapping[str, Any]


@leaves_torch_alone
@takes_options
def prune_iteratively(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    rounds: int,
    tune: Tune,
    ratio: float | None = None,
    evaluate: Quality | None = None,
    max_drop: float | None = None,
    checkpoint: Folder | None = None,
    repair: bool = True,
    **options: Unpack[PlanArguments],
) -> IterativeResult:
    """Prune a copy of ``model`` in rounds, and train it after each. One-shot pruning is ``rounds=1``.

    Every round removes the same fraction of what is left (rate γ, and 1 - (1 - γ)^n in the end), physically, so that
    later rounds are cheaper. Each round begins with random numbers that follow from ``seed`` and its number.

    Args:
        model: the dense model; unchanged.
        example_inputs: a tensor, a tuple, or a dict of keyword arguments; None: found from the model.
        rounds: the number of rounds.
        tune: trains a model in place; or a dict of arguments of :func:`graphprune.finetune` (``batches`` and so on),
            where ``distill`` without a ``teacher`` means distillation from the dense model. With an ``accelerator``
            among them every process calls this function, and process 0 decides: its plans and qualities count. With
            ``calibration=across_processes(...)`` all make the plans, and repair, together.
        ratio: the fraction of channels that are gone after the last round; or budgets are among ``options``
            (``macs=0.25``), for the model after the last round.
        evaluate: ``(model) -> quality``, a number that is higher for a better model.
        max_drop: stop when the quality after training is more than this below that of the dense model, and keep the
            model of the round before.
        checkpoint: a folder. The run is saved there, and continues from there when the call is repeated with the same
            arguments: at any step of the training if ``tune`` is a dict, else at the beginning of it.
        repair: with ``calibration`` among the options, repair before training (see :func:`graphprune.prune_model`).
        options: all other arguments of a plan, for the end; see :class:`graphprune.PruningOptions`. ``calibration``
            is read in every round.

    Raises:
        InputError: an argument is not what is needed.
        PlanError: a round cannot be planned; what the rounds before gave is in the checkpoint.
        LoadError: the checkpoint is damaged, or of another run.

    Warns:
        NothingRemovedWarning, UnreachedWarning: in the end, as for :meth:`graphprune.ChannelGraph.plan`.
    """
    if max_drop is not None and evaluate is None:
        raise InputError(
            f"max_drop: is {max_drop}, but nothing is measured",
            found=f"max_drop={max_drop} and no evaluate=",
            needed="evaluate=, a function (model) -> quality",
            do="pass evaluate=, or leave out max_drop",
        )
    if max_drop is not None and (not is_number(max_drop) or math.isnan(max_drop)):
        raise InputError(
            f"max_drop: must be a number, but is {shown(max_drop)}",
            found=found_value(max_drop),
            needed="by how much the quality may fall, a number",
            do="pass max_drop=0.01",
        )
    if evaluate is not None:
        check_callable("evaluate", evaluate, "a function (model) -> quality", takes="model")
    check_flag("repair", repair)
    _check_tune(tune)
    accelerator = None if callable(tune) else tune.get("accelerator")
    check_accelerator(accelerator)
    with random_numbers_kept():
        graph = trace(model, example_inputs)
        schedule, request = Iterative(rounds), PruningOptions.of(ratio, options)
        calibration = options.get("calibration")
        targets = from_first_process(accelerator, lambda: PruningTargets.of(graph, ratio, options), calibration)
        asked = _Asked(schedule, request, options, targets)
        folder = None if checkpoint is None else checkpoint_folder(checkpoint)
        return _Run(model, graph, asked, tune, accelerator, evaluate, max_drop, folder, repair).run()


def _check_tune(tune: Any) -> None:
    """Raise an InputError unless this trains a model: a function, or arguments of ``finetune``."""
    wrong = _wrong_tune(tune)
    if wrong:
        raise InputError(
            f"tune: {wrong}",
            found=found_value(tune),
            needed="a function that trains a model, or a dict of arguments of finetune with 'batches' and without "
            "'checkpoint'",
            do="pass tune={'batches': loader, 'epochs': 1, 'lr': 0.01}",
        )
    if callable(tune):
        check_callable("tune", tune, "a function (model) that trains it", takes="model")
    else:
        check_gradients_on("prune_iteratively")
    for name in tune if isinstance(tune, Mapping) else ():
        check_known("tune", name, inspect.signature(finetune).parameters, form=as_key)


def _wrong_tune(tune: Any) -> str:
    """What is wrong with what trains a model; empty: nothing, as far as names go."""
    if callable(tune):
        return ""
    if not isinstance(tune, Mapping):
        kind = with_article(type(tune).__name__)
        return f"must be a function or a dict of arguments of finetune, but is {kind}"
    if "batches" not in tune:
        return "has no 'batches', the data that finetune trains on"
    return "has 'checkpoint', and prune_iteratively has its own" if "checkpoint" in tune else ""


def _check_in_place(returned: object, model: nn.Module) -> None:
    """Raise an InputError if what ``tune`` returned is another model: its training would be lost."""
    if isinstance(returned, nn.Module) and returned is not model:
        raise InputError(
            f"tune: returned another {type(returned).__name__} than the one that it was given",
            found="a module that is not the argument",
            needed="a function that trains the model that it is given, in place",
            do="train the argument itself, or load the result: model.load_state_dict(trained.state_dict())",
        )


def _check_comparable(dense: float | None, max_drop: float | None) -> None:
    """Raise an InputError if the dense model's quality is NaN and others are to be compared with it."""
    if max_drop is not None and dense is not None and math.isnan(dense):
        raise InputError(
            "evaluate: the dense model's quality is nan, with which max_drop= cannot compare",
            found="a quality of nan",
            needed="a number, with which the quality of slim models can be compared",
            do="look for NaN in the weights and the data, and for a division by zero in evaluate",
        )


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked of all rounds together."""

    schedule: Iterative
    request: PruningOptions
    options: PlanArguments
    targets: PruningTargets

    def plan(self, number: int, present: ChannelGraph) -> dict[str, Any] | None:
        """The arguments of the plan of a round; None: there is nothing to remove."""
        return self.targets.ask(present, self.options, self.schedule, number, number - 1)

    def described(self, number: int) -> str:
        """What this and the rounds before are to do to the dense model."""
        request, targets = self.request, self.targets
        ratios = {"ratio": request.ratio, **request.role_ratios, "depth": request.depth}
        found = [f"{n} {self.schedule.ratio_at(number, r):.3f}" for n, r in ratios.items() if r is not None]
        for kind, limit in targets.budgets.items():
            share = remaining_at(self.schedule, number, limit / targets.dense[kind])
            found.append(f"{kind} {share:.3f}")
        return ", ".join(found)


class _SavedRun(Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint says of the run: what tells it from another one, the rounds so far, and where they lead."""

    asked: dict[str, Any]
    dense: int
    rounds: Annotated[tuple[Round, ...], Meta(min_length=1)]
    targets: PruningTargets


@dataclass(eq=False)
class _Run:
    """One call of :func:`prune_iteratively`. ``good`` in the folder is the model after the last good round."""

    dense: nn.Module
    graph: ChannelGraph
    asked: _Asked
    tune: Tune
    accelerator: Any
    evaluate: Quality | None
    max_drop: float | None
    folder: Path | None
    repair: bool

    def run(self) -> IterativeResult:
        resumed = self._resumed("good")
        self.model, self.done = resumed or (copy_module(self.dense, {}), [])
        if not self.done:
            quality = self._quality(self.dense)
            _check_comparable(quality, self.max_drop)
            self.done = [self._counted(0, self.graph, quality)]
        while self.done[-1].good and len(self.done) <= self.asked.schedule.rounds:
            self._round(len(self.done))
        return IterativeResult(self.model, self.done[0], tuple(self.done[1:]))

    def _round(self, number: int) -> None:
        resumed = self._resumed(f"pruned-{number}")
        if resumed is None:
            pruned, record = self._pruned(number)
            self._save(f"pruned-{number}", pruned, [*self.done, record])
        else:
            pruned, (*self.done, record) = resumed
        seed_all(self._seed, number, 1)
        tuning = self._tuned(pruned, number)
        after = self._quality(pruned)
        record = replace(record, after=after, good=self._good(after), tuning=tuning)
        self.done.append(record)
        self.model = pruned if record.good else self.model
        self._save("good", self.model, self.done)
        self._forget(number)

    def _pruned(self, number: int) -> tuple[nn.Module, Round]:
        """A smaller model, repaired but not trained."""
        seed_all(self._seed, number)
        graph = trace(self.model, self._example)
        asked = self.asked.plan(number, graph)
        slim = copy_module(self.model, {}) if asked is None else self._applied(graph, asked)
        return slim, self._counted(number, trace(slim, self._example), self._quality(slim))

    def _applied(self, graph: ChannelGraph, asked: dict[str, Any]) -> nn.Module:
        options = PruningOptions.of(asked.pop("ratio", None), asked)
        calibration = asked.get("calibration")
        plan = from_first_process(self.accelerator, lambda: best_plan(graph, options, self.repair), calibration)
        if not self.repair or calibration is None:
            return plan.apply(self.model)
        return apply_and_repair(self.model, plan, calibration, asked.get("loss_fn"))

    def _tuned(self, model: nn.Module, number: int) -> History | None:
        if callable(self.tune):
            _check_in_place(self.tune(model), model)
            return None
        given = dict(self.tune)
        if given.get("distill") is not None:
            given.setdefault("teacher", self.dense)
        if self.folder is not None:
            given["checkpoint"] = self.folder / f"tuning-{number}"
        return finetune(model, given.pop("batches"), **given)

    def _counted(self, number: int, graph: ChannelGraph, before: float | None) -> Round:
        cost, left = graph.cost(), sum(g.units for g in graph.groups)
        removed = 1 - left / max(sum(g.units for g in self.graph.groups), 1)
        asked = self.asked.described(number) if number else ""
        return Round(number, asked, removed, cost.params, cost.macs, before)

    def _quality(self, model: nn.Module) -> float | None:
        """Every process measures, as that may need all of them."""
        found = None if self.evaluate is None else quality_of(self.evaluate, model)
        return from_first_process(self.accelerator, lambda: found)

    def _good(self, after: float | None) -> bool:
        dense = self.done[0].before
        if self.max_drop is None or after is None or dense is None:
            return True
        return after >= dense - self.max_drop

    @property
    def _example(self) -> Any:
        return list(self.graph.examples)

    @property
    def _seed(self) -> int:
        return self.asked.options.get("seed", 0)

    # ------------------------------------------------------------ checkpoints

    @property
    def _writes(self) -> bool:
        return self.accelerator is None or bool(self.accelerator.is_main_process)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What tells this run from another one."""
        asked = {
            "rounds": self.asked.schedule.rounds,
            "max_drop": self.max_drop,
            "repair": self.repair,
            **asked_of(self.asked.request),
        }
        return {"asked": asked, "dense": fingerprint(self.dense)}

    def _save(self, name: str, model: nn.Module, rounds: Sequence[Round]) -> None:
        if self.folder is None:
            return
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
        if self._writes:
            state = self._identity | {"rounds": [asdict(r) for r in rounds], "targets": self.asked.targets.data()}
            save_checkpoint(self.folder / name, model, state)

    def _resumed(self, name: str) -> tuple[nn.Module, list[Round]] | None:
        if self.folder is None or not has_checkpoint(self.folder / name):
            return None
        model = copy_module(self.dense, {})
        saved = self._checked(load_checkpoint(self.folder / name, model, check=self._checked))
        self.asked = replace(self.asked, targets=saved.targets)  # a latency is measured once
        return model, list(saved.rounds)

    def _checked(self, state: Mapping[str, Any]) -> _SavedRun:
        """The state of a checkpoint, which must be one of this run."""
        saved = convert_data(state, _SavedRun, f"checkpoint: {self.folder}", "pass another folder")
        if saved.asked != self._identity["asked"]:
            raise LoadError(
                f"checkpoint: {self.folder} is of a run with {saved.asked}, but asked for is {self._identity['asked']}",
                where=str(self.folder),
                found=f"{saved.asked}",
                needed=f"{self._identity['asked']}",
                do="ask for the same to go on with it, or pass another folder",
            )
        if saved.dense != self._identity["dense"]:
            raise LoadError(
                f"model: has other weights than the model with which the run in {self.folder} began",
                where=str(self.folder),
                found=f"weights with the checksum {self._identity['dense']}",
                needed=f"the checksum {saved.dense}",
                do="pass the model with which it began, or another folder",
            )
        return saved

    def _forget(self, number: int) -> None:
        """What only an unfinished round needs."""
        if self.folder is None or not self._writes:
            return
        for name in (f"pruned-{number}", f"tuning-{number}"):
            if (self.folder / name).exists():
                delete_folder(self.folder / name)
