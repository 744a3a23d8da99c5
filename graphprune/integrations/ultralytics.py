"""Prune the YOLO models of Ultralytics, and train the slim ones with its own trainers.

Ultralytics' trainers build the network anew from its YAML, which describes the dense one, and load what weights fit.
The trainers of this module train the network that they are given. Needs ``pip install 'graphprune[yolo]'``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from graphprune.api import prune_model
from graphprune.errors import InputError, MissingPackageError
from graphprune.integrations.callback import PreparedPruner
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.pruning.plan import plans_of
from graphprune.training.gradual import GradualPruner
from graphprune.training.schedules import Schedule
from graphprune.utils.checks import check_type, found_value, with_article

try:
    from ultralytics.models.yolo.classify import ClassificationTrainer
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.models.yolo.model import YOLO
    from ultralytics.models.yolo.obb import OBBTrainer
    from ultralytics.models.yolo.pose import PoseTrainer
    from ultralytics.models.yolo.segment import SegmentationTrainer
    from ultralytics.nn.modules import Detect
except ImportError as error:
    raise MissingPackageError(
        "pruning YOLO models needs ultralytics",
        found="no package ultralytics",
        needed="ultralytics 8.3 or later",
        do="pip install 'graphprune[yolo]'",
    ) from error


def predictions(result: Any) -> Any:
    """What a YOLO model returns, without the feature maps beside it, of which only height and width are read.

    For ``outputs=`` of :func:`graphprune.trace` and others: what the head reads can then be pruned as well.
    """
    if isinstance(result, dict):
        return {key: predictions(value) for key, value in result.items() if key != "feats"}
    return [predictions(value) for value in result] if isinstance(result, list | tuple) else result


@contextmanager
def as_exported(model: nn.Module) -> Iterator[None]:
    """Run a network as its export does, and as if it had not run before, for a plan that fits whatever it is used for.

    Blocks that export runs through another method, ``forward_split``, are run through it: it computes the same, but
    reads a width that ``forward`` does not need, which so follows what is removed. Heads forget the grid that they
    keep for the last shape.
    """
    changed: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        own = vars(module)
        if hasattr(module, "forward_split") and "forward" not in own:
            changed.append((module, "forward", None))
            own["forward"] = module.forward_split
        for name in {"shape", "anchors", "strides"} & own.keys() if isinstance(module, Detect) else ():
            changed.append((module, name, own.pop(name)))
    try:
        yield
    finally:
        for module, name, value in changed:
            vars(module).pop(name, None)
            if value is not None:
                vars(module)[name] = value


def _run_directly(model: nn.Module) -> None:
    """Undo what a copy has of :func:`as_exported`."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__name__", "") == "forward_split":
            del module.__dict__["forward"]


# ---------------------------------------------------------------- trainers


class SlimTraining:
    """A mix-in for trainers of Ultralytics: they train the network that they are given.

    It comes before the trainer: ``class MyTrainer(SlimTraining, DetectionTrainer)``. A trainer is passed as
    ``yolo.train(trainer=MyTrainer, ...)``; it works with ``resume=True`` too.
    """

    data: dict[str, Any]
    args: Any

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> Any:
        """A copy of ``weights``, ready to be trained.

        Raises:
            InputError: there is none, it was fused, or the data has other classes, channels or keypoints.
        """
        if weights is None:
            raise InputError(
                "weights: a slim network cannot be built from a YAML file, and pretrained=False leaves none",
                found="no weights",
                needed="the slim network",
                do="train the model that prune_yolo returned, or one that was loaded from a .pt file",
            )
        if _is_fused(weights):
            raise InputError(
                "weights: the batch norms of this network were fused into its convolutions, and it cannot be trained "
                "on",
                where=type(weights).__name__,
                found="no batch normalization",
                needed="a network as it was before fuse()",
                do="prune and save the network before fuse() is called",
            )
        _check_data(weights, self.data)
        model = deepcopy(weights)
        mark_yaml(model)
        for parameter in model.parameters():
            parameter.requires_grad = parameter.is_floating_point()
        if self.args.task == "classify" and self.args.dropout:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.args.dropout
        return model


class SlimDetectionTrainer(SlimTraining, DetectionTrainer):
    """Trains a slim network that detects."""


class SlimSegmentationTrainer(SlimTraining, SegmentationTrainer):
    """Trains a slim network that segments."""


class SlimPoseTrainer(SlimTraining, PoseTrainer):
    """Trains a slim network that finds keypoints."""


class SlimOBBTrainer(SlimTraining, OBBTrainer):
    """Trains a slim network that finds turned boxes."""


class SlimClassificationTrainer(SlimTraining, ClassificationTrainer):
    """Trains a slim network that classifies."""


SLIM_TRAINERS: Mapping[str, type] = {
    "detect": SlimDetectionTrainer,
    "segment": SlimSegmentationTrainer,
    "pose": SlimPoseTrainer,
    "obb": SlimOBBTrainer,
    "classify": SlimClassificationTrainer,
}
"""By the task of a model."""


