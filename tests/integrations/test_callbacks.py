"""Callbacks in real trainers: what they give is what a loop of one's own with the same pruner gives."""

import argparse
import copy
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import graphprune
from graphprune.errors import InputError, LoadError
from graphprune.integrations.callback import PreparedPruner
from graphprune.integrations.lightning import PruningCallback as LightningCallback
from graphprune.integrations.lightning import SparsityCallback as LightningSparsity
from graphprune.integrations.transformers import PruningCallback as TransformersCallback
from graphprune.integrations.transformers import SparsityCallback as TransformersSparsity
from graphprune.pruning.plan import plans_of
from graphprune.sparsity.counting import sparsity_of
from graphprune.training.gradual import GradualPruner
from graphprune.training.gradual_sparsity import GradualSparsifier
from graphprune.training.schedules import Gradual, OneShot

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:The '.*dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),  # Lightning calls it
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

SCHEDULE = Gradual(0, 6, 2)
IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(12 * 16, 10), nn.ReLU(), nn.Linear(10, 5)
    )  # fmt: skip


class Classifier(pl.LightningModule):
    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.model = network()
        self.example_input_array = IMAGES[:1] if whole else None

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4)


def lightning_trainer(folder: Path, epochs: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saving = {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
    root = {"default_root_dir": folder, "accelerator": "cpu", "max_epochs": epochs}
    return pl.Trainer(callbacks=list(callbacks), **quiet, **saving, **root, **options)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("whole", [False, True])
def test_lightning_is_a_loop_of_ones_own(tmp_path: Path, whole: bool) -> None:
    module = Classifier(whole)
    options = {} if whole else {"part": "model", "example_inputs": IMAGES[:1]}
    callback = LightningCallback(SCHEDULE, ratio=0.5, **options)
    trainer = lightning_trainer(tmp_path, 2, callback)
    trainer.fit(module, loader())

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = GradualPruner(model, IMAGES[:1], SCHEDULE, ratio=0.5, optimizer=optimizer)
    for _ in range(2):
        for x, y in loader():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            pruner.step()
    assert [cut.step for cut in callback.pruner.history] == [cut.step for cut in pruner.history] == [2, 4, 6]
    assert model[0].weight.shape[0] == 4
    assert equal(module.model, model)
    assert module.trainer is trainer


class Narrow(Classifier):
    """[n, 3, 8, 8] -> [n, 5], by the first ``width`` columns of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(24 * width, 8), nn.ReLU(), nn.Linear(8, 5))
        self.width = width
        self.example_input_array = IMAGES[:1, ..., :width]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x[..., : self.width])


def test_lightning_takes_the_example_of_the_module_that_is_pruned(tmp_path: Path) -> None:
    callback = LightningCallback(OneShot(2), ratio=0.5)
    for width in (4, 8):
        module = Narrow(width)
        lightning_trainer(tmp_path, 1, callback).fit(module, loader())
        assert module.model[1].weight.shape == (4, 24 * width)


def test_lightning_counts_optimizer_steps(tmp_path: Path) -> None:
    callback = LightningCallback(SCHEDULE, ratio=0.5, part="model", example_inputs=IMAGES[:1])
    module = Classifier()
    with pytest.warns(graphprune.UnfinishedScheduleWarning, match="training ended after 4 steps, and Gradual"):
        lightning_trainer(tmp_path, 2, callback, accumulate_grad_batches=2).fit(module, loader())
    assert callback.pruner.steps == 4
    assert [cut.step for cut in callback.pruner.history] == [2, 4]


@pytest.mark.parametrize("epoch", [0, 1])
def test_lightning_goes_on_from_a_checkpoint(tmp_path: Path, epoch: int) -> None:
    def started() -> tuple[Classifier, LightningCallback, pl.Trainer]:
        callback = LightningCallback(SCHEDULE, ratio=0.5, part="model", example_inputs=IMAGES[:1])
        saving = ModelCheckpoint(tmp_path / "saved", "{epoch}", save_top_k=-1)
        return Classifier(), callback, lightning_trainer(tmp_path, 3, callback, saving)

    whole, _, trainer = started()
    trainer.fit(whole, loader())
    module, callback, trainer = started()
    path = tmp_path / "saved" / f"epoch={epoch}.ckpt"
    callback.resume(module, path)
    assert callback.pruner.steps == 4 * (epoch + 1)
    trainer.fit(module, loader(), ckpt_path=path)
    assert equal(module, whole)
    with pytest.raises(LoadError, match="the state is not of this Sequential"):
        started()[1].resume(_Wider(), path)


class _Wider(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.model[0], self.model[1], self.model[3] = nn.Conv2d(3, 9, 3), nn.BatchNorm2d(9), nn.Conv2d(9, 12, 3)


# ---------------------------------------------------------------- Transformers


class Records(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"input_ids": (torch.arange(6) * (number + 1)) % 20, "labels": torch.tensor(number % 2)}


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes))


EXAMPLE = {"input_ids": torch.zeros(1, 6, dtype=torch.long)}


class Spy(transformers.TrainerCallback):
    """The first moments of the optimizer before and after a pruning."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
        if state.global_step == self.step:
            known = held["optimizer"].state
            self.seen.append({n: known[p]["exp_avg"].clone() for n, p in held["model"].named_parameters()})


def trainer_of(
    folder: Path, model: nn.Module, *callbacks: transformers.TrainerCallback, **options: Any
) -> transformers.Trainer:
    quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}
    steps = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 0.01, "save_strategy": "no", **options}
    arguments = TrainingArguments(output_dir=str(folder), **quiet, **steps)
    trainer = Trainer(model, arguments, train_dataset=Records(), eval_dataset=Records(), callbacks=list(callbacks))
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def test_transformers_carries_the_optimizer(tmp_path: Path) -> None:
    model, (before, after) = bert(), (Spy(4), Spy(4))
    sizes = copy.deepcopy(graphprune.trace(model, EXAMPLE).plan(0.5).apply(model))
    callback = TransformersCallback(SCHEDULE, example_inputs=EXAMPLE, ratio=0.5)
    trainer = trainer_of(tmp_path, model, before, callback, after)
    trainer.train()
    assert [cut.step for cut in callback.pruner.history] == [2, 4, 6]
    plan = plans_of(model)[1]
    for name, moments in before.seen[0].items():
        wanted = moments[plan.mask(name)].reshape(plan.shape(name))
        assert torch.equal(after.seen[0][name], wanted) and wanted.any()
    assert [p.shape for p in model.parameters()] == [p.shape for p in sizes.parameters()]
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert trainer.model is model and model(**EXAMPLE).logits.isfinite().all()


