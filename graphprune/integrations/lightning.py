"""Lightning callbacks that prune on a schedule. Needs ``pip install 'graphprune[lightning]'``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from graphprune.errors import InputError, LoadError, MissingPackageError
from graphprune.integrations.callback import PreparedPruner, check_sparsifier, warn_of_unfinished
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.training.gradual import GradualPruner
from graphprune.training.gradual_sparsity import GradualSparsifier
from graphprune.training.schedules import Schedule
from graphprune.utils.checks import check_type, did_you_mean, with_article
from graphprune.utils.files import check_path
from graphprune.utils.pickled_files import refused_object

try:
    from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
except ImportError as error:
    raise MissingPackageError(
        "the Lightning callback needs lightning",
        found="no package lightning",
        needed="lightning 2.2 or later",
        do="pip install 'graphprune[lightning]'",
    ) from error


class PruningCallback(Callback):
    """Prunes the module that a ``Trainer`` fits, physically and in place, with the state of its optimizers.

    ``Trainer(callbacks=[PruningCallback(Gradual(100, 1000, 100), ratio=0.5)])``. The last pruning should come well
    before the end of training. To go on from a checkpoint, call :meth:`resume` with the dense module before
    ``trainer.fit(module, ckpt_path=...)``.

    Args:
        schedule: in steps of the optimizers (``trainer.global_step``).
        example_inputs: of ``part``'s ``forward``; None: the module's ``example_input_array``, if it is pruned whole,
            else found from the model.
        part: the path of the submodule that is pruned (``"model"``); ``""``: all of it.
        ratio, averages, outputs, options: as for :class:`graphprune.GradualPruner`.
    """

    @takes_options
    def __init__(
        self,
        schedule: Schedule,
        *,
        example_inputs: Any = None,
        part: str = "",
        ratio: float | None = None,
        averages: Sequence[nn.Module] = (),
        outputs: Callable[[Any], Any] | None = None,
        **options: Unpack[PlanArguments],
    ) -> None:
        check_type("part", part, str, "the path of a submodule, such as 'model', or '' for all of the module")
        self.part, self._example_inputs = part, example_inputs
        self._prepared = PreparedPruner(schedule, example_inputs, ratio, averages, outputs, options)

    @property
    def pruner(self) -> GradualPruner | None:
        """What prunes, with its ``history``; None before training."""
        return self._prepared.pruner

    def resume(self, module: LightningModule, checkpoint: str | os.PathLike[str], *, weights_only: bool = True) -> None:
        """Make the dense module as small as it was when the checkpoint was saved, so that this can be loaded.

        Args:
            module: as it was before training.
            checkpoint: a file of Lightning.
            weights_only: run no code of the file, as for ``trainer.fit``. ``save_hyperparameters()`` may have put
                objects into it; pass False if you trust where it is from.

        Raises:
            LoadError: the checkpoint cannot be read, is of a training without this callback, or of another module.
        """
        check_type("module", module, nn.Module, "the LightningModule that is trained")
        saved = _read(check_path("checkpoint", checkpoint), weights_only)
        state = saved.get("callbacks", {}).get(self.state_key, {})
        self._prepared.resume(self._pruned(module), state, str(checkpoint))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The model and the optimizers are there.

        Raises:
            InputError: another callback keeps an average of the weights, which would have the shapes of before, or
                there is no such part.
        """
        _check_averages(trainer)
        self._prepared.begin(self._pruned(pl_module), trainer.optimizers, trainer.world_size)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Prune if it is time to; the best checkpoints so far are of another architecture then, and count no more."""
        if self._prepared.at(trainer.global_step):
            for saving in trainer.checkpoint_callbacks:
                if isinstance(saving, callbacks.ModelCheckpoint):
                    saving.best_k_models, saving.kth_best_model_path = {}, ""
                    saving.best_model_path, saving.best_model_score = "", None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the schedule was to go on."""
        self._prepared.end()

    def state_dict(self) -> dict[str, Any]:
        """Part of Lightning's checkpoint."""
        return self._prepared.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self._prepared.saved = state_dict

    def _pruned(self, module: LightningModule) -> nn.Module:
        """What is pruned of a module, with the example inputs of this one: a callback may serve several."""
        if not self.part and self._example_inputs is None:
            self._prepared.example_inputs = module.example_input_array
        return _part_of(module, self.part)


