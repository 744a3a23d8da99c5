"""What a student's outputs are compared by: it follows from the targets and from what the teacher says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune import Distillation, finetune
from graphprune.calibration.communicator import ALONE
from graphprune.calibration.output_error import outputs_of
from graphprune.calibration.output_kinds import CLASSES, SCORES, VALUES, YES_OR_NO, OutputKind
from graphprune.errors import InputError, LoadError
from graphprune.training.distances import LOGITS, Yardstick, distillation_loss, said_by

ALONE_TAUGHT = Distillation(alpha=1.0)
CHANCES = torch.tensor([[0.2, 0.7], [0.9, 0.5], [0.4, 0.1]])


def decisive(*shape: int, dim: int) -> Tensor:
    """Scores of which one is far above the others."""
    scores = torch.zeros(shape).movedim(dim, -1)
    chosen = torch.randint(scores.shape[-1], (*scores.shape[:-1], 1))
    return scores.scatter(-1, chosen, 9.0).movedim(-1, dim)


def yardstick(student: Tensor, teacher: Tensor, said: OutputKind | None = None) -> Yardstick:
    return Yardstick.of(student, teacher, said, ALONE)


def head(outputs: int, last: nn.Module, squeezed: bool = False, seed: int = 0) -> nn.Module:
    """[n, 6] -> [n, outputs], or [n]."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, outputs), last)
    return model.append(nn.Flatten(0)) if squeezed else model


