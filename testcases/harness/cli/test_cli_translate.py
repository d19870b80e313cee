"""`viommu translate`: answers from a state file, and tells what is wrong with one."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.bench.walks import every_interrupt, every_walk
from harness.cli.main import app, main
from harness.errors import HarnessError, SpecError
from harness.model.access import Access, AccessKind, Permissions, Translated
from harness.model.memory import MappedMemory, Region
from harness.model.riscv.registers import MsiTableEntry, RiscvIommuRegisters
from harness.model.virtio_iommu import (
    Attach,
    AttachFlags,
    Map,
    MapFlags,
    RegionKind,
    Request,
    ReservedRegion,
    Unmap,
    VirtioIommuConfig,
)
from harness.model.vtd import VtdRegisters, VtdTables
from harness.model.vtd.register_layouts import GSTS_REG
from harness.model.vtd.registers import capabilities
from harness.state import open_state
from harness.state.dump import elf_regions
from harness.state.read import ENGINES, parse_requester
from harness.state.write import registers_text, virtio_iommu_text

_BASE = 0x10_0000  # where memory starts, so that an offset into the file is never a physical address
_MEMORY = 1 << 16
_DISK, _NIC = 0x0028, 0x0030


def vtd_memory() -> tuple[bytearray, VtdRegisters]:
    """Two pages for 00:05.0 at 0x4000: the first can be written, the second not. 00:06.0 has no context-entry."""
    buffer = bytearray(_MEMORY)
    tables = VtdTables(MappedMemory(buffer, (Region(_BASE, _MEMORY),)), _BASE)
    table = tables.attach(_DISK, 7, 4)
    table.map(0x4000, 0x8000_0000, 0x1000)
    table.map(0x5000, 0x9000_0000, 0x1000, Permissions.READ)
    registers = VtdRegisters(rtaddr=tables.root, cap=capabilities(), ecap=0, gsts=GSTS_REG["TES"].mask)
    return buffer, registers


def elf(
    *loads: tuple[int, bytes], kind: int = 4, order: int = 1, magic: bytes = b"\x7fELF", keep: int | None = None
) -> bytes:
    """An ELF64 core with a PT_LOAD for each run of memory (System V ABI, ELF header and program header)."""
    offset = 64 + 56 * len(loads)
    headers = b""
    for address, data in loads:
        headers += struct.pack("<IIQQQQQQ", 1, 6, offset, 0xFFFF_8880_0000_0000, address, len(data), len(data), 4096)
        offset += len(data)
    ident = magic + bytes([2, order, 1]) + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, 0, 64, 0, 0, 64, 56, len(loads), 0, 0, 0)
    whole = head + headers + b"".join(data for _, data in loads)
    return whole[:keep]


def vtd_state(directory: Path, *, format: str = "elf", data: bytes | None = None, **changes: Any) -> Path:
    memory, registers = vtd_memory()
    regions = (Region(_BASE, _MEMORY, 0x1000),) if format == "raw" else ()
    raw = bytes(0x1000) + bytes(memory)
    contents = data if data is not None else raw if format == "raw" else elf((_BASE, bytes(memory)))
    (directory / "memory").write_bytes(contents)
    text = registers_text(
        "vtd",
        replace(registers, **changes),
        file="memory",
        format=format,
        regions=regions,
        devices={"disk": _DISK, "nic": _NIC},
        comment="made by a test",
    )
    return write(directory, text)


def virtio_state(directory: Path, *requests: Request, bypass: bool = False) -> Path:
    msi = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, RegionKind.MSI)
    config = VirtioIommuConfig(endpoints={_DISK: (msi,), _NIC: ()}, bypass=bypass)
    return write(directory, virtio_iommu_text(config, requests, bypass=bypass, devices={"disk": _DISK}))


MAPPED = (
    Attach(domain=1, endpoint=_DISK),
    Map(domain=1, virt_start=0x4000, virt_end=0x4FFF, phys_start=0x8000_0000, flags=3),
    Map(domain=1, virt_start=(1 << 64) - 4096, virt_end=(1 << 64) - 1, phys_start=0x9000, flags=int(MapFlags.READ)),
)


def write(directory: Path, text: str | bytes) -> Path:
    path = directory / "state.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["translate", *map(str, words)])


def answer(*words: object) -> str:
    result = run(*words)
    assert result.exception is None, result.exception
    assert result.exit_code == 0
    return str(result.stdout)


def ask(*words: object) -> Any:
    return json.loads(answer(*words, "--json"))


def refusal(*words: object) -> HarnessError:
    error = run(*words).exception
    assert isinstance(error, HarnessError), error
    assert error.hint
    return error


# Answers.


@pytest.mark.parametrize("format", ["raw", "elf"])
def test_an_access_is_explained_from_a_dump(tmp_path: Path, format: str) -> None:
    text = answer(vtd_state(tmp_path, format=format), "--requester", "00:05.0", "--iova", "0x4008", "--write")
    assert "00:05.0 write of 4 bytes at 0x4008" in text
    assert "context-entry [0x05.0]" in text
    assert "[VT-d 9.3]" in text
    assert "=> translated to 0x80000008 (rw, 4 KiB mapping)" in text


def test_a_fault_is_an_answer_too(tmp_path: Path) -> None:
    text = answer(vtd_state(tmp_path), "--requester", "00:05.0", "--iova", "0x5008", "--write")
    assert "=> fault 0x5 WRITE_NOT_PERMITTED" in text


def test_an_access_over_two_pages_is_explained_in_two_pieces(tmp_path: Path) -> None:
    found = ask(vtd_state(tmp_path), "--requester", "0x28", "--iova", "0x4ffc", "--length", "8")
    assert [piece["access"]["iova"] for piece in found["pieces"]] == ["0x4ffc", "0x5000"]
    assert [piece["outcome"]["address"] for piece in found["pieces"]] == ["0x80000ffc", "0x90000000"]


@pytest.mark.parametrize(("option", "code"), [("--write", "CONTEXT_NOT_PRESENT"), ("--execute", "CONTEXT_NOT_PRESENT")])
def test_a_device_is_found_by_its_name_and_a_fault_says_its_code(tmp_path: Path, option: str, code: str) -> None:
    (piece,) = ask(vtd_state(tmp_path), "--requester", "nic", "--iova", "0", option)["pieces"]
    assert piece["access"]["requester"] == "00:06.0"
    assert piece["access"]["kind"] == option.removeprefix("--")
    assert (piece["outcome"]["kind"], piece["outcome"]["code"], piece["outcome"]["number"]) == ("fault", code, 2)
    assert piece["outcome"]["record"] is not None


def test_every_step_has_address_value_fields_and_section(tmp_path: Path) -> None:
    (piece,) = ask(vtd_state(tmp_path), "--requester", "disk", "--iova", "0x4000")["pieces"]
    (entry,) = [step for step in piece["steps"] if step["what"].startswith("context-entry")]
    assert int(entry["address"], 16) % 4096 == _DISK * 16
    assert entry["section"] == "VT-d 9.3"
    assert (entry["fields"]["P"], entry["fields"]["DID"]) == ("0x1", "0x7")
    assert int(entry["value"], 16) >> 72 & 0xFFFF == 7
    assert piece["outcome"] == {
        "kind": "translated",
        "address": "0x80000000",
        "size": 4096,
        "permissions": "rw",
        "attributes": [],
        "writes": [],
    }


def test_pasid_and_privilege_are_part_of_the_access(tmp_path: Path) -> None:
    found = ask(vtd_state(tmp_path), "--requester", "disk", "--iova", "0", "--pasid", "0x5", "--privileged")
    assert (found["access"]["pasid"], found["access"]["privileged"]) == ("0x5", True)
    assert found["pieces"][0]["outcome"]["code"] == "PASID_IN_LEGACY_MODE"


def test_mappings_are_listed(tmp_path: Path) -> None:
    state = vtd_state(tmp_path)
    assert answer(state, "--requester", "disk", "--mappings").splitlines() == [
        "0x4000..0x4fff -> 0x80000000 rw (4 KiB)",
        "0x5000..0x5fff -> 0x90000000 r- (4 KiB)",
    ]
    assert ask(state, "--requester", "disk", "--mappings")["mappings"][0] == {
        "iova": "0x4000",
        "address": "0x80000000",
        "size": 4096,
        "permissions": "rw",
    }


def test_no_mapping_is_said_to_be_none(tmp_path: Path) -> None:
    state = vtd_state(tmp_path)
    assert answer(state, "--requester", "nic", "--mappings") == "nothing is mapped for 00:06.0\n"
    assert ask(state, "--requester", "nic", "--mappings")["mappings"] == []


def test_an_interrupt_that_is_not_remapped_is_sent_as_it_is(tmp_path: Path) -> None:
    words = (vtd_state(tmp_path), "--requester", "disk", "--msi", "--iova", "0xfee00000", "--data", "0x41")
    assert "00:05.0 interrupt 0x41 to 0xfee00000" in answer(*words)
    assert "=> sent as it is: 0x41 to 0xfee00000" in answer(*words)
    assert ask(*words)["outcome"] == {"kind": "interrupt", "address": "0xfee00000", "data": "0x41", "remapped": False}


@pytest.mark.parametrize(
    ("name", "shown", "kind"),
    [
        ("vtd_remapped", "VT-d", "interrupt"),
        ("vtd_posted", "posted: bit 0x41 at 0x1040", "posted"),
        ("amdvi_remapped_32_bit", "AMD-Vi 2.2.5", "interrupt"),
        ("riscv_remapped", "remapped: 0x2 to 0x28001000", "interrupt"),
    ],
)
def test_an_interrupt_is_remapped_step_by_step(tmp_path: Path, name: str, shown: str, kind: str) -> None:
    interrupts = next(interrupts for interrupts in every_interrupt() if interrupts.name == name)
    engine: Any = interrupts.make()
    (tmp_path / "memory").write_bytes(engine.memory.read(0, 4 << 20))
    text = registers_text(name.partition("_")[0], engine.registers, file="memory", format="raw")
    message = interrupts.writes[1]
    words = ("--msi", "--requester", message.requester, "--iova", message.address, "--data", message.data)
    state = write(tmp_path, text)
    assert shown in answer(state, *words)
    found = ask(state, *words)
    assert found["outcome"]["kind"] == kind
    assert found["steps"]


def test_an_access_is_explained_from_the_requests_of_a_virtio_iommu(tmp_path: Path) -> None:
    state = virtio_state(tmp_path, *MAPPED)
    text = answer(state, "--requester", "disk", "--iova", "0x4008")
    assert "virt_start=0x4000 virt_end=0x4fff phys_start=0x80000000" in text
    assert "=> translated to 0x80000008" in text
    (last,) = ask(state, "--requester", "disk", "--iova", "0xfffffffffffff000", "--write")["pieces"]
    assert last["outcome"]["code"] == "MAPPING"
    assert len(ask(state, "--requester", "disk", "--mappings")["mappings"]) == 2


def test_the_bypass_field_of_a_virtio_iommu_counts(tmp_path: Path) -> None:
    state = virtio_state(tmp_path, bypass=True)
    (piece,) = ask(state, "--requester", "00:06.0", "--iova", "0x4000")["pieces"]
    assert (piece["outcome"]["kind"], piece["outcome"]["address"]) == ("bypassed", "0x4000")


def test_every_request_of_a_virtio_iommu_is_read_as_it_was_written(tmp_path: Path) -> None:
    requests = (*MAPPED, Unmap(domain=1, virt_start=0x4000, virt_end=0x4FFF))
    bypass = Attach(domain=2, endpoint=_NIC, flags=AttachFlags.BYPASS)
    with open_state(virtio_state(tmp_path, *requests, bypass)) as state:
        assert [mapping.iova for mapping in state.engine.iter_mappings(_DISK)] == [(1 << 64) - 4096]
        assert [mapping.size for mapping in state.engine.iter_mappings(_NIC)] == [1 << 64]


def test_registers_are_read_as_they_were_written(tmp_path: Path) -> None:
    widest = (1 << 64) - 1
    with open_state(vtd_state(tmp_path, rtaddr=widest)) as state:
        registers: VtdRegisters = state.engine.registers  # type: ignore[attr-defined]
        assert registers == replace(vtd_memory()[1], rtaddr=widest)


@pytest.mark.parametrize(
    "name",
    [
        "vtd_scalable_nested_4_level_4k",
        "amdvi_v1_4_level_4k",
        "amdvi_nested_4_level_4k",
        "smmuv3_nested_64k",
        "riscv_two_stage_sv39_4k",
    ],
)
def test_an_engine_of_any_kind_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    walks = next(walks for walks in every_walk() if walks.name == name)
    engine: Any = walks.make()
    access = walks.accesses[0]
    kind = next(kind for kind, (registers, _) in ENGINES.items() if isinstance(engine.registers, registers))
    size = 16 << 20
    (tmp_path / "memory").write_bytes(engine.memory.read(0, size))
    text = registers_text(kind, engine.registers, file="memory", format="raw", regions=[Region(0, size)])
    with open_state(write(tmp_path, text)) as state:
        read: Any = state.engine
        assert read.registers == engine.registers
        explanation = read.explain(access)
    assert explanation == engine.explain(access)
    assert isinstance(explanation.outcome, Translated)
    words = [] if access.pasid is None else ["--pasid", access.pasid]
    assert "=> translated to" in answer(
        tmp_path / "state.toml", "--requester", hex(access.requester), "--iova", access.iova, *words
    )


def test_registers_that_are_left_out_are_as_their_class_has_them_and_lists_and_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(bytes(4096))
    memory = '[memory]\nfile = "memory"\nformat = "raw"\n'
    table = "[{ address = 0x1000, data = 5 }]"
    text = f'engine = "riscv"\n[registers]\ncapabilities = 0x10\nmsi_cfg_tbl = {table}\nbe_writable = true\n{memory}'
    with open_state(write(tmp_path, text)) as state:
        registers: RiscvIommuRegisters = state.engine.registers  # type: ignore[attr-defined]
    assert (registers.be_writable, registers.gxl_writable, registers.qos_id_bits) == (True, False, 12)
    assert registers.msi_cfg_tbl == (MsiTableEntry(address=0x1000, data=5, control=0),)
    for wrong, said in (("be_writable = 1", "of type bool"), ("msi_cfg_tbl = [5]", "of type dict")):
        name = wrong.partition(" ")[0]
        bad = write(tmp_path, text.replace(f"{name} = ", f"{wrong} #"))
        assert said in refusal(bad, "--requester", "1", "--iova", "0").message


# Memory.


def test_program_headers_over_each_other_are_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(elf((0x3000, b"b" * 0x1000), (0x1000, b"a" * 0x4000), (0x4000, b"c" * 0x3000)))
    first = 64 + 3 * 56
    assert sorted(elf_regions(path), key=lambda region: region.base) == [
        Region(0x1000, 0x4000, first + 0x1000),
        Region(0x5000, 0x2000, first + 0x1000 + 0x4000 + 0x1000),
    ]


def test_the_largest_run_of_memory_comes_first_and_what_has_no_address_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(elf(((1 << 64) - 1, b"x" * 0x9000), (0x1000, b"a"), (0x100000, b"a" * 0x4000), (0x2000, b"")))
    assert [(region.base, region.size) for region in elf_regions(path)] == [(0x100000, 0x4000), (0x1000, 1)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(elf((_BASE, bytes(_MEMORY)), keep=0x1000), "0x10000 bytes at 0x100000", id="memory cut off"),
        pytest.param(elf((_BASE, bytes(8)), keep=70), "headers cannot be read", id="program headers cut off"),
        pytest.param(elf((_BASE, bytes(8)), keep=20), "headers cannot be read", id="header cut off"),
        pytest.param(elf((_BASE, b""))[:39] + b"\x80" + elf((_BASE, b""))[40:], "headers cannot be read", id="at 2^63"),
        pytest.param(elf((_BASE, bytes(8)), kind=2), "ET_EXEC", id="an executable"),
        pytest.param(elf(), "no PT_LOAD", id="nothing in it"),
        pytest.param(elf((_BASE, bytes(8)), magic=b"\x7fELG"), "no ELF core", id="another magic"),
        pytest.param(b"KDUMP   " + bytes(99), "compressed by kdump", id="kdump-compressed"),
        pytest.param(b"makedumpfile\0\0\0\0", "flattened", id="flattened"),
        pytest.param(b"", "starts with nothing", id="empty"),
    ],
)
def test_a_dump_that_cannot_be_read_is_told_by_name(tmp_path: Path, data: bytes, said: str) -> None:
    error = refusal(vtd_state(tmp_path, data=data), "--requester", "disk", "--iova", "0")
    assert said in error.message
    assert str(tmp_path / "memory") in error.message


def test_a_raw_dump_that_is_truncated_is_told_by_name(tmp_path: Path) -> None:
    error = refusal(vtd_state(tmp_path, format="raw", data=bytes(0x2000)), "--requester", "disk", "--iova", "0")
    assert "0x10000 bytes at 0x100000" in error.message
    assert "truncated" in error.hint
    assert str(tmp_path / "memory") in error.message


def test_a_dump_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    for format in ("raw", "elf"):
        state = vtd_state(tmp_path, format=format)
        (tmp_path / "memory").unlink()
        assert str(tmp_path / "memory") in refusal(state, "--requester", "disk", "--iova", "0").message


def test_a_table_that_is_not_in_the_dump_is_a_fault_and_not_an_error(tmp_path: Path) -> None:
    state = vtd_state(tmp_path, rtaddr=0xDEAD000)
    assert "no memory there" in answer(state, "--requester", "disk", "--iova", "0")


# State files.


def changed(before: str, after: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert before in text
        return text.replace(before, after, 1)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed('engine = "vtd"', 'engine = "vdt"'), "engine 'vdt' is not known"),
        (changed('engine = "vtd"', ""), "has no 'engine'"),
        (changed('engine = "vtd"', "engine = 4"), "'engine' is 4, not of type str"),
        (changed('engine = "vtd"', 'engine = "vtd"\ncolour = "red"'), "has no field 'colour'"),
        (changed("rtaddr = ", "rtadr = "), "[registers] has no 'rtaddr'"),
        (changed("gsts = ", "no_such = 1\ngsts = "), "[registers] has no field 'no_such'"),
        (changed("gsts = ", 'gsts = "one" #'), "'gsts' is 'one', which is no number"),
        (changed("gsts = ", "gsts = true #"), "'gsts' is True, not of type int"),
        (changed("gsts = ", "gsts = 0x100000000 #"), "[registers]: gsts=0x100000000 is not a value of a 32-bit"),
        (changed("[registers]", "[register]"), "has no 'registers'"),
        (changed("[memory]", "[memoir]"), "has no 'memory'"),
        (changed('format = "elf"', 'format = "lime"'), "format 'lime' is not known"),
        (changed('format = "elf"', 'format = "elf"\nregions = [{base = 0, size = 4096}]'), "an ELF core says itself"),
        (changed('format = "elf"', 'format = "raw"\nregions = [{base = 0}]'), "number 1 has no 'size'"),
        (changed('format = "elf"', 'format = "raw"\nregions = [{base = 0, size = 0}]'), "no run of memory"),
        (changed('format = "elf"', 'format = "raw"\nregions = [4]'), "'regions' is 4, not of type dict"),
        (
            changed('format = "elf"', 'format = "raw"\nregions = [{base = 0, size = 9}, {base = 8, size = 9}]'),
            "overlap at 0x8",
        ),
        (changed('"disk" = "00:05.0"', '"disk" = "5"\n"x" = 3'), "[devices].x is 3"),
        (changed('"disk" = "00:05.0"', '"disk" = "00:20.0"'), "'00:20.0' is no PCI address"),
        (lambda _: "engine = ", "is not TOML"),
        (lambda _: "engine = " + "9" * 5000, "is not TOML"),
        (lambda _: "engine = " + "[" * 5000, "is not TOML"),
        (lambda _: "", "has no 'engine'"),
    ],
)
def test_a_bad_state_file_is_told_with_its_place(tmp_path: Path, change: Callable[[str], str], said: str) -> None:
    state = vtd_state(tmp_path)
    state.write_text(change(state.read_text()))
    error = refusal(state, "--requester", "disk", "--iova", "0")
    assert isinstance(error, SpecError)
    assert said in error.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed('"MAP_UNMAP"', '"MAP_ALL"'), "'MAP_ALL' is no feature"),
        (changed("page_size_mask = ", "page_size_mask = 0 #"), "page_size_mask=0x0"),
        (changed("input_range = [0x0, ", "input_range = [0x0, 0x1, "), "has 3 numbers"),
        (changed("bypass = false", "bypass = 0"), "'bypass' is 0, not of type bool"),
        (changed('kind = "MSI"', 'kind = "MSX"'), "kind 'MSX' is not known"),
        (changed('id = "00:05.0"', 'id = "5-0"'), "'5-0' is no PCI address"),
        (changed('type = "attach"', 'type = "attack"'), "[[requests]] number 1: request 'attack' is not known"),
        (changed("endpoint = 0x28", "endpoint = 0x29"), "number 1: the model answers"),
        (changed("phys_start = ", "phys_begin = "), "number 2 has no 'phys_start'"),
        (changed("domain = ", "lord = 1\ndomain = "), "number 1 has no field 'lord'"),
        (changed("[device]", "[[device]]"), "not of type dict"),
    ],
)
def test_a_bad_state_file_of_a_virtio_iommu_is_told_with_its_place(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    state = virtio_state(tmp_path, *MAPPED)
    state.write_text(change(state.read_text()))
    assert said in refusal(state, "--requester", "disk", "--iova", "0").message


def test_a_state_file_that_is_not_there_or_no_text_is_told_by_name(tmp_path: Path) -> None:
    assert "/nowhere.toml: No such file" in refusal("/nowhere.toml", "--requester", "1", "--iova", "0").message
    state = write(tmp_path, b"\xff\xfe\x00")
    assert "not a text file" in refusal(state, "--requester", "1", "--iova", "0").message


def answers_or_refuses(state: Path) -> None:
    """Whatever the files hold, there is no third thing."""
    with contextlib.suppress(HarnessError), open_state(state) as opened:
        access = Access(requester=opened.requester("disk"), iova=0x4000, length=4, kind=AccessKind.READ)
        assert str(opened.engine.explain(access))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_elf_core_with_any_bytes_of_its_headers_changed_is_read_or_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    core = bytearray(elf((_BASE, bytes(64)), (0x5000, bytes(32))))
    for _ in range(data.draw(st.integers(1, 4))):
        core[data.draw(st.integers(0, 64 + 2 * 56 - 1))] = data.draw(st.integers(0, 255))
    answers_or_refuses(vtd_state(tmp_path, data=bytes(core[: data.draw(st.integers(0, len(core)))])))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 900), to=st.text(max_size=3), length=st.integers(0, 40), virtio=st.booleans())
def test_a_state_file_with_any_piece_changed_is_read_or_refused(
    tmp_path: Path, at: int, to: str, length: int, virtio: bool
) -> None:
    state = virtio_state(tmp_path, *MAPPED) if virtio else vtd_state(tmp_path)
    text = state.read_text()
    state.write_text(text[:at] + to + text[at + length :], errors="surrogatepass")
    answers_or_refuses(state)


def test_no_answer_is_exit_code_2_with_a_hint_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["viommu", "translate", "/nowhere.toml", "--requester", "1", "--iova", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "error: state file /nowhere.toml: No such file" in told
    assert "hint:" in told
    assert "Traceback" not in told


# Options.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no --iova"),
        (("--iova", "0", "--write", "--execute"), "--write and --execute"),
        (("--iova", "0", "--mappings"), "--mappings lists all"),
        (("--iova", "0", "--msi"), "--msi without --data"),
        (("--iova", "0", "--data", "1"), "--data without --msi"),
        (("--iova", "here"), "--iova 'here' is no number"),
        (("--iova", "-1"), "do not lie in a 64-bit address space"),
        (("--iova", "0", "--pasid", "0x100000"), "not a 20-bit PASID"),
        (("--iova", "0", "--length", "0x40000000"), ""),
        (("--iova", "0", "--length", str(1 << 30)), "at most 1024 are explained"),
        (("--iova", "0", "--msi", "--data", "0x100000000"), "data have 32 bits"),
    ],
)
def test_options_that_ask_for_nothing_are_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = run(vtd_state(tmp_path), "--requester", "disk", *words)
    if said:
        assert isinstance(result.exception, HarnessError)
        assert said in result.exception.message
    else:
        assert result.exit_code == 2


def test_an_interrupt_of_an_architecture_that_remaps_none_is_refused(tmp_path: Path) -> None:
    words = ("--requester", "disk", "--msi", "--iova", "0xfee00000", "--data", "1")
    assert "no interrupt remapping of its own" in refusal(virtio_state(tmp_path, *MAPPED), *words).message


@pytest.mark.parametrize(
    ("text", "requester"),
    [("00:05.0", 0x28), ("0001:80:1f.7", 0x1_80FF), ("0x28", 0x28), ("40", 0x28), ("0xffffffff", 0xFFFF_FFFF)],
)
def test_a_requester_is_an_address_or_a_number(text: str, requester: int) -> None:
    assert parse_requester(text) == requester


@pytest.mark.parametrize("text", ["", "disc", "00:05", "-1", "0x100000000"])
def test_anything_else_is_no_requester_and_the_devices_are_named(tmp_path: Path, text: str) -> None:
    error = refusal(vtd_state(tmp_path), f"--requester={text}", "--iova", "0")
    assert f"requester {text}" in error.message.replace("'", "")
    assert "disk, nic" in error.hint