def _is_fused(model: nn.Module) -> bool:
    return not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _check_data(model: Any, data: Mapping[str, Any]) -> None:
    """Raise an InputError where Ultralytics would build another network for this data."""
    found = {"nc": len(model.names), "channels": model.yaml.get("channels", 3)}
    if hasattr(model, "kpt_shape"):
        found["kpt_shape"] = list(model.kpt_shape)
    for name, own in found.items():
        asked = data.get(name, own)
        asked = list(asked) if isinstance(own, list) else asked
        if asked != own:
            raise InputError(
                f"data: has {name} {asked}, but the slim network was pruned with {own}",
                where=f"data: {name}",
                found=f"{asked}",
                needed=f"{own}",
                do="train the dense model on this data first (one epoch gives it a fitting head), and prune then",
            )


# ---------------------------------------------------------------- the YAML of a slim network

_MARK = (
    "(pruned: this YAML builds the dense network, not the slim one; train the slim one with "
    "graphprune.integrations.ultralytics.SlimYOLO(path).train())"
)


def mark_yaml(model: Any) -> None:
    """Let whoever builds a network from ``model.yaml`` see that it would not be this one.

    The module of the first layer gets a name that there is none of, and so a trainer of Ultralytics that would train
    a dense network stops with a KeyError that says what to do. All else in it is kept.
    """
    if not plans_of(model) or not model.yaml.get("backbone"):
        return
    model.yaml = deepcopy(model.yaml)
    first = list(model.yaml["backbone"][0])
    if _MARK not in first[2]:
        first[2] = f"{first[2]} {_MARK}"
    model.yaml["backbone"][0] = first


# ---------------------------------------------------------------- models


class SlimYOLO(YOLO):
    """A ``YOLO`` whose :meth:`train` trains its network as it is, instead of one that is built from its YAML.

    ``SlimYOLO("best.pt")`` goes on with a slim network from a file (``train(resume=True)``, or a new training); all
    else that a ``YOLO`` does, one of Ultralytics' own does with the file too.
    """

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """By task, the classes of model, trainer, validator and predictor."""
        stock: dict[str, dict[str, Any]] = super().task_map
        return {t: {**of, "trainer": SLIM_TRAINERS.get(t, of["trainer"])} for t, of in stock.items()}


@takes_options
def prune_yolo(
    yolo: YOLO,
    ratio: float | None = None,
    *,
    imgsz: int | None = None,
    repair: bool = True,
    verify: bool = False,
    **options: Unpack[PlanArguments],
) -> SlimYOLO:
    """A ``YOLO`` with a smaller network, which its ``train``, ``val``, ``predict``, ``export`` and ``save`` work with.

    Files that it saves, ``best.pt`` and ``last.pt`` of a training too, hold the slim network, and Ultralytics opens
    them alone. To train on from one, open it as :class:`SlimYOLO`. ``train(distill_model="dense.pt")`` of Ultralytics
    8.4 lets the dense network teach the slim one. The classes stay: train the dense network on your data first.

    Args:
        yolo: detects, segments, finds keypoints or turned boxes, or classifies; unchanged.
        ratio: fraction of channels removed in each group, 0 <= ratio < 1; None: ``options`` give budgets.
        imgsz: side in pixels of the images that budgets are counted for; None: the model's own.
        repair, verify: as for :func:`graphprune.prune_model`. Calibration batches are images [n, 3, imgsz, imgsz] of
            values in [0, 1].
        options: the fields of :class:`graphprune.PruningOptions`, by name.

    Raises:
        InputError: ``yolo`` is no ``YOLO`` with a network in torch, or one of another task; or as for
            :func:`graphprune.prune_model`.
        TraceError, PlanError, VerificationError: as for :func:`graphprune.prune_model`.
    """
    model = _network(yolo)
    example = example_image(model, imgsz)
    with as_exported(model):
        slim = prune_model(model, ratio, example, outputs=predictions, repair=repair, verify=verify, **options)
    _run_directly(slim)
    mark_yaml(slim)
    return _around(slim, yolo)


def _network(yolo: Any) -> nn.Module:
    """The model of a ``YOLO`` that can be pruned."""
    if not isinstance(yolo, YOLO):
        raise InputError(
            f"yolo: must be an ultralytics.YOLO, but is {with_article(type(yolo).__name__)}",
            found=found_value(yolo),
            needed="an ultralytics.YOLO",
            do="prune other modules with graphprune.prune_model",
        )
    if not isinstance(yolo.model, nn.Module):
        raise InputError(
            f"yolo: has no network in torch, but {yolo.model!r}",
            found=found_value(yolo.model),
            needed="a network in torch, as a .pt or .yaml file gives it",
            do="prune before it is exported",
        )
    if yolo.task not in SLIM_TRAINERS:
        raise InputError(
            f"yolo: its task is {yolo.task}, but must be one of {', '.join(SLIM_TRAINERS)}",
            found=f"task {yolo.task!r}",
            needed=f"one of {', '.join(SLIM_TRAINERS)}",
            do="prune its network with graphprune.prune_model(yolo.model, ...)",
        )
    model: nn.Module = yolo.model
    return model


