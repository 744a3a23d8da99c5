"""Distillation: the formulas of the papers, features of any width, and a teacher that is only lent."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune import Distillation, finetune
from graphprune.errors import InputError
from graphprune.training.distances import distillation_loss
from graphprune.training.features import FeatureLoss
from graphprune.training.losses import logits_of
from tests.training_net import examples, loader, net, slim_net, weights


def itself(tensor: Tensor) -> Tensor:
    return tensor


# ------------------------------------------------------------ logits


def test_the_formula_by_hand() -> None:
    student, teacher, t = torch.randn(5, 3), torch.randn(5, 3), 2.5
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean() * t**2
    assert torch.allclose(distillation_loss(student, teacher, t), expected)
    maps = distillation_loss(student.T[None].contiguous(), teacher.T[None].contiguous(), t, dim=1)
    assert torch.allclose(maps, expected)


def test_the_gradient_hardly_depends_on_the_temperature() -> None:
    """At high temperatures it is that of matching logits (Hinton et al., section 2.1): here without a mean."""
    teacher = torch.randn(4, 3)
    teacher = teacher - teacher.mean(1, keepdim=True)
    student = torch.zeros(4, 3, requires_grad=True)
    distillation_loss(student, teacher, temperature=1e3).backward()
    assert torch.allclose(student.grad, -teacher / 3 / 4, atol=1e-3)  # type: ignore[operator]


def test_other_classes() -> None:
    with pytest.raises(InputError, match=r"teacher: gives outputs \[2, 4\], but the student \[2, 3\]"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize(("shape", "dim"), [((5,), -1), ((5, 1), -1), ((5, 1, 2), 1)])
def test_one_class_says_nothing(shape: tuple[int, ...], dim: int) -> None:
    """Its probability is always 1."""
    with pytest.raises(InputError, match=r"dim: in dimension [\s\S]*F.mse_loss\(student, teacher\)"):
        distillation_loss(torch.zeros(shape), torch.ones(shape), dim=dim)


def test_where_logits_are() -> None:
    x = torch.ones(1)
    assert logits_of(x) is x and logits_of({"loss": 3, "logits": x}) is x and logits_of(("a", x)) is x
    with pytest.raises(InputError, match="holds no tensor of logits"):
        logits_of({"text": "x"})


# ------------------------------------------------------------ features


def test_features_of_equal_shape() -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    expected = F.mse_loss(student, teacher) / teacher.square().mean()
    assert torch.allclose(FeatureLoss("x", itself)(student, teacher), expected)


@pytest.mark.parametrize("shape", [(50, -1), (10, -1, 3, 3), (8, 9, -1)])
def test_features_that_a_linear_map_gives_back_cost_nothing(shape: tuple[int, ...]) -> None:
    """Narrower, but the same information: no loss. Other information: a loss between 0 and 1, with a gradient."""
    dim = shape.index(-1)
    narrow = torch.randn(*[4 if n == -1 else n for n in shape])
    wide = torch.tensordot(narrow.movedim(dim, -1), torch.randn(4, 7), 1).movedim(-1, dim)
    assert FeatureLoss("x", itself)(narrow, wide) < 1e-4
    other = torch.randn_like(narrow).requires_grad_()
    loss = FeatureLoss("x", itself)(other, wide)
    loss.backward()
    assert 0.3 < float(loss.detach()) < 1.1 and other.grad is not None and other.grad.abs().max() > 1e-4


def test_the_gradient_is_that_of_the_joint_problem() -> None:
    """At the best map its own derivative does not contribute: that of the whole regression is the same."""
    narrow, wide = torch.randn(40, 3, dtype=torch.float32, requires_grad=True), torch.randn(40, 5)
    FeatureLoss("x", itself)(narrow, wide).backward()
    through = torch.linalg.lstsq(narrow, wide).solution
    loss = (narrow @ through - wide).square().mean() / wide.square().mean()
    (expected,) = torch.autograd.grad(loss, narrow)
    assert torch.allclose(narrow.grad, expected, atol=1e-4)  # type: ignore[arg-type]


def test_few_rows_a_batch_are_not_learned_by_heart() -> None:
    """Two rows can be mapped to anything; over many batches, the map is one."""
    loss = FeatureLoss("x", itself)
    found = [float(loss(torch.randn(2, 8), torch.randn(2, 12))) for _ in range(100)]
    assert found[0] < 0.01 and sum(found[50:]) / 50 > 0.6


def test_features_of_unlike_shapes() -> None:
    with pytest.raises(
        InputError, match=r"features: 'x' gives \[2, 3, 4\] in the student and \[2, 5, 6\] in the teacher"
    ):
        FeatureLoss("x", itself)(torch.zeros(2, 3, 4), torch.zeros(2, 5, 6))


# ------------------------------------------------------------ training


def test_the_loss_is_a_mixture() -> None:
    """The loss of the first step, by hand."""
    x, y = examples(8)
    model, teacher = slim_net(), net(3)
    model.drop = nn.Identity()
    given: dict[str, Any] = {"steps": 1, "lr": 1e-6, "teacher": teacher}
    state = {k: v.clone() for k, v in model.state_dict().items()}
    (found,) = finetune(model, [(x, y)], **given, distill=Distillation(2.0, 0.7, ("leave",), 0.5)).loss
    model.load_state_dict(state)
    said, told = model.train()(x), teacher.eval()(x)
    expected = 0.3 * F.cross_entropy(said, y) + 0.7 * distillation_loss(said, told, 2.0)
    expected += 0.5 * F.mse_loss(said, told) / told.square().mean()
    assert found == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_student_follows_its_teacher_without_labels() -> None:
    x, _ = examples()
    teacher, student = net(), slim_net()
    finetune(teacher, loader(), epochs=8, lr=0.1)
    batches = list(x.split(8))
    distill = Distillation(alpha=1.0, features=("norm", "leave"))
    history = finetune(student, batches, epochs=15, lr=0.05, teacher=teacher, distill=distill)
    assert sum(history.loss[-8:]) < 0.5 * sum(history.loss[:8])
    agreement = (student.eval()(x).argmax(1) == teacher.eval()(x).argmax(1)).float().mean()
    assert agreement > 0.8


def test_the_teacher_is_only_lent() -> None:
    teacher = net(3).train()
    before, x = weights(teacher), torch.ones(1)
    teacher.enter.weight.grad = torch.ones_like(teacher.enter.weight)
    finetune(slim_net(), loader(), epochs=1, lr=0.1, teacher=teacher, distill=Distillation(features=("enter",)))
    assert all(torch.equal(a, b) for a, b in zip(weights(teacher), before, strict=True))
    assert teacher.training and not teacher.enter._forward_hooks
    assert teacher.enter.weight.requires_grad and torch.equal(teacher.enter.weight.grad, x.expand(16, 6))


def test_both_draw_the_same_random_numbers() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.enter(x + torch.randn_like(x))
            return out

    student, x = Noisy(), torch.randn(8, 6)
    distill = Distillation(alpha=1.0)
    history = finetune(student, [(x, None)], epochs=2, lr=1e-9, teacher=copy.deepcopy(student), distill=distill)
    assert max(history.loss) < 1e-6


def test_a_student_that_writes_to_its_inputs_leaves_the_teachers_alone() -> None:
    class Scaling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2))

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return super().forward(x)

    seen: list[Tensor] = []
    batches = [torch.ones(4, 6)]
    finetune(Scaling(6, 3), batches, epochs=1, lr=0.1, teacher=Watching(6, 3), distill=Distillation(alpha=1.0))
    assert seen and all(torch.equal(x, torch.ones(4, 6)) for x in seen)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(temperature=0), "temperature: must be positive, but is 0"),
        (lambda: Distillation(alpha=1.5), "alpha: must be between 0 and 1, but is 1.5"),
        (lambda: Distillation(features="enter"), r"features: is the string 'enter'[\s\S]*pass features=\('enter',\)"),
        (lambda: Distillation(feature_weight=-1), "feature_weight: must not be negative"),
    ],
)
def test_settings_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_mistakes_leave_no_hooks() -> None:
    model, teacher = slim_net(), net()
    with pytest.raises(InputError, match=r"features: the student has no module 'exit'[\s\S]*enter, norm"):
        finetune(model, loader(), epochs=1, lr=0.1, teacher=teacher, distill=Distillation(features=("enter", "exit")))
    with pytest.raises(InputError, match="teacher: is the model that is trained"):
        finetune(model, loader(), epochs=1, lr=0.1, teacher=model)
    assert not model.enter._forward_hooks and not teacher.enter._forward_hooks and teacher.training
