"""``graphprune finetune SPEC_OR_DIR --data module:function --epochs 3 --lr 0.01 -o PATH``: train a model again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

import graphprune
from graphprune.cli.bundles import BundleOptions, is_bundle, traced_inputs
from graphprune.cli.calibration_options import BatchSize, DataReader, Length, Samples, Tokenizer, data_option
from graphprune.cli.device_option import check_device
from graphprune.cli.found_model import built
from graphprune.cli.model_options import WeightOptions
from graphprune.cli.models import has_random_weights
from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.option_values import at_least, read_fraction, read_number, read_positive
from graphprune.cli.output import Output
from graphprune.cli.output_paths import check_folder, check_new_file, check_writable
from graphprune.cli.references import check_reference, load_reference
from graphprune.cli.spec_forms import PUBLISHED, SPEC_FORMS, check_spec, complete_spec
from graphprune.export.bundle import bundle_versions
from graphprune.tracing.inputs import calls_of
from graphprune.training.distributed import PRECISIONS
from graphprune.training.finetuning import OPTIMIZERS
from graphprune.training.learning_rate import CURVES
from graphprune.utils.checks import did_you_mean
from graphprune.utils.files import replace_file

TRAINING, TEACHER = "Training", "Distillation"


_TEMPERATURE, _ALPHA = 4.0, 0.9


def _count(name: str, help: str, least: int = 1) -> Any:
    return typer.Option(name, metavar="N", parser=at_least(least), help=help, rich_help_panel=TRAINING)


def _number(name: str, help: str, read: Callable[[Any], float] = read_positive, panel: str = TRAINING) -> Any:
    return typer.Option(name, metavar="X", parser=read, help=help, rich_help_panel=panel)


def _read_share(given: Any) -> float:
    """A number from 0 to 1."""
    value = read_fraction(given)
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"must be between 0 and 1, but is {given}")
    return value


def _named(name: str, help: str) -> Any:
    return typer.Option(name, metavar="NAME", help=help, rich_help_panel=TRAINING)


def _function(name: str, help: str) -> Any:
    return typer.Option(name, metavar="module:function", help=help, rich_help_panel=TRAINING)


@dataclass(kw_only=True)
class TrainingOptions(OptionGroup):
    """How a model is trained: the arguments of :func:`graphprune.finetune`."""

    data: Annotated[
        str,
        data_option(
            "--data",
            "pairs (inputs, target), arguments with which the model computes its own loss, or with --teacher and "
            "--alpha 1 inputs alone, which images of a folder are (subfolders are no classes)",
        ),
    ]
    samples: Samples = None
    batch_size: BatchSize = None
    tokenizer: Tokenizer = None
    length: Length = None
    epochs: Annotated[Any, _count("--epochs", "the number of passes over the data")] = None
    steps: Annotated[Any, _count("--steps", "how many batches, in place of --epochs")] = None
    lr: Annotated[float, _number("--lr", "the highest learning rate")]
    optimizer: Annotated[str, _named("--optimizer", ", ".join(OPTIMIZERS))] = "sgd"
    schedule: Annotated[str, _named("--schedule", f"of the learning rate: {', '.join(CURVES)}")] = "cosine"
    warmup: Annotated[int, _count("--warmup", "the number of steps in which the rate rises at first", 0)] = 0
    weight_decay: Annotated[float, _number("--weight-decay", "of weights, not of biases", at_least(0, read_number))] = (
        0.0
    )
    clip: Annotated[Any, _number("--clip", "the gradient's norm is at most this")] = None
    precision: Annotated[str, _named("--precision", ", ".join(PRECISIONS))] = "fp32"
    seed: Annotated[int, _count("--seed", "of the order of batches, and of all random numbers", 0)] = 0
    loss_fn: Annotated[
        str | None, _function("--loss-fn", "(output, target) -> loss; without, cross-entropy or the model's own loss")
    ] = None
    evaluate: Annotated[str | None, _function("--evaluate", "(model) -> quality, called after every epoch")] = None
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="save training there, and continue from there when the command is repeated",
            rich_help_panel=TRAINING,
        ),
    ] = None
    every: Annotated[Any, _count("--every", "steps from one checkpoint to the next; without, an epoch")] = None
    device: Annotated[str, _named("--device", "where it is trained, such as cuda")] = "cpu"
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="SPEC",
            help="the dense model, with its weights, whose outputs are learned as well",
            autocompletion=complete_spec,
            rich_help_panel=TEACHER,
        ),
    ] = None
    teacher_weights: Annotated[
        Path | None,
        typer.Option(
            "--teacher-weights",
            metavar="PATH",
            help="of --teacher, as --weights; without, as its SPEC makes it, or those of --weights beside a DIR",
            rich_help_panel=TEACHER,
        ),
    ] = None
    temperature: Annotated[
        Any, _number("--temperature", f"by which logits are divided; without, {_TEMPERATURE}", panel=TEACHER)
    ] = None
    alpha: Annotated[
        Any,
        _number("--alpha", f"share of the teacher in the loss, from 0 to 1; without, {_ALPHA}", _read_share, TEACHER),
    ] = None

    def __post_init__(self) -> None:
        self.reader().check()
        self._check_together()
        if (self.epochs is None) == (self.steps is None):
            both = "given together with --steps; give one of them" if self.epochs is not None else "is missing"
            raise usage_error(f"--epochs: {both}{'' if self.epochs is not None else '; give --epochs N or --steps N'}")
        named = (("optimizer", OPTIMIZERS), ("schedule", CURVES), ("precision", PRECISIONS))
        for name, known in named:
            value = getattr(self, name)
            if value not in known:
                raise usage_error(f"--{name}: {value!r} is none of {', '.join(known)}{did_you_mean(value, known)}")
        for name in ("loss_fn", "evaluate"):
            if getattr(self, name) is not None:
                check_reference(f"--{name.replace('_', '-')}", getattr(self, name))
        check_device(self.device)
        if self.steps is not None and self.warmup > self.steps:
            raise usage_error(f"--warmup: must be at most the {self.steps} of --steps, but is {self.warmup}")

    def reader(self) -> DataReader:
        """What reads the data."""
        return DataReader("--data", self.data, self.samples, self.batch_size, self.tokenizer, self.length)

    def _check_together(self) -> None:
        """Usage is wrong if an option is about another one that is not given, or the teacher is none."""
        pairs = [("every", "checkpoint"), *((name, "teacher") for name in ("teacher_weights", "temperature", "alpha"))]
        for name, about in pairs:
            if getattr(self, name) is not None and getattr(self, about) is None:
                option = f"--{name.replace('_', '-')}"
                raise usage_error(f"{option}: is about --{about}, which is not given; give it, too, or leave this out")
        if self.teacher_weights is not None and not self.teacher_weights.exists():
            raise usage_error(f"--teacher-weights: {self.teacher_weights} does not exist; give a file of weights")
        if self.teacher is not None:
            check_spec(self.teacher, "--teacher")
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint)

    def weights_of_teacher(self, given: WeightOptions, slim: bool) -> WeightOptions:
        """Which weights the teacher has; the folder of a slim model has its own, so that those given are the teacher's.

        A name of a library with random weights is no teacher: usage is wrong.
        """
        if self.teacher is None or (slim and self.teacher_weights is None):
            return given
        if slim and (given.weights is not None or given.pretrained):
            name = "weights" if given.weights is not None else "pretrained"
            raise usage_error(f"--teacher-weights: given together with --{name}, which is the teacher's beside a DIR")
        if self.teacher_weights is not None:
            return WeightOptions(weights=self.teacher_weights)
        if given.pretrained and self.teacher.partition(":")[0] in PUBLISHED:
            return WeightOptions(pretrained=True)
        if given.weights is not None and has_random_weights(self.teacher):
            raise usage_error(f"--weights: are those of SPEC, and {self.teacher} has none; give --teacher-weights PATH")
        return WeightOptions()

    def arguments(self, weights: WeightOptions, note: Callable[[str], object]) -> dict[str, Any]:
        """Keyword arguments of :func:`graphprune.finetune`, given the teacher's weights; ``note`` is told ofthem."""
        same = "epochs steps lr optimizer schedule warmup weight_decay clip precision seed checkpoint every"
        found: dict[str, Any] = {name: getattr(self, name) for name in same.split()}
        for name in ("loss_fn", "evaluate"):
            if getattr(self, name) is not None:
                found[name] = load_reference(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.teacher is not None:
            found["teacher"] = weights.model_of(self.teacher, note).to(self.device)
            alpha = _ALPHA if self.alpha is None else self.alpha
            found["distill"] = graphprune.Distillation(temperature=self.temperature or _TEMPERATURE, alpha=alpha)
        return found


def check_checkpoint(folder: Path) -> None:
    """Usage is wrong if checkpoints of a training cannot be in a folder."""
    if folder.exists() and not folder.is_dir():
        raise usage_error(f"--checkpoint: {folder} is a file; give a folder")
    if bundle_versions(folder).hold_own():
        raise usage_error(f"--checkpoint: {folder} is the folder of a slim model; give another one")
    check_writable("--checkpoint", folder)


def finetune_command(
    out: Output,
    start: Annotated[
        str,
        typer.Argument(
            metavar="SPEC_OR_DIR",
            help=f"the DIR of a slim model; or {SPEC_FORMS}",
            autocompletion=complete_spec,
            show_default=False,
        ),
    ],
    given: WeightOptions,
    bundles: BundleOptions,
    training: TrainingOptions,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="of a DIR: the folder for the trained model; of a SPEC: a file of weights, .safetensors or .pt",
            show_default=False,
        ),
    ],
    force: Annotated[
        bool,
        flag(
            "--force",
            help="write to a folder even if it holds other files, which stay, or a slim model, which is replaced; "
            "replace a file of weights",
        ),
    ] = False,
) -> int:
    """Train a model again, usually a slim one, and save it.

    Frozen parameters (requires_grad=False) stay frozen; a model of which all are frozen is trained as a whole.
    --weights are those of SPEC, and beside a DIR those of --teacher. --pretrained is for both.

    Examples:
        graphprune finetune slim --data data.py:loader --epochs 3 --lr 0.01 -o tuned
        graphprune finetune slim --data data.py:loader --steps 500 --lr 1e-3 --teacher net.py:make --weights a.pt -o out
        graphprune finetune hf:checkpoint --data texts.jsonl --epochs 1 --lr 1e-5 --optimizer adamw -o tuned.safetensors
    """
    slim = is_bundle(start)
    _check_output(output, start, slim, force)
    if slim and training.teacher is None and (given.weights is not None or given.pretrained):
        name = "weights" if given.weights is not None else "pretrained"
        raise usage_error(f"--{name}: is for a SPEC, or with --teacher; the folder of a slim model has its own weights")
    weights = training.weights_of_teacher(given, slim)
    bundles.check_used([start])
    network = bundles.load(start) if slim else built(out, start, given)
    _let_train(out, network.to(training.device))
    inputs = traced_inputs(network, given.input) if slim else given.inputs(network)
    calls = () if inputs is None else calls_of(inputs)
    batches, found = training.reader().read(network, start, calls, labels=True)
    out.note(f"data: {found}")
    history = graphprune.finetune(network, batches, **training.arguments(weights, out.note), progress=not out.quiet)
    _save(network.to("cpu"), output, slim, force)
    out.result(lambda: _parts(history, output), lambda: _data(start, history, output), output)
    return 0