def _arguments(model: Any) -> dict[str, Any]:
    """What an Ultralytics model notes about its training."""
    noted = getattr(model, "args", {})
    return dict(noted if isinstance(noted, Mapping) else vars(noted))


def example_image(model: Any, imgsz: int | None = None) -> Tensor:
    """An image of zeros. f32[1, channels, imgsz, imgsz], on the model's device and of its dtype."""
    size = imgsz or _arguments(model).get("imgsz") or 640
    height, width = (size, size) if isinstance(size, int) else size
    weight = next(model.parameters())
    return torch.zeros(1, model.yaml.get("channels", 3), height, width, device=weight.device, dtype=weight.dtype)


def _around(slim: Any, yolo: Any) -> SlimYOLO:
    """A wrapper like ``yolo`` around another network, which exports beside no file of the dense one."""
    slim.pt_path = f"{Path(str(yolo.model_name or yolo.task)).stem}-slim.pt"
    made = SlimYOLO.__new__(SlimYOLO)
    made.__dict__.update(yolo.__dict__)
    made._modules = {"model": slim}
    made.overrides = {**yolo.overrides, "model": slim.pt_path}
    made.callbacks = defaultdict(list, {event: list(called) for event, called in yolo.callbacks.items()})
    made.ckpt = {"model": slim, "train_args": _arguments(slim)}
    made.predictor = made.trainer = made.metrics = made.ckpt_path = None
    return made


# ---------------------------------------------------------------- amid training


class PruningCallback:
    """Prunes the network that a trainer of Ultralytics trains, physically and in place, with optimizer and EMA.

    ``PruningCallback(Gradual(100, 1000, 100), ratio=0.5).attach(yolo)``, then ``yolo.train(...)`` as ever. The last
    pruning should come well before the end of training: ``best.pt`` is the best epoch after it. A training that was
    interrupted is resumed with :class:`SlimYOLO`, and stays as small as it was.

    Args:
        schedule: in batches.
        imgsz: side in pixels of the images that budgets are counted for; None: that of the training.
        ratio, averages, options: as for :class:`graphprune.GradualPruner`.
    """

    @takes_options
    def __init__(
        self,
        schedule: Schedule,
        *,
        imgsz: int | None = None,
        ratio: float | None = None,
        averages: Sequence[nn.Module] = (),
        **options: Unpack[PlanArguments],
    ) -> None:
        self.imgsz = imgsz
        self._prepared = PreparedPruner(schedule, None, ratio, averages, predictions, options)
        self.averages = tuple(averages)
        self._batches = 0

    @property
    def pruner(self) -> GradualPruner | None:
        """What prunes, with its ``history``; None before training."""
        return self._prepared.pruner

    def attach(self, yolo: YOLO) -> None:
        """Take part in the trainings of a model."""
        check_type("yolo", yolo, YOLO, "an ultralytics.YOLO")
        yolo.add_callback("on_pretrain_routine_end", self.on_pretrain_routine_end)
        yolo.add_callback("on_train_batch_end", self.on_train_batch_end)
        yolo.add_callback("on_train_end", self.on_train_end)

    def on_pretrain_routine_end(self, trainer: Any) -> None:
        """Model, optimizer and EMA are there.

        Raises:
            InputError: training is resumed, a teacher is distilled, or there are several processes.
        """
        for what, is_so in (("is resumed", trainer.resume), ("distills", hasattr(trainer.model, "student_model"))):
            if is_so:
                raise InputError(
                    f"PruningCallback: cannot prune in a training that {what}",
                    found=f"a training that {what}",
                    needed="a training from its beginning, without a teacher",
                    do="train without the callback",
                )
        self._batches = 0
        self._prepared.pruner = None
        self._prepared.example_inputs = example_image(trainer.model, self.imgsz or trainer.args.imgsz)
        self._prepared.averages = (*self.averages, trainer.ema.ema)
        with as_exported(trainer.model):
            self._prepared.begin(trainer.model, [trainer.optimizer], trainer.world_size)

    def on_train_batch_end(self, trainer: Any) -> None:
        """Prune if it is time to; the best epoch so far was one of a larger network then."""
        self._batches += 1
        before = len(plans_of(trainer.model))
        with as_exported(trainer.model):
            self._prepared.at(self._batches)
        if len(plans_of(trainer.model)) > before:
            for model in (trainer.model, trainer.ema.ema):
                mark_yaml(model)
            trainer.best_fitness = None
            trainer.stopper.best_fitness = 0.0

    def on_train_end(self, trainer: Any) -> None:
        """Warn if the schedule was to go on."""
        self._prepared.end()
