"""Tables print as text and as HTML from one description; repeated layers stand in one row."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from graphprune.utils.repeated_names import merge_names, merge_repeated
from graphprune.utils.tables import Printed, Table

VOID = {"br", "hr", "img", "meta", "link"}


class WellFormed(HTMLParser):
    """Checks that every element is closed where it was opened, and collects the text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.seen: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.mark.parametrize(
    ("names", "merged"),
    [
        (["layers.0.fc", "layers.1.fc", "layers.2.fc"], ["layers.0-2.fc"]),
        (["a.0.x", "a.0.y", "a.1.x", "a.1.y", "a.3.x"], ["a.0-1,3.x", "a.0-1.y"]),
        (["layer1.0.a1", "layer1.1.a1", "layer1.2.a1", "layer2.0.a1"], ["layer1.0-2.a1", "layer2.0.a1"]),
        (["encoder_layer_0.w[0]:heads", "encoder_layer_1.w[0]:heads"], ["encoder_layer_0-1.w[0]:heads"]),
        (["conv.weight[0]", "conv.weight[1]"], ["conv.weight[0]", "conv.weight[1]"]),
        (["a:heads", "a:heads#2"], ["a:heads", "a:heads#2"]),
        (["block.07.fc", "block.08.fc"], ["block.07.fc", "block.08.fc"]),
        (["stem", "head"], ["stem", "head"]),
        ([], []),
    ],
)
def test_names_of_repeated_layers(names: list[str], merged: list[str]) -> None:
    assert merge_names(names) == merged


def test_rows_that_differ_elsewhere_stay_apart() -> None:
    rows = [("layers.0.fc", "64"), ("layers.1.fc", "64"), ("layers.2.fc", "32"), ("layers.3.fc", "64")]
    assert merge_repeated(rows) == [("layers.0-1,3.fc", "64"), ("layers.2.fc", "32")]


def test_a_table_is_aligned() -> None:
    table = Table("Sizes:", ("name", "units", "why"), (("a", "5", "x"), ("long", "1234", "")), numbers=("units",))
    assert str(table).splitlines() == ["Sizes:", "  name  units  why", "  a         5  x", "  long   1234"]


def test_a_table_without_title_and_headings() -> None:
    assert str(Table("", ("",), (("one",), ("two",)))) == "one\ntwo"


def test_a_long_table_is_merged_and_a_short_one_is_not() -> None:
    rows = tuple((f"layers.{i}.fc", "64") for i in range(41))
    assert Table("", ("name", "units"), rows).lines == [("layers.0-40.fc", "64")]
    assert len(Table("", ("name", "units"), rows[:40]).lines) == 40


class Shown(Printed):
    """Something that prints a line, a table and another such thing."""

    def __init__(self, inner: Printed | None = None) -> None:
        self.inner = inner

    def _summary(self) -> str:
        return "Shown"

    def _parts(self) -> Iterator[str | Table | Printed]:
        yield "<lambda> & 'co'"
        yield Table("T <b>", ("name", "n"), (("<lambda>", "1"),), numbers=("n",))
        if self.inner:
            yield self.inner


def test_text_and_html_show_the_same() -> None:
    outer = Shown(Shown())
    html = WellFormed(outer._repr_html_())
    words = {
        word for texts in (html.texts[tag] for tag in ("p", "summary", "th", "td")) for t in texts for word in t.split()
    }
    assert words == set(str(outer).split())
    assert repr(outer) == "<Shown>"


def test_html_is_escaped_and_has_no_scripts() -> None:
    text = Shown()._repr_html_()
    html = WellFormed(text)
    assert html.texts["td"] == ["<lambda>", "1"] and html.texts["summary"] == ["T <b>"]
    assert "<lambda>" not in text and html.seen == {
        "div",
        "style",
        "p",
        "details",
        "summary",
        "table",
        "tr",
        "th",
        "td",
    }
    assert text.count("<style>") == Shown(Shown())._repr_html_().count("<style>") == 1


def test_long_tables_are_folded_in_notebooks() -> None:
    rows = tuple((f"n{i}", str(i)) for i in range(61))
    table = Table("Long", ("name", "n"), rows)
    assert "<details>" in table.to_html() and "<details open>" in Table("Short", ("name", "n"), rows[:5]).to_html()