def _let_train(out: Output, network: nn.Module) -> None:
    """Leave frozen what is frozen, and say so; where everything is, train everything."""
    learnable = [p for p in network.parameters() if p.is_floating_point() or p.is_complex()]
    frozen = [p for p in learnable if not p.requires_grad]
    if frozen and len(frozen) == len(learnable):
        for parameter in frozen:
            parameter.requires_grad_(True)
        out.note("all parameters were frozen (requires_grad=False); all are trained")
    elif frozen:
        counts = (sum(p.numel() for p in parameters) for parameters in (frozen, learnable))
        out.note("{:,} of {:,} parameters are frozen (requires_grad=False), and stay as they are".format(*counts))


def _check_output(output: Path, start: str, slim: bool, force: bool) -> None:
    if slim:
        check_folder(output, "", None, force)
        return
    check_spec(start)
    if output.suffix not in (".safetensors", ".pt"):
        raise usage_error(f"-o {output}: must end with .safetensors or .pt, as the weights of a SPEC are one file")
    check_new_file("-o", output, force)


def _save(network: nn.Module, output: Path, slim: bool, force: bool) -> None:
    if slim:
        graphprune.save(network, output, beside_others=force)
    elif output.suffix == ".pt":
        replace_file(output, partial(torch.save, network.state_dict()))
    else:
        from safetensors.torch import save_model

        replace_file(output, lambda temporary: save_model(network, str(temporary)))


def _parts(history: graphprune.History, output: Path) -> Iterator[Any]:
    yield f"{history.steps} steps, loss {history.loss[0]:.4g} -> {history.loss[-1]:.4g}"
    yield from (f"after {step} steps: {metric:.4g}" for step, metric in history.metrics.items())
    yield f"saved in {output}"


def _data(start: str, history: graphprune.History, output: Path) -> dict[str, Any]:
    return {
        "model": start,
        "steps": history.steps,
        "loss": [history.loss[0], history.loss[-1]],
        "metrics": {str(step): metric for step, metric in history.metrics.items()},
        "saved": str(output),
    }