def _part_of(module: nn.Module, part: str) -> nn.Module:
    """The submodule that is pruned."""
    modules: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if part not in modules:
        names = [path for path in modules if path]
        raise InputError(
            f"part: {type(module).__name__} has no submodule {part!r}{did_you_mean(part, names)}",
            where=type(module).__name__,
            found=f"the path {part!r}",
            needed=f"the path of one of its {len(names)} submodules, such as {names[:3]}",
            do="pass the name of the attribute that holds the network (part='model'), or leave it out to prune all",
        )
    return modules[part]


def _read(checkpoint: Path, weights_only: bool) -> dict[str, Any]:
    """What a file of Lightning holds."""
    what, found = f"checkpoint: {checkpoint} cannot be read as a checkpoint of Lightning", ""
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=weights_only)
    except FileNotFoundError:
        saved, found = None, "no such file"
    except Exception as error:  # of any kind: a damaged pickle raises whatever its bytes lead to
        refused = refused_object(error) if weights_only else ""
        raise LoadError(
            what,
            where=str(checkpoint),
            found=f"a pickled {refused}" if refused else " ".join(str(error).split())[:_LONGEST],
            needed="a file that trainer.save_checkpoint or ModelCheckpoint wrote",
            do="if you trust where it is from, pass weights_only=False, and to trainer.fit too" if refused else _SAVED,
        ) from error
    if isinstance(saved, dict):
        return saved
    raise LoadError(
        what,
        where=str(checkpoint),
        found=found or with_article(type(saved).__name__),
        needed="a file that trainer.save_checkpoint or ModelCheckpoint wrote",
        do=_SAVED,
    )


_SAVED = "pass the path of such a file"
_LONGEST = 200


def _check_averages(trainer: Trainer) -> None:
    names = ("WeightAveraging", "StochasticWeightAveraging")  # the former since Lightning 2.6
    kinds = tuple(getattr(callbacks, name) for name in names if hasattr(callbacks, name))
    found = next((one for one in getattr(trainer, "callbacks", ()) if isinstance(one, kinds)), None)
    if found is not None:
        raise InputError(
            f"callbacks: {type(found).__name__} keeps an average of the weights, in the shapes of before pruning",
            where=type(found).__name__,
            found=f"{type(found).__name__} beside a PruningCallback",
            needed="averages that are pruned with the module",
            do="average a part of the module, self.ema = torch.optim.swa_utils.AveragedModel(self.net), which "
            "on_train_batch_end updates, and prune that part with its averages, "
            "PruningCallback(..., part='net', averages=[module.ema]); or "
            f"fit again with {type(found).__name__} once pruning is over",
        )


class SparsityCallback(Callback):
    """Masks weights of the module that a ``Trainer`` fits, on a schedule.

    ``Trainer(callbacks=[SparsityCallback(GradualSparsifier(module, Gradual(100, 1000, 100), 0.9))])``. Masks are in
    Lightning's checkpoints; to go on from one, make module, sparsifier and trainer as before, and call
    ``trainer.fit(module, ckpt_path=...)``.

    Args:
        sparsifier: of the module or a part of it, with a schedule in steps of the optimizers (``trainer.global_step``).
    """

    def __init__(self, sparsifier: GradualSparsifier) -> None:
        check_sparsifier(sparsifier)
        self.sparsifier = sparsifier

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Mask more weights if it is time to."""
        self.sparsifier.at(trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the schedule was to go on."""
        warn_of_unfinished(self.sparsifier.schedule, self.sparsifier.steps)

    def state_dict(self) -> dict[str, Any]:
        """Part of Lightning's checkpoint."""
        return self.sparsifier.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint."""
        self.sparsifier.restore(state_dict)