@pytest.mark.parametrize("step", [3, 5])
def test_transformers_goes_on_from_a_checkpoint(tmp_path: Path, step: int) -> None:
    def started(**options: Any) -> tuple[nn.Module, TransformersCallback, transformers.Trainer]:
        model = bert()
        callback = TransformersCallback(SCHEDULE, example_inputs=EXAMPLE, ratio=0.5)
        return model, callback, trainer_of(tmp_path, model, callback, **options)

    whole, _, trainer = started(save_strategy="steps", save_steps=step)
    trainer.train()
    checkpoint = tmp_path / f"checkpoint-{step}"
    with pytest.raises(LoadError, match=r"has shape [\s\S]*call resume.model, checkpoint. of the callback before"):
        started()[2].train(resume_from_checkpoint=str(checkpoint))
    model, callback, trainer = started()
    callback.resume(model, checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert equal(model, whole) and not model._load_state_dict_pre_hooks
    with pytest.raises(LoadError, match="is not of a training with this callback"):
        callback.resume(model, tmp_path)
    for text in (
        "",
        "[]",
        '{"steps": 3}',
        (checkpoint / "graphprune.json").read_text().replace('"steps": ', '"steps": -'),
    ):
        (tmp_path / "graphprune.json").write_text(text)
        with pytest.raises(LoadError):
            callback.resume(model, tmp_path)


@pytest.mark.parametrize(("library", "what"), [("lightning", "lightning.pytorch"), ("transformers", "transformers")])
def test_what_to_install(library: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, what, None)
    monkeypatch.delitem(sys.modules, f"graphprune.integrations.{library}")
    with pytest.raises(ImportError, match=rf"pip install 'graphprune\[{library}\]'"):
        importlib.import_module(f"graphprune.integrations.{library}")


def test_several_processes_are_refused() -> None:
    model = network()
    prepared = PreparedPruner(SCHEDULE, IMAGES, 0.5, (), None, {})
    with pytest.raises(InputError, match="one process, but this one has 2"):
        prepared.begin(model, [torch.optim.SGD(model.parameters())], 2)


@pytest.mark.parametrize("kind", [LightningCallback, TransformersCallback])
def test_what_is_wrong_whatever_the_model_is_told_at_once(kind: Any) -> None:
    for arguments, message in (
        ((network(),), "schedule: must be a schedule such as graphprune.Gradual"),
        ((SCHEDULE,), "ratio: nothing is asked for"),
        ((SCHEDULE, {"ratio": 0.5, "macs": 0.5}), "ratio: given together with macs"),
        ((SCHEDULE, {"ratio": 0.5, "averages": 3}), "averages: must be a list of modules"),
        ((SCHEDULE, {"ratio": 0.5, "outputs": 3}), "outputs: must be a function"),
    ):
        with pytest.raises(InputError, match=message):
            kind(arguments[0], **dict(*arguments[1:]))


def test_parts_that_a_lightning_module_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="part: must be the path of a submodule, such as 'model'"):
        LightningCallback(SCHEDULE, ratio=0.5, part=3)  # type: ignore[arg-type]
    callback = LightningCallback(SCHEDULE, ratio=0.5, part="modle", example_inputs=IMAGES[:1])
    with pytest.raises(InputError, match=r"part: Classifier has no submodule 'modle'[\s\S]*did you mean model"):
        lightning_trainer(tmp_path, 1, callback).fit(Classifier(), loader())


