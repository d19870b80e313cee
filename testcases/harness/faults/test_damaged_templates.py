"""Templates whose files are not what was saved: noticed before a machine is started from them, told, and made again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from copied_templates import CopiedTemplates
from faults_rig import PLAIN, told

from harness.artifacts.cache import Cache
from harness.errors import VmmDied, VmmStartError
from harness.lab import Lab
from harness.spec import Iommu, IommuKind, Machine
from harness.verdict import Verdict
from harness.warm.lease import Leases
from harness.warm.shape import template_of
from harness.warm.store import FILES, Entry, File, Store, look

_PAGE = 4096
_OTHER = Machine(iommu=Iommu(kind=IommuKind.INTEL))


@pytest.fixture
def entry(copied: CopiedTemplates) -> Entry:
    """The template of `PLAIN`, which nobody has used yet."""
    with copied.template(template_of(PLAIN)) as entry:
        return entry


@pytest.fixture(scope="session")
def other_state(leases: Leases) -> bytes:
    """The state of a machine with another IOMMU."""
    with leases.template(template_of(_OTHER)) as entry:
        return entry.file("state").read_bytes()


@pytest.fixture(scope="session")
def other_build() -> Leases:
    """Machines of another QEMU build, whose templates are in the shared cache too."""
    return Leases(Lab.open(qemu="sid"), Store(Cache()))


def _halve(file: Path, other: bytes) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _change_a_page(file: Path, other: bytes) -> None:
    """Flip one bit where there is something."""
    with file.open("r+b", buffering=0) as opened:
        position = os.lseek(opened.fileno(), file.stat().st_size // 4, os.SEEK_DATA)
        (byte,) = os.pread(opened.fileno(), 1, position)
        os.pwrite(opened.fileno(), bytes([byte ^ 1]), position)


_OTHER_SIZE = r"has \d+ bytes and not \d+"
_DAMAGES: dict[str, tuple[str, Callable[[Path, bytes], object], str]] = {
    "memory cut short": ("ram", _halve, _OTHER_SIZE),
    "page of memory changed": ("ram", _change_a_page, "is not as it was saved"),
    "state cut short": ("state", _halve, _OTHER_SIZE),
    "state of another machine": ("state", Path.write_bytes, _OTHER_SIZE),
}


@pytest.mark.parametrize("kind", _DAMAGES)
def test_damage_is_told_and_the_template_made_again_before_anything_is_started(
    copied: CopiedTemplates, entry: Entry, other_state: bytes, kind: str
) -> None:
    name, damage, says = _DAMAGES[kind]
    damage(entry.file(name), other_state)
    with copied.start(PLAIN) as live:
        assert live.guest.run("echo up").stdout == "up\n"
        assert live.guest.problems == ()
    assert copied.made == 2
    assert re.fullmatch(f"a template is made again: {entry.file(name)} {says}", copied.said[1]), copied.said


def test_template_of_another_machine_under_this_ones_key_is_not_used(copied: CopiedTemplates, entry: Entry) -> None:
    with copied.template(template_of(_OTHER)) as other:
        other.directory.rename(entry.directory.rename(entry.directory.with_name("old")).with_name(entry.manifest.key))
    with copied.start(PLAIN) as live:
        assert live.origin == f"started from template {entry.manifest.key}"
        assert live.vmm.qmp.execute("qom-get", {"path": "/machine/peripheral/iommu.0", "property": "type"}) == (
            "virtio-iommu-pci"
        )
    assert copied.made == 3


def test_state_of_another_machine_that_passes_for_this_ones_is_nobodys_finding(
    copied: CopiedTemplates, entry: Entry, other_state: bytes
) -> None:
    entry.file("state").write_bytes(other_state)
    _pass_off(entry)
    with told(VmmStartError, Verdict.MISS, "QEMU"), copied.start(PLAIN):
        pass
    assert copied.made == 1


def test_builds_have_templates_of_their_own(leases: Leases, other_build: Leases) -> None:
    assert leases.key(template_of(PLAIN)) != other_build.key(template_of(PLAIN))


def test_state_of_another_build_that_passes_for_this_ones_is_nobodys_finding(
    copied: CopiedTemplates, entry: Entry, other_build: Leases
) -> None:
    with other_build.template(template_of(PLAIN)) as other:
        entry.file("state").write_bytes(other.file("state").read_bytes())
    _pass_off(entry)
    with told(VmmStartError, Verdict.MISS, "QEMU"), copied.start(PLAIN):
        pass
    assert copied.made == 1


def test_memory_cut_short_under_a_machine_that_runs_is_nobodys_finding(copied: CopiedTemplates, entry: Entry) -> None:
    with copied.start(PLAIN) as live:
        end = entry.file("ram").stat().st_size
        os.truncate(entry.file("ram"), 0)
        with told(VmmDied, Verdict.MISS, "SIGBUS"):
            live.vmm.memory.read(end - _PAGE, _PAGE)


def _pass_off(entry: Entry) -> None:
    """Write a manifest by which all files of a template are as they were saved."""
    files: dict[str, File] = {name: look(entry.file(name)) for name in FILES}
    manifest = msgspec.structs.replace(entry.manifest, files=files)
    (entry.directory / "template.json").write_bytes(msgspec.json.encode(manifest))
