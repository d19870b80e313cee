"""Opening a lab: what is wrong is told before anything is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.artifacts.cache import Cache
from harness.errors import SpecError
from harness.lab import Lab


@pytest.mark.parametrize(("qemu", "kernel"), [(None, "/nope/bzImage"), ("/nope/qemu", None)], ids=["kernel", "qemu"])
def test_a_path_that_is_not_there_is_told_before_anything_is_fetched(
    tmp_path: Path, qemu: str | None, kernel: str | None
) -> None:
    said: list[object] = []
    with pytest.raises(SpecError, match="/nope/"):
        Lab.open(qemu=qemu, kernel=kernel, cache=Cache(tmp_path / "cache"), progress=lambda *text: said.append(text))
    assert said == []
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".deb"]