@pytest.mark.parametrize("kind", [LightningSparsity, TransformersSparsity])
def test_a_callback_that_masks_takes_a_sparsifier(kind: Any) -> None:
    with pytest.raises(InputError, match="sparsifier: must be a graphprune"):
        kind(SCHEDULE)


# ---------------------------------------------------------------- masks of single weights


def test_lightning_masks_weights_and_goes_on(tmp_path: Path) -> None:
    def started() -> tuple[Classifier, LightningSparsity, pl.Trainer]:
        module = Classifier()
        callback = LightningSparsity(GradualSparsifier(module.model, SCHEDULE, 0.9, scope="global"))
        saving = ModelCheckpoint(tmp_path / "saved", "{epoch}", save_top_k=-1)
        return module, callback, lightning_trainer(tmp_path, 2, callback, saving)

    whole, callback, trainer = started()
    trainer.fit(whole, loader())
    assert [masking.step for masking in callback.sparsifier.history] == [2, 4, 6]
    assert sparsity_of(whole.model).masked == pytest.approx(0.9, abs=1e-3)
    module, again, trainer = started()
    trainer.fit(module, loader(), ckpt_path=tmp_path / "saved/epoch=0.ckpt")
    assert equal(module, whole)
    assert again.sparsifier.history == callback.sparsifier.history


