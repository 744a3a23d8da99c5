"""The page of a report in headless Chromium: it counts what the library counts, and everybody can use it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import graphprune
from benchmarks.chromium import (
    BROWSER,
    DRIVER,
    chromium,
    costs_shown,
    open_page,
    requested,
    set_dark,
    slide,
    violations,
)
from graphprune.reconstruction.records import LeftAlone, Repaired
from models import resnet_cifar, vit

pytestmark = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver")


@dataclass(frozen=True)
class Report:
    """A page, and what it is about."""

    graph: graphprune.ChannelGraph
    plan: graphprune.Plan | None
    path: Path


def llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config).eval()


def measured(graph: graphprune.ChannelGraph) -> dict[str, Any]:
    """Made-up measurements of every kind."""
    names = [group.name for group in graph.groups]
    losses = {name: ((0.25, 1.0 + number), (0.5, 2.0 + number)) for number, name in enumerate(names)}
    fitted = tuple(Repaired(f"{name}.weight", 0.4, 0.1, None) for name in names[:3])
    return {
        "sensitivity": graphprune.Sensitivity(0.9, (0.25, 0.5), losses),
        "repair": graphprune.Repair(fitted, (LeftAlone("fc.weight", "its inputs are whole"),), ("bn1.running_mean",)),
        "latency": {"dense": 0.012, "slim": 0.007},
        "verification": graphprune.Verification(1e-15, 1e-14, 1, 1e-10, ()),
    }


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("reports")
    image = torch.randn(1, 3, 32, 32)
    graphs = {
        "resnet": graphprune.trace(resnet_cifar.ResNet(1).eval(), image),
        "vit": graphprune.trace(vit.vit(depth=3).eval(), image),
        "llama": graphprune.trace(llama()),
    }
    found = {}
    for name, graph in graphs.items():
        plan = graph.plan(macs=0.6) if name == "resnet" else None
        more = measured(graph) if name == "resnet" else {}
        found[name] = Report(graph, plan, graphprune.write_report(folder / f"{name}.html", graph, plan, **more))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(params=["resnet", "vit", "llama"])
def report(request: pytest.FixtureRequest, reports: dict[str, Report], browser: Any) -> Iterator[Report]:
    """A page that is open; nothing is complained of until it is left."""
    found = reports[request.param]
    open_page(browser, found.path)
    yield found
    assert browser.get_log("browser") == []


only = {name: pytest.mark.parametrize("report", [name], indirect=True) for name in ("resnet", "vit", "llama")}


def texts(browser: Any, selector: str) -> list[str]:
    """What visible elements say."""
    return [element.get_property("innerText") for element in visible(browser, selector)]


def visible(browser: Any, selector: str) -> list[Any]:
    """The elements that a reader sees."""
    script = "return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())"
    found: list[Any] = browser.execute_script(script, selector)
    return found


def focused(browser: Any) -> str:
    """What the item of the tree that has the focus is called."""
    return str(browser.switch_to.active_element.get_attribute("aria-label")).split(",")[0]


def test_the_slider_counts_what_a_plan_costs(report: Report, browser: Any) -> None:
    graph = report.graph
    for percent in (0, 3, 17, 50, 64, 90):
        slide(browser, percent)
        more = {"importance": "random"} if next(graph.model.parameters()).is_meta else {}
        plan = graph.plan(percent / 100, **more) if percent else None
        assert costs_shown(browser) == dict(graph.cost(plan).counts)
        kept = [choice.kept for choice in plan.choices] if plan else [group.units for group in graph.groups]
        shown = [int(text.replace(",", "")) for text in texts(browser, "#groups tbody td:nth-child(4)")]
        assert shown == kept
    assert "%" in browser.find_element(By.ID, "ratio").get_attribute("aria-valuetext")


@pytest.mark.parametrize(("report", "dark"), [("resnet", False), ("llama", True)], indirect=["report"])
def test_axe_finds_nothing_and_nothing_is_loaded(report: Report, browser: Any, dark: bool) -> None:
    set_dark(browser, dark)
    browser.find_element(By.CSS_SELECTOR, "#groups tbody button").click()
    slide(browser, 40)
    assert violations(browser) == []
    assert requested(browser) == []


@only["vit"]
def test_axe_sees_what_is_wrong(report: Report, browser: Any) -> None:
    browser.execute_script("document.getElementById('ratio').removeAttribute('aria-valuetext')")
    browser.execute_script("document.querySelector('label[for=ratio]').remove(); document.title = ''")
    assert [one.split(":")[0] for one in violations(browser)] == ["document-title", "label"]


@only["resnet"]
def test_a_plan_is_shown_beside_ratios(report: Report, browser: Any) -> None:
    assert report.plan is not None
    planned = dict(report.graph.cost(report.plan).counts)
    assert costs_shown(browser) == planned
    assert "macs 0.6" in browser.find_element(By.ID, "note").text
    slide(browser, 20)
    assert costs_shown(browser) != planned
    assert browser.find_element(By.ID, "show-ratio").is_selected()
    browser.find_element(By.ID, "show-plan").click()
    assert costs_shown(browser) == planned


@only["llama"]
def test_search_and_sort(report: Report, browser: Any) -> None:
    field = browser.find_element(By.ID, "groups-search")
    field.send_keys("kv_groups layers.3")
    assert texts(browser, "#groups tbody th") == ["model.layers.3.self_attn.q_proj:kv_groups"]
    assert browser.find_element(By.ID, "groups-count").text == f"1 of {len(report.graph.groups)} rows"
    field.clear()
    field.send_keys("mlp" + Keys.BACKSPACE * 3)
    head = browser.find_element(By.CSS_SELECTOR, "#groups thead th:nth-child(3)")
    for way in ("descending", "ascending"):
        head.find_element(By.TAG_NAME, "button").click()
        assert head.get_attribute("aria-sort") == way
        units = [int(text) for text in texts(browser, "#groups tbody td:nth-child(3)")]
        assert units == sorted((group.units for group in report.graph.groups), reverse=way == "descending")


@only["resnet"]
def test_a_click_shows_a_group_with_members_and_reasons(report: Report, browser: Any) -> None:
    browser.find_element(By.XPATH, "//section[@id='groups']//button[.='layer1.0.conv1']").click()
    detail = browser.find_element(By.ID, "detail").text
    group = report.graph.group("layer1.0.conv1")
    assert all(axis in detail for axis in group.axes)
    assert "They go together because of\nnative_batch_norm at models/resnet_cifar.py:" in detail
    assert "Loss with this group pruned alone" in detail
    assert "Error before and after repair\nlayer1.0.conv1.weight 40.00 % → 10.00 %" in detail
    assert str(report.path) not in browser.page_source and "/work/" not in browser.page_source
    visible(browser, "#tree .square[data-group='0']")[0].click()
    assert browser.find_element(By.CSS_SELECTOR, "#detail h3").text == report.graph.groups[0].name


@only["vit"]
def test_hovering_marks_what_goes_together(report: Report, browser: Any) -> None:
    square = visible(browser, "#tree .square[data-group='0']")[0]
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('mousemove', {bubbles: true}))", square)
    assert texts(browser, "#tip")[0].startswith(report.graph.groups[0].name)
    assert len(texts(browser, "#tree .square.lit")) > 5
    browser.execute_script("document.querySelector('main').dispatchEvent(new MouseEvent('mouseleave'))")
    assert texts(browser, "#tree .square.lit") == texts(browser, "#tip") == []


@only["vit"]
def test_the_network_is_walked_with_the_keyboard(report: Report, browser: Any) -> None:
    browser.find_element(By.CSS_SELECTOR, "#tree > li").send_keys(Keys.HOME)
    assert focused(browser) == "ViT"
    for key, name in ((Keys.ARROW_RIGHT, "patch_embed"), (Keys.ARROW_DOWN, "blocks"), (Keys.ARROW_RIGHT, "0")):
        browser.switch_to.active_element.send_keys(key)
        assert focused(browser) == name
    block = browser.switch_to.active_element
    block.send_keys(Keys.ARROW_LEFT)
    assert block.get_attribute("aria-expanded") == "false"
    block.send_keys(Keys.ARROW_DOWN)
    assert focused(browser) == "2 more like it"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert focused(browser) == "1"
    browser.switch_to.active_element.send_keys(" ")
    assert browser.find_element(By.CSS_SELECTOR, "#detail h3").text == "blocks.1"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert "Select a module" in browser.find_element(By.ID, "detail").text
    browser.switch_to.active_element.send_keys(Keys.END)
    assert focused(browser) == "head"


@only["vit"]
def test_the_slider_is_moved_with_the_keyboard(report: Report, browser: Any) -> None:
    browser.find_element(By.ID, "ratio").send_keys(Keys.ARROW_RIGHT * 5)
    assert browser.find_element(By.ID, "ratio-output").text == "5 %"
    assert costs_shown(browser) == dict(report.graph.cost(report.graph.plan(0.05)).counts)


@only["resnet"]
def test_all_that_was_measured_is_there(report: Report, browser: Any) -> None:
    titles = "Groups|Layers before and after|What is frozen, and why|Sensitivity|Repair|Latency|Verification"
    assert texts(browser, "#tables h2") == titles.split("|")
    assert texts(browser, "#latency tbody td") == ["12.00", "7.000"]
    assert texts(browser, "#verification p")[0] == "✓ passed"
    assert texts(browser, "#sensitivity tbody th")[0] == report.graph.groups[-1].name


@only["resnet"]
def test_what_is_for_the_mouse_alone_is_not_printed(report: Report, browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert texts(browser, ".search") == texts(browser, ".buttons") == []
    assert len(texts(browser, "#groups tbody tr")) == len(report.graph.groups)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_page_says_why_there_is_no_plan(browser: Any, tmp_path: Path) -> None:
    graph = graphprune.trace(torch.nn.Linear(3, 3).eval(), torch.randn(1, 3))
    open_page(browser, graphprune.write_report(tmp_path / "linear.html", graph))
    assert browser.find_element(By.ID, "ratio").get_property("disabled")
    assert "Linear has nothing that can be pruned" in browser.find_element(By.ID, "note").text
    assert texts(browser, "#tables h2") == ["Layers before and after", "What is frozen, and why"]
    assert browser.get_log("browser") == []


def test_what_a_plan_leaves_out_is_crossed_out(browser: Any, tmp_path: Path) -> None:
    graph = graphprune.trace(resnet_cifar.ResNet(2).eval(), torch.randn(1, 3, 32, 32))
    plan = graph.plan(0.5, depth=0.5)
    open_page(browser, graphprune.write_report(tmp_path / "shallow.html", graph, plan))
    assert costs_shown(browser) == dict(graph.cost(plan).counts)
    assert len(texts(browser, "#tree .skipped[aria-level='3']")) == len(plan.skipped)
    slide(browser, 50)
    assert texts(browser, "#tree .skipped") == []
    assert costs_shown(browser) == dict(graph.cost(graph.plan(0.5)).counts)
