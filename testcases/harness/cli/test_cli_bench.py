"""`viommu bench` measures, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.bench.model import Figure, ModelFigures, require
from harness.bench.walks import dense_vtd, every_interrupt, every_judging, every_walk
from harness.bench.workloads import make_stale
from harness.cli import bench
from harness.cli.main import app
from harness.errors import HarnessError, SpecError
from harness.model.access import Fault

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
    "warm_ratio",
    "warm_grouped_ratio",
    "warm_seconds",
    "warm_grouped_seconds",
    "warm_private_mib",
    "warm_a_minute",
}


@pytest.mark.nightly
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


def test_rounds_of_hotplug_give_times_and_what_is_left() -> None:
    result = CliRunner().invoke(app, ["bench", "hotplug", "--json", "--rounds", "2"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert (found["rounds"], found["devices"], found["iommu"], found["native"]) == (2, 3, "intel", False)
    assert min(found["plug_milliseconds"], found["unplug_milliseconds"]) > 0
    assert found["growth"].keys() == found["before"].keys()
    assert found["growth"]["groups"] == found["growth"]["functions"] == found["growth"]["descriptors"] == 0


def test_leases_are_counted_in_tenths_and_leave_nothing() -> None:
    arguments = ["bench", "leases", "--json", "--count", "13", "-n", "2"]
    found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert (found["leases"], found["at_a_time"], found["iommu"], found["left"]) == (13, 2, "intel", [])
    assert found["a_minute"] == pytest.approx(13 / found["seconds"] * 60, rel=0.02)
    assert len(found["parts"]) == 10
    for part in found["parts"]:
        assert 0 < part["harness_milliseconds"] < part["answered_milliseconds"]
        assert part["vmm_milliseconds"] > 0


def test_fewer_leases_than_tenths_are_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "leases", "--count", "9"])
    assert result.exit_code == 2
    assert "--count" in result.output


@pytest.mark.nightly
def test_a_round_of_starts_gives_each_way_beside_the_kernel_that_is_handed_over() -> None:
    result = CliRunner().invoke(app, ["bench", "firmware", "--json", "--rounds", "1"], catch_exceptions=False)
    found = json.loads(result.stdout)
    starts = found["starts"]
    assert list(starts) == ["handed", "seabios", "ovmf"]
    assert starts["handed"]["ratio"] == 1.0
    for start in starts.values():
        assert 0 < start["kernel_seconds"] < start["ready_seconds"]
        wanted = start["ready_seconds"] / starts["handed"]["ready_seconds"]
        assert start["ratio"] == pytest.approx(wanted, rel=0.01)


def test_hotplug_without_an_iommu_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "hotplug", "--iommu", "none"])
    assert isinstance(result.exception, SpecError)


def test_no_rounds_are_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "boot", "--rounds", "0"])
    assert result.exit_code == 2
    assert "--rounds" in result.output


def test_an_iommu_that_there_is_not_is_refused_before_anything_is_looked_for() -> None:
    result = CliRunner().invoke(app, ["bench", "boot", "--iommu", "none2"])
    assert isinstance(result.exception, SpecError)
    assert "none2" in str(result.exception)


MODEL_GROWTH = {
    "vtd_growth_1000_pages_walks_per_second",
    "vtd_growth_10000_pages_walks_per_second",
    "vtd_growth_ratio_1000_pages",
    "vtd_growth_ratio_10000_pages",
    "virtio_iommu_1000_mappings_lookups_per_second",
    "virtio_iommu_1000_mappings_inserts_per_second",
    "virtio_iommu_10000_mappings_lookups_per_second",
    "virtio_iommu_10000_mappings_inserts_per_second",
    "virtio_iommu_bytes_per_mapping",
}


MODEL_JUDGED = {
    "judged_per_second",
    "judge_ratio",
    "allowed_per_second",
    "allowed_ratio",
    "stale_judged_per_second",
}


def test_the_model_is_measured_for_every_engine_and_format_as_one_object() -> None:
    result = CliRunner().invoke(
        app, ["bench", "model", "--seconds", "0.01", "--largest", "10000", "--json"], catch_exceptions=False
    )
    found = json.loads(result.stdout)
    walks = {f"{walk.name}_walks_per_second" for walk in every_walk()}
    interrupts = {f"{remapping.name}_interrupts_per_second" for remapping in every_interrupt()}
    judged = {f"{judging.name}_{figure}" for judging in every_judging() for figure in MODEL_JUDGED}
    assert found.keys() == walks | interrupts | judged | MODEL_GROWTH | {"rounds", "seconds", "host", "python"}
    assert "vtd_legacy_4_level_4k_walks_per_second" in walks
    assert "vtd_legacy_4_level_4k_judged_per_second" in judged
    assert found["host"].keys() == {"machine", "system"}
    assert min(value for value in found.values() if isinstance(value, int | float)) > 0
    assert found["vtd_growth_ratio_1000_pages"] == 1
    assert 25 <= found["virtio_iommu_bytes_per_mapping"] < 60


def test_the_model_is_shown_as_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    one, ratio = (Figure("a_walks_per_second", 123456.0),), (Figure("vtd_growth_ratio_10000_pages", 0.987),)
    figures = ModelFigures(
        walks=one,
        interrupts=(),
        judged=(Figure("a_judge_ratio", 0.9),),
        pages=ratio,
        mappings=(),
        rounds=5,
        seconds=1,
        host={"machine": "a host"},
        python="CPython 3",
    )
    monkeypatch.setattr(bench, "measure_model", lambda **_: figures)
    shown = CliRunner().invoke(app, ["bench", "model"], catch_exceptions=False).stdout
    assert "CPython 3, a host, medians of 5" in shown
    assert re.search(r"uncached walks a second +\n  a +123,456", shown)
    assert re.search(r"vtd growth ratio 10000 pages +0.987", shown)
    assert re.search(r"outcomes judged against caches +\n  a judge ratio +0.9", shown)


def test_dense_tables_map_every_page_and_no_more() -> None:
    count = 600
    mappings = list(dense_vtd(count).iter_mappings(0x28))
    assert [mapping.iova for mapping in mappings] == [page * 4096 for page in range(count)]
    assert len({mapping.address - mapping.iova for mapping in mappings}) == 1


def test_what_is_judged_names_an_architecture_each_and_can_be_made_stale() -> None:
    judged = list(every_judging())
    assert {judging.policy.name for judging in judged} == {
        "VT-d, legacy mode",
        "VT-d, scalable mode",
        "AMD-Vi",
        "SMMUv3",
        "RISC-V IOMMU",
    }
    for judging in judged:
        model, access = judging.make(), judging.walks.accesses[0]
        before = model.engine.translate(access)
        make_stale(model, access)
        assert isinstance(model.engine.translate(access), Fault)
        assert model.judge(access, before)


def test_no_time_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench", "model", "--seconds", "0"])
    assert isinstance(result.exception, SpecError)
    assert "0 seconds" in str(result.exception)


def test_an_outcome_that_is_not_what_is_measured_ends_it() -> None:
    with pytest.raises(HarnessError, match="nonsense: 1 gives None"):
        require("nonsense", lambda _: None, [1], int)
