"""Callbacks of Transformers' ``Trainer`` that prune on a schedule.

Needs ``pip install 'graphprune[transformers]'``.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Unpack

from graphprune.errors import LoadError, MissingPackageError
from graphprune.integrations.callback import PreparedPruner, check_sparsifier, warn_of_unfinished
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.training.gradual import GradualPruner
from graphprune.training.gradual_sparsity import GradualSparsifier
from graphprune.training.schedules import Schedule
from graphprune.utils.files import replace_file
from graphprune.utils.typed_json import convert_data, read_json

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
except ImportError as error:
    raise MissingPackageError(
        "the Transformers callback needs transformers and accelerate",
        found=str(error),
        needed="transformers 4.56 and accelerate 1.0, or later",
        do="pip install 'graphprune[transformers]'",
    ) from error


STATE = "graphprune.json"


class PruningCallback(TrainerCallback):
    """Prunes the model of a ``Trainer``, physically and in place, with the state of its optimizer.

    ``Trainer(..., callbacks=[PruningCallback(Gradual(100, 1000, 100), ratio=0.5)])``. The last pruning should come well
    before the end of training. With ``load_best_model_at_end`` the best of those after it is loaded. Checkpoints of
    the trainer contain a file ``graphprune.json``; to go on from one, call
    :meth:`resume` with the dense model before ``trainer.train(resume_from_checkpoint=...)``.

    Args:
        schedule: in steps of the optimizer (``state.global_step``).
        example_inputs: a dict of keyword arguments (or tensor, or tuple); None: found from the model.
        ratio, averages, outputs, options: as for :class:`graphprune.GradualPruner`.
    """

    @takes_options
    def __init__(
        self,
        schedule: Schedule,
        *,
        example_inputs: Any = None,
        ratio: float | None = None,
        averages: Sequence[nn.Module] = (),
        outputs: Callable[[Any], Any] | None = None,
        **options: Unpack[PlanArguments],
    ) -> None:
        self._prepared = PreparedPruner(schedule, example_inputs, ratio, averages, outputs, options)
        self._check = RemovableHandle(OrderedDict())

    @property
    def pruner(self) -> GradualPruner | None:
        """What prunes, with its ``history``; None before training."""
        return self._prepared.pruner

    def resume(self, model: nn.Module, checkpoint: str | os.PathLike[str]) -> None:
        """Make the dense model as small as it was when the checkpoint was saved, so that this can be loaded.

        Raises:
            LoadError: the folder is not a checkpoint of a training with this callback, or of another model.
        """
        what, advice = f"checkpoint: {checkpoint} is not of a training with this callback", "pass a folder checkpoint-N"
        state = convert_data(read_json(Path(checkpoint) / STATE, what, advice), dict[str, Any], what, advice)
        self._prepared.resume(model, state, str(checkpoint))

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any) -> None:
        """Until training begins, weights of other shapes are those of a checkpoint that was not resumed."""
        self._check.remove()
        self._check = held["model"].register_load_state_dict_pre_hook(_check_resumed)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **held: Any
    ) -> None:
        """The model and the optimizer are there."""
        self._check.remove()
        self._prepared.begin(held["model"], [held["optimizer"]], args.world_size)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Prune if it is time to; the best checkpoint so far is of another architecture then, and counts no more."""
        if self._prepared.at(state.global_step):
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Warn if the schedule was to go on."""
        self._prepared.end()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Add a file to the checkpoint that was saved."""
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        text = json.dumps(self._prepared.state())
        replace_file(folder / STATE, partial(Path.write_text, data=text))


def _check_resumed(module: nn.Module, weights: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Raise a LoadError if weights are of other shapes than those of the model that a trainer loads them into."""
    own = module.state_dict(prefix=prefix, keep_vars=True)
    for name, tensor in weights.items():
        if name in own and own[name].shape != tensor.shape:
            raise LoadError(
                f"checkpoint: {name} has shape {list(tensor.shape)}, but {list(own[name].shape)} in this "
                f"{type(module).__name__}, which was not made as small as it was",
                where=name,
                found=f"shape {list(tensor.shape)}",
                needed=f"shape {list(own[name].shape)}",
                do="call resume(model, checkpoint) of the callback before trainer.train(resume_from_checkpoint=...)",
            )


class SparsityCallback(TrainerCallback):
    """Masks the weights of the model of a ``Trainer`` on a schedule.

    ``Trainer(..., callbacks=[SparsityCallback(GradualSparsifier(model, Gradual(100, 1000, 100), 0.9))])``. Masks are in
    the trainer's checkpoints; to go on from one, make model, sparsifier and trainer as before, and call
    ``trainer.train(resume_from_checkpoint=...)``.

    Args:
        sparsifier: of the trainer's model, with a schedule in steps of the optimizer (``state.global_step``).
    """

    def __init__(self, sparsifier: GradualSparsifier) -> None:
        check_sparsifier(sparsifier)
        self.sparsifier = sparsifier

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mask more weights if it is time to."""
        self.sparsifier.at(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Warn if the schedule was to go on."""
        warn_of_unfinished(self.sparsifier.schedule, self.sparsifier.steps)
