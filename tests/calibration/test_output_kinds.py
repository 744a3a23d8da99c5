"""What the numbers of an output are is told by the dense model's outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphprune.calibration.output_kinds import CLASSES, SCORES, VALUES, YES_OR_NO, OutputKind, kinds_of

GENERATOR = torch.Generator().manual_seed(0)


def scores(*shape: int, classes: int = 7) -> Tensor:
    """Those of a classifier that is mostly sure, of which half are of the first class: [*shape, classes]."""
    chosen = torch.randint(classes, shape, generator=GENERATOR) * torch.randint(2, shape, generator=GENERATOR)
    one_hot = torch.eye(classes)[chosen]
    return 6 * one_hot + torch.randn(*shape, classes, generator=GENERATOR)


def kind_of(*batches: Tensor) -> OutputKind:
    (kind,) = kinds_of([[batch] for batch in batches])
    return kind


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (scores(40), OutputKind(SCORES)),
        (scores(8, 5), OutputKind(SCORES)),
        (scores(8, 12).transpose(1, 2) - 50, OutputKind(SCORES, 1)),
        (scores(8, 120).transpose(1, 2), OutputKind(SCORES, 1)),
        (scores(2, 6, 6).permute(0, 3, 1, 2), OutputKind(SCORES, 1)),
        (scores(40).softmax(-1), OutputKind(CLASSES)),
        (scores(2, 6, 6).softmax(-1).permute(0, 3, 1, 2), OutputKind(CLASSES, 1)),
        (scores(40).sigmoid(), OutputKind(YES_OR_NO)),
        (torch.rand(9), OutputKind(YES_OR_NO)),
        (torch.randn(64, 384), OutputKind(VALUES)),
        (torch.randn(64, 10), OutputKind(VALUES)),
        (torch.randn(64, 10).add(torch.arange(10.0).square()), OutputKind(VALUES)),
        (torch.nn.functional.normalize(torch.randn(64, 32)), OutputKind(VALUES)),
        (torch.randn(64), OutputKind(VALUES)),
        (torch.randn(64, 1), OutputKind(VALUES)),
        (torch.randint(9, (8, 30)), OutputKind(VALUES)),
        (torch.full((8, 4), math.nan), OutputKind(VALUES)),
    ],
)
def test_an_output_is_taken_for_what_its_numbers_say(tensor: Tensor, kind: OutputKind) -> None:
    assert kind_of(tensor) == kind


def test_the_kind_does_not_depend_on_batches_or_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = scores(24, 3)
    wanted = kind_of(tensor)
    assert [kind_of(*tensor.split(size)) for size in (1, 5, 24)] == [wanted] * 3
    monkeypatch.setattr("graphprune.calibration.output_kinds.COPIED", 40)
    assert kind_of(tensor) == wanted


def test_one_batch_that_says_otherwise_decides() -> None:
    sure = scores(40).softmax(-1)
    assert kind_of(sure, sure).name == CLASSES
    assert kind_of(sure, torch.rand(40, 7)).name == YES_OR_NO
    assert kind_of(sure, torch.randn(40, 7)).name == VALUES


def test_a_dimension_of_several_sizes_has_no_classes() -> None:
    wide, narrow = scores(6, 9, classes=5).transpose(1, 2), scores(6, 9, classes=4).transpose(1, 2)
    assert kind_of(wide[..., :1].repeat(1, 1, 3), narrow[..., :1].repeat(1, 1, 2)) == OutputKind()


def test_masked_scores_are_scores() -> None:
    tensor = scores(40).index_fill(1, torch.tensor([2]), -math.inf)
    assert kind_of(tensor) == OutputKind(SCORES)


def test_every_tensor_of_an_output_has_a_kind() -> None:
    first, second = scores(40), torch.randn(40, 3)
    kinds = kinds_of([[first], [first, second]])
    assert [kind.name for kind in kinds] == [SCORES, VALUES]