class Falling:
    """A schedule of one's own, which knows no step after its last."""

    def ratio_at(self, step: int, final: float) -> float:
        return [0.0, final / 2, final, final][step // 4]


def test_schedules_of_ones_own_are_not_asked_for_later_steps(tmp_path: Path) -> None:
    callback = TransformersCallback(Falling(), example_inputs=EXAMPLE, ratio=0.5)
    trainer_of(tmp_path, bert(), callback).train()
    assert [cut.step for cut in callback.pruner.history] == [4, 8]


@pytest.mark.parametrize("masks", [False, True])
def test_training_that_ends_before_its_schedule_is_warned_of(tmp_path: Path, masks: bool) -> None:
    model, late = bert(), OneShot(1000)
    pruning = TransformersCallback(late, example_inputs=EXAMPLE, ratio=0.5)
    callback = TransformersSparsity(GradualSparsifier(model, late, 0.9)) if masks else pruning
    with pytest.warns(graphprune.UnfinishedScheduleWarning, match="training ended after 8 steps"):
        trainer_of(tmp_path, model, callback).train()


def test_transformers_masks_weights_and_goes_on(tmp_path: Path) -> None:
    def started(**options: Any) -> tuple[nn.Module, TransformersSparsity, transformers.Trainer]:
        model = bert()
        callback = TransformersSparsity(GradualSparsifier(model, SCHEDULE, 0.9, skip="classifier"))
        return model, callback, trainer_of(tmp_path, model, callback, **options)

    whole, callback, trainer = started(save_strategy="steps", save_steps=3)
    trainer.train()
    assert [masking.step for masking in callback.sparsifier.history] == [2, 4, 6]
    assert sparsity_of(whole).masked == pytest.approx(0.9, abs=1e-3)
    model, callback, trainer = started()
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert equal(model, whole)


@pytest.mark.parametrize("averaging", [WeightAveraging(), StochasticWeightAveraging(0.1, swa_epoch_start=1)])
def test_averages_of_another_callback_are_refused_before_training(tmp_path: Path, averaging: pl.Callback) -> None:
    module = Classifier(whole=True)
    trainer = lightning_trainer(tmp_path, 1, averaging, LightningCallback(SCHEDULE, ratio=0.5))
    with pytest.raises(InputError, match="WeightAveraging keeps an average of the weights, in the shapes of before"):
        trainer.fit(module, loader())
    assert module.model[0].out_channels == 8


class Averaging(pl.LightningModule):
    """Averages its network, as the message for averages of another callback says."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 10))
        self.ema = torch.optim.swa_utils.AveragedModel(self.net)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update_parameters(self.net)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


def test_averages_of_a_part_are_pruned_with_it(tmp_path: Path) -> None:
    module = Averaging()
    options: dict[str, Any] = {"example_inputs": next(iter(loader()))[0], "part": "net", "averages": [module.ema]}
    lightning_trainer(tmp_path, 2, LightningCallback(SCHEDULE, ratio=0.5, **options)).fit(module, loader())
    assert module.net[1].out_features == module.ema.module[1].out_features == 8


class WithSettings(Classifier):
    """Its checkpoints hold an object."""

    def __init__(self) -> None:
        super().__init__(whole=True)
        self.save_hyperparameters({"settings": argparse.Namespace(rate=0.1)})


def test_files_that_lightning_cannot_go_on_from(tmp_path: Path) -> None:
    callback, module, path = LightningCallback(SCHEDULE, ratio=0.5), WithSettings(), tmp_path / "a.ckpt"
    trainer = lightning_trainer(tmp_path, 2, callback)
    trainer.fit(module, loader())
    trainer.save_checkpoint(path)
    fresh = LightningCallback(SCHEDULE, ratio=0.5)
    with pytest.raises(LoadError, match=r"Namespace[\s\S]*weights_only=False, and to trainer.fit too"):
        fresh.resume(WithSettings(), path)
    again = WithSettings()
    fresh.resume(again, path, weights_only=False)
    assert again.model[0].out_channels == module.model[0].out_channels < 8
    (tmp_path / "b.ckpt").write_bytes(b"not a checkpoint")
    torch.save([1], tmp_path / "c.ckpt")
    for name, found in (("b.ckpt", "cannot be read"), ("c.ckpt", "found:  a list"), ("d.ckpt", "no such file")):
        with pytest.raises(LoadError, match=found):
            fresh.resume(WithSettings(), tmp_path / name)
    with pytest.raises(InputError, match="module: must be the LightningModule"):
        fresh.resume(path, module)  # type: ignore[arg-type]


def test_the_best_checkpoint_is_one_of_after_the_last_pruning(tmp_path: Path) -> None:
    """The first evaluation is the best, and of a larger model."""
    model = bert()
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 8}
    callback = TransformersCallback(SCHEDULE, example_inputs=EXAMPLE, ratio=0.5)
    trainer = trainer_of(tmp_path, model, callback, load_best_model_at_end=True, metric_for_best_model="grows", **steps)
    counted = itertools.count()
    trainer.evaluate = lambda *_, **__: {"eval_grows": -float(next(counted))}  # type: ignore[method-assign]
    trainer.train()
    assert [cut.step for cut in callback.pruner.history] == [2, 4, 6]
    assert str(trainer.state.best_model_checkpoint).endswith("checkpoint-6")
    assert model(**EXAMPLE).logits.isfinite().all()


class Graded(Classifier):
    """Logs a number that only grows, of which the least is the best."""

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        self.log("grows", float(self.global_step))
        return super().training_step(batch, number)


def test_lightnings_best_checkpoint_is_one_of_after_the_last_pruning(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, "{step}", monitor="grows", mode="min", every_n_train_steps=1)
    callback = LightningCallback(SCHEDULE, ratio=0.5)
    module = Graded(whole=True)
    lightning_trainer(tmp_path, 2, callback, saving).fit(module, loader())
    assert [cut.step for cut in callback.pruner.history] == [2, 4, 6]
    best = torch.load(saving.best_model_path, weights_only=True)
    assert best["global_step"] >= 6
    module.load_state_dict(best["state_dict"])
