"""Recipes of guest images."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SpecError
from harness.images.recipe import Recipe
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
