"""The page of recipes shows every recipe, with the figures that were measured."""

from pathlib import Path

from benchmarks.recipes import RECIPES, markdown, measured, overview

PAGE = (Path(__file__).parents[2] / "docs/recipes.md").read_text()


def test_every_recipe_is_on_the_page_with_its_figures() -> None:
    assert set(measured()) == set(RECIPES)
    assert len(RECIPES) >= 10
    assert overview(measured()) in PAGE
    for name, figures in measured().items():
        assert f"(../examples/recipes/{name}.py)" in PAGE
        assert markdown(figures) in PAGE


def test_each_took_less_than_two_minutes() -> None:
    assert max(figures["seconds"] for figures in measured().values()) < 120


def test_resnet18_without_98_percent_of_its_weights_is_within_a_point() -> None:
    steps = measured()["resnet18_global_l1"]["steps"]
    dense, sparse = steps["dense"], steps["masks made permanent"]
    assert sparse["accuracy"] >= dense["accuracy"] - 0.01
    assert sparse["nonzero"] < 0.021 * dense["parameters"]  # 2 % of the weights, and biases and normalizations