def away(student: nn.Module, teacher: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float((student(inputs) - teacher(inputs)).square().mean())


# ------------------------------------------------------------ the distances


def test_values_are_compared_by_squares_in_parts_of_their_variance() -> None:
    teacher = torch.randn(50) * 30 + 7
    found = yardstick(torch.randn(50), teacher)
    assert found.kind == OutputKind(VALUES)
    assert found.spread == pytest.approx(float(teacher.var(correction=0)), rel=1e-5)
    mean = torch.full_like(teacher, float(teacher.mean()))
    assert float(found.distance(mean, teacher, 4.0)) == pytest.approx(1.0, rel=1e-4)
    assert float(found.distance(teacher, teacher, 4.0)) == 0


@pytest.mark.parametrize("teacher", [[3.0, 3.0], [-0.1, 0.1], [math.nan, math.nan]])
def test_squares_are_never_made_larger(teacher: list[float]) -> None:
    """A learning rate that fits squared errors would be too high for parts of a small variance."""
    assert yardstick(torch.ones(2), torch.tensor(teacher)).spread == 1


def test_masked_values_do_not_count() -> None:
    teacher = torch.tensor([[1.0, -math.inf], [4.0, 2.0]])
    student = torch.tensor([[2.0, -math.inf], [4.0, 2.0]], requires_grad=True)
    Yardstick(OutputKind(VALUES)).distance(student, teacher, 4.0).backward()
    assert torch.allclose(student.grad, torch.tensor([[2 / 3, 0.0], [0.0, 0.0]]))  # type: ignore[arg-type]


def test_chances_of_yes_are_two_classes_each() -> None:
    student = CHANCES.flip(0)
    found = yardstick(student, CHANCES)
    expected = CHANCES * (CHANCES / student).log() + (1 - CHANCES) * ((1 - CHANCES) / (1 - student)).log()
    assert found.kind == OutputKind(YES_OR_NO)
    assert torch.allclose(found.distance(student, CHANCES, 1.0), expected.mean(), atol=1e-6)
    logits = (student / (1 - student)).log()
    twice = found.distance((logits / 2).sigmoid(), (CHANCES.logit() / 2).sigmoid(), 1.0) * 4
    assert torch.allclose(found.distance(student, CHANCES, 2.0), twice, atol=1e-5)


def test_what_leaves_the_chances_is_drawn_back() -> None:
    student = torch.tensor([1.5, 0.5], requires_grad=True)
    Yardstick(OutputKind(YES_OR_NO)).distance(student, torch.tensor([1.0, 0.5]), 4.0).backward()
    assert student.grad is not None and student.grad[0] > 0.1


def test_numbers_that_only_the_teacher_has_in_the_unit_range_are_values() -> None:
    assert yardstick(CHANCES * 3, CHANCES).kind == OutputKind(VALUES)
    assert yardstick(CHANCES * 3, CHANCES.softmax(1)).kind == OutputKind(VALUES)


def test_probabilities_of_classes_are_compared_as_their_scores() -> None:
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    found = yardstick(student.softmax(1), teacher.softmax(1))
    assert found.kind == OutputKind(CLASSES)
    expected = distillation_loss(student, teacher, 3.0)
    assert torch.allclose(found.distance(student.softmax(1), teacher.softmax(1), 3.0), expected, atol=1e-5)


def test_maps_have_their_classes_in_the_second_dimension() -> None:
    """The width has as many entries, and is not what excludes itself."""
    teacher, student = decisive(4, 8, 8, 8, dim=1), torch.randn(4, 8, 8, 8)
    found = yardstick(student, teacher)
    assert found.kind == OutputKind(SCORES, 1)
    assert torch.equal(found.distance(student, teacher, 4.0), distillation_loss(student, teacher, 4.0, 1))


def test_logits_of_yes_are_two_classes_each() -> None:
    student, teacher = torch.randn(5, 2) * 3, torch.randn(5, 2) * 3
    found = Yardstick(OutputKind(LOGITS)).distance(student, teacher, 1.0)
    chances = Yardstick(OutputKind(YES_OR_NO)).distance(student.sigmoid(), teacher.sigmoid(), 1.0)
    assert torch.allclose(found, chances, atol=1e-5)


NUMBERS = {"dtype": torch.long}


@pytest.mark.parametrize(
    ("shape", "target", "said"),
    [
        ((4, 3), torch.zeros(4, **NUMBERS), OutputKind(SCORES, 1)),
        ((4, 3, 8, 8), torch.zeros(4, 8, 8, **NUMBERS), OutputKind(SCORES, 1)),
        ((4, 5, 9), torch.zeros(4, 5, **NUMBERS), OutputKind(SCORES, -1)),
        ((4,), torch.tensor([0.0, 1, 1, 0]), OutputKind(LOGITS)),
        ((2, 2), torch.tensor([[1, 1], [0, 1]]), OutputKind(LOGITS)),
        ((2, 2), torch.tensor([[0.0, 1], [1, 0]]), None),
        ((2,), torch.tensor([0.0, 1.5]), None),
        ((2,), torch.tensor([0.0, 0.0]), None),
        ((4, 3), torch.zeros(4), None),
        ((4, 1), torch.zeros(4, **NUMBERS), None),
        ((4,), torch.zeros(3, **NUMBERS), None),
        ((4, 3), None, None),
    ],
)
def test_what_targets_say(shape: tuple[int, ...], target: Any, said: OutputKind | None) -> None:
    assert said_by(target, torch.zeros(shape)) == said


def test_targets_say_more_than_a_teacher_that_knows_little() -> None:
    teacher = torch.randn(4, 3) * 0.01
    assert yardstick(teacher, teacher).kind == OutputKind(VALUES)
    for said in (OutputKind(SCORES, 1), OutputKind(LOGITS)):
        assert yardstick(teacher, teacher, said).kind == said
    sure = decisive(4, 3, dim=-1).softmax(-1)
    assert yardstick(sure, sure, OutputKind(SCORES, 1)).kind == OutputKind(CLASSES, -1)
    assert yardstick(CHANCES, CHANCES, OutputKind(LOGITS)).kind == OutputKind(YES_OR_NO)


def test_damaged_yardsticks() -> None:
    with pytest.raises(ValueError, match="kind: 'words' is none of"):
        Yardstick(OutputKind("words"))


# ------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("outputs", "last", "squeezed"),
    [
        (1, nn.Identity(), False),
        (1, nn.Identity(), True),
        (1, nn.Sigmoid(), False),
        (1, nn.Sigmoid(), True),
        (3, nn.Identity(), False),
        (3, nn.Softmax(1), False),
    ],
)
def test_students_of_all_outputs_learn(outputs: int, last: nn.Module, squeezed: bool) -> None:
    """They raised an error, or had the loss zero, where there are no two classes."""
    inputs = torch.randn(64, 6)
    teacher, student = head(outputs, last, squeezed), head(outputs, last, squeezed, seed=1)
    before = away(student, teacher, inputs)
    given: dict[str, Any] = {"teacher": teacher, "distill": ALONE_TAUGHT, "progress": False}
    finetune(student, list(inputs.split(16)), epochs=60, lr=0.2, **given)
    assert away(student, teacher, inputs) < 0.2 * before


