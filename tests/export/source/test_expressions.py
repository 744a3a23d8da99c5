"""Expressions are laid out within the line, and unified with parameters that have good names."""

from graphprune.export.source.expressions import (
    NO_VALUE,
    Argument,
    Code,
    Display,
    Expression,
    Invocation,
    flat_text,
    many,
    render,
)
from graphprune.export.source.unify import Unifier, arguments_for, with_names


def conv(inputs: int, outputs: int, stride: int = 1) -> Invocation:
    sizes = (Argument("in_channels", Code(str(inputs))), Argument("out_channels", Code(str(outputs))))
    return Invocation("nn.Conv2d", (*sizes, Argument("stride", Code(str(stride)), Code("1"), keyword=True)))


def test_what_is_the_default_is_left_out() -> None:
    assert flat_text(conv(3, 8)) == "nn.Conv2d(3, 8)"
    assert flat_text(conv(3, 8, 2)) == "nn.Conv2d(3, 8, stride=2)"


def test_one_entry_a_line_where_they_do_not_fit() -> None:
    layers = Invocation("nn.Sequential", many([conv(100000, 100000, i) for i in range(2, 6)]))
    assert render(layers, 8).split("\n") == [
        "nn.Sequential(",
        *(f"            nn.Conv2d(100000, 100000, stride={i})," for i in range(2, 6)),
        "        )",
    ]


def test_equal_layers_in_a_row_are_a_comprehension() -> None:
    layers = Display("[]", (conv(8, 8), *[conv(4, 4)] * 3))
    assert flat_text(layers) == "[nn.Conv2d(8, 8), *(nn.Conv2d(4, 4) for _ in range(3))]"
    assert flat_text(Display("()", (Code("1"),))) == "(1,)"
    assert flat_text(Display("{}", (Code("1"),), ('"a"',))) == '{"a": 1}'


def block(inputs: int, hidden: int, stride: int, shortcut: Expression) -> Display:
    return Display(
        "{}", (conv(inputs, hidden, stride), conv(hidden, inputs), shortcut), ("first", "second", "shortcut")
    )


def test_one_expression_for_many() -> None:
    unifier = Unifier()
    cases = [(4, 6, 1, NO_VALUE), (8, 6, 2, conv(4, 8)), (16, 7, 1, NO_VALUE)]
    blocks = [block(*case) for case in cases]
    columns = zip(*(b.items for b in blocks), strict=True)
    whole = [unifier.unify(column, (name,)) for column, name in zip(columns, blocks[0].keys, strict=True)]
    parameters = unifier.parameters(reserved={"nn"})
    texts = [flat_text(with_names(value, parameters)) for value in whole]
    assert texts == [
        "nn.Conv2d(in_channels, first_channels, stride=stride)",
        "nn.Conv2d(first_channels, in_channels)",
        "shortcut",
    ]
    assert [f"{p.name}{p.annotation}" for p in parameters] == [
        "in_channels: int",
        "first_channels: int",
        "stride: int",
        "shortcut: nn.Module | None",
    ]
    calls = [flat_text(Invocation("Block", arguments_for(parameters, i))) for i in range(3)]
    assert calls == ["Block(4, 6)", "Block(8, 6, stride=2, shortcut=nn.Conv2d(4, 8))", "Block(16, 7)"]


def test_names_that_are_taken_get_a_number() -> None:
    unifier = Unifier()
    unifier.unify([Code("1"), Code("2")], ("act",))
    unifier.unify([Code("3"), Code("4")], ("class",))
    assert [p.name for p in unifier.parameters(reserved={"act"})] == ["act2", "class_"]
