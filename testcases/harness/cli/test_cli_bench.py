"""`viommu bench` measures, and leaves nothing behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.errors import SpecError

FIGURES = {
    "cold_ratio",
    "cold_unpacked_ratio",
    "floor_seconds",
    "floor_unpacked_seconds",
    "cold_seconds",
    "launch_seconds",
    "firmware_seconds",
    "kernel_seconds",
    "init_seconds",
    "userland_seconds",
    "ssh_seconds",
    "agent_seconds",
    "agent_roundtrip_milliseconds",
}


def test_one_round_of_boots_gives_every_figure_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="vb-") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        result = CliRunner().invoke(app, ["bench", "boot", "--json", "--rounds", "1"], catch_exceptions=False)
        assert list(Path(temporary).iterdir()) == []
    found = json.loads(result.stdout)
    assert found.keys() == FIGURES | {"rounds", "iommu", "qemu", "kernel", "host"}
    assert min(found[name] for name in FIGURES) > 0
    assert found["cold_ratio"] == pytest.approx(found["cold_seconds"] / found["floor_seconds"], rel=0.01)
    parts = sum(found[f"{part}_seconds"] for part in ("firmware", "kernel", "userland", "ssh"))
    assert parts == pytest.approx(found["cold_seconds"], abs=0.01)


def test_no_rounds_are_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "boot", "--rounds", "0"])
    assert result.exit_code == 2
    assert "--rounds" in result.output


def test_an_iommu_that_there_is_not_is_refused_before_anything_is_looked_for() -> None:
    result = CliRunner().invoke(app, ["bench", "boot", "--iommu", "none2"])
    assert isinstance(result.exception, SpecError)
    assert "none2" in str(result.exception)