def test_one_logit_and_its_targets() -> None:
    """The first step's loss, by hand: the teacher has its share."""
    inputs, target = torch.randn(32, 6), torch.randint(2, (32, 1)).float()
    student, teacher = head(1, nn.Identity(), seed=1), head(1, nn.Identity())
    with torch.no_grad():
        said, told = student(inputs), teacher(inputs)
    expected = 0.1 * F.binary_cross_entropy_with_logits(said, target)
    wanted, found = (torch.cat((logits, torch.zeros(32, 1)), 1) for logits in (told, said))
    expected += 0.9 * distillation_loss(found, wanted, 4.0)
    given: dict[str, Any] = {"teacher": teacher, "loss_fn": F.binary_cross_entropy_with_logits, "progress": False}
    (loss,) = finetune(student, [(inputs, target)], steps=1, lr=1e-9, **given).loss
    assert loss == pytest.approx(float(expected), rel=1e-5)


class Maps(nn.Module):
    """[b, 1, 4, 4] -> scores of three classes [b, 3, 4, 4]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


@pytest.mark.parametrize(("distill", "dim"), [(None, 1), (Distillation(dim=1), 1), (Distillation(dim=-1), -1)])
def test_maps_of_classes_are_learned_pixel_by_pixel(distill: Distillation | None, dim: int) -> None:
    student, teacher, x = Maps(0), Maps(1), torch.randn(8, 1, 4, 4)
    y = torch.randint(3, (8, 4, 4))
    with torch.no_grad():
        said, told = student(x), teacher(x)
    expected = 0.1 * F.cross_entropy(said, y) + 0.9 * distillation_loss(said, told, 4.0, dim)
    (found,) = finetune(student, [(x, y)], steps=1, lr=1e-9, teacher=teacher, distill=distill, progress=False).loss
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_a_dimension_of_one_class_is_refused() -> None:
    given: dict[str, Any] = {"teacher": head(1, nn.Identity()), "distill": Distillation(alpha=1.0, dim=-1)}
    with pytest.raises(InputError, match=r"dim: in dimension -1, logits \[8, 1\] have one class"):
        finetune(head(1, nn.Identity(), seed=1), [torch.randn(8, 6)], steps=1, lr=0.1, progress=False, **given)


def test_what_was_found_goes_on(tmp_path: Path) -> None:
    """The first batch decides; after an interruption another one comes first."""
    batches = [torch.randn(8, 6) * scale for scale in (1, 5, 0.1, 2)]
    given: dict[str, Any] = {"epochs": 2, "lr": 0.05, "teacher": head(1, nn.Identity()), "distill": ALONE_TAUGHT}
    whole, resumed = (head(1, nn.Identity(), seed=1) for _ in range(2))
    finetune(whole, batches, progress=False, **given)

    def stop(step: int, *_: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    saved: dict[str, Any] = {"checkpoint": tmp_path, "every": 1, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        finetune(resumed, batches, on_step=stop, **given, **saved)
    finetune(resumed, batches, **given, **saved)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("name", ["loss_fn", "teacher"])
def test_a_checkpoint_without_what_is_asked_for_now(tmp_path: Path, name: str) -> None:
    batches = [(torch.randn(8, 6), torch.randint(3, (8,)))]
    given: dict[str, Any] = {"epochs": 1, "lr": 0.05, "checkpoint": tmp_path, "progress": False}
    finetune(head(3, nn.Identity()), batches, **given)
    more = {"loss_fn": F.cross_entropy, "teacher": head(3, nn.Identity(), seed=1)}
    with pytest.raises(LoadError, match=rf"checkpoint: is of a training with {name}=None, but asked for is {name}='a "):
        finetune(head(3, nn.Identity()), batches, **given, **{name: more[name]})


class Conjugated(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).conj()


def test_conjugates_are_compared() -> None:
    torch.manual_seed(0)
    student, teacher = (Conjugated(3, 2, dtype=torch.complex64) for _ in range(2))
    given: dict[str, Any] = {"teacher": teacher, "distill": ALONE_TAUGHT, "progress": False}
    history = finetune(student, [torch.randn(8, 3) + 0j], epochs=20, lr=0.05, **given)
    assert history.loss[-1] < history.loss[0]
    (((outputs,),),) = [outputs_of(teacher, [(0, torch.ones(1, 3) + 0j)])]
    assert outputs.shape == (1, 2, 2)
