"""Recipes of guest images."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SpecError
from harness.images.recipe import Recipe, recipe_names
from harness.resources import GUEST_IMAGES

RIGHT = (GUEST_IMAGES / "base.toml").read_text()


def test_recipe_of_the_project_is_read() -> None:
    recipe = Recipe.load()
    assert "dropbear" in recipe.programs
    assert recipe.modules.iommu["virtio"] == ("virtio_iommu",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RIGHT.replace("files =", "file ="), "Unknown field `file`"),
        (RIGHT.replace("always =", "allways ="), "Unknown field `allways` - at `$.modules`"),
        (RIGHT.replace('files = ["', 'files = [3, "'), "Expected `str`, got `int` - at `$.files[0]`"),
        (RIGHT.split("[modules]")[0], "missing required field `modules`"),
        ("= 3", "Invalid"),
        ("\udcff", "utf-8"),
    ],
)
def test_recipe_that_is_wrong_is_refused_with_path_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpecError) as caught:
        Recipe.load(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        Recipe.load(tmp_path / "absent.toml")


def test_recipe_that_extends_another_has_all_of_both() -> None:
    base, more = Recipe.named("base"), Recipe.named("dpdk")
    assert set(base.packages) < set(more.packages)
    assert more.programs == (*base.programs, "dpdk-testpmd")
    assert (more.applets, more.modules) == (base.applets, base.modules)


def test_what_a_recipe_says_of_a_table_is_added_to_that_of_the_other(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text(RIGHT)
    (tmp_path / "second.toml").write_text(
        'extends = "first"\n[modules]\navailable = ["e1000e"]\niommu = {amd = ["x"]}\n'
    )
    first, second = Recipe.load(tmp_path / "first.toml"), Recipe.load(tmp_path / "second.toml")
    assert second.modules.available == (*first.modules.available, "e1000e")
    assert second.modules.iommu == {**first.modules.iommu, "amd": ("x",)}


@pytest.mark.parametrize(
    ("extends", "message"),
    [('"nothing"', "nothing.toml: No such file"), ('"self"', "without end"), ("3", "got `int` - at `$.extends`")],
)
def test_recipe_that_extends_what_it_cannot_is_refused(tmp_path: Path, extends: str, message: str) -> None:
    path = tmp_path / "self.toml"
    path.write_text(f"extends = {extends}\n{RIGHT}")
    with pytest.raises(SpecError) as caught:
        Recipe.load(path)
    assert message in caught.value.message


@pytest.mark.parametrize("name", ["", "nothing", "../guest_images/base", "base.toml"])
def test_name_that_is_none_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(SpecError, match="is not known") as caught:
        Recipe.named(name)
    assert caught.value.hint == f"choose one of: {', '.join(recipe_names())}"
    assert {"base", "dpdk"} <= set(recipe_names())
