"""Do the firmware's tables tell the truth? What must be stated of a platform, against what its tables say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.model.firmware.acpi import BadTable
from harness.model.firmware.facts import Facts, MustBeBehind, expected
from harness.model.firmware.table import Behind, FirmwareTable
from harness.model.firmware.tables import SIGNATURES, parse
from harness.model.pci.platform import Platform, UnitPlace
from harness.report.record import Finding

__all__ = ["check_tables"]

_CITATIONS: Mapping[str, str] = {
    "DMAR": "VT-d, chapter 8",
    "IVRS": "AMD 48882, chapter 5",
    "IORT": "Arm DEN 0049",
    "VIOT": "ACPI 6.5, Virtual I/O Translation table",
    "RIMT": "RISC-V IO Mapping Table 1.0, chapter 2",
}


def check_tables(platform: Platform, tables: Mapping[str, bytes]) -> Iterator[Finding]:
    """Everything that the tables say wrong, and everything that they leave out.

    Args:
        platform: what there is.
        tables: all ACPI tables of the machine by signature, or those of the five that it has.
    """
    facts = expected(platform)
    present = {signature: data for signature, data in tables.items() if signature in SIGNATURES}
    for signature in sorted(facts.tables.keys() ^ present.keys()):
        there = signature in present
        yield Finding(
            subject=f"ACPI table {signature}",
            expected="none: the machine has no IOMMU of that kind" if there else "the table of the machine's IOMMU",
            seen="the table" if there else "no such table",
            citation=_CITATIONS[signature],
        )
    for signature, data in sorted(present.items()):
        try:
            table = parse(signature, data)
        except BadTable as bad:
            yield Finding(
                subject=f"ACPI table {signature}",
                expected="a table that can be read",
                seen=bad.message,
                citation=_CITATIONS[signature],
                detail=_dump(data),
            )
        else:
            yield from _check(platform, facts, signature, table)


def _check(platform: Platform, facts: Facts, signature: str, table: FirmwareTable) -> Iterator[Finding]:
    units = facts.tables.get(signature, ())
    yield from _check_units(signature, units, table)
    for function in platform.tree:
        must = facts.behind[function.address]
        if must is not None and not any(must.unit.is_same(unit) for unit in units):
            must = None  # it is another table's to tell of
        seen = table.behind(platform.tree, function)
        if not _is_true(must, seen):
            yield _finding(signature, f"what stands before {function.address}", _must_be(must), _seen(seen))
    yield from _check_facts(facts, signature, table)
    reserved = table.reserved(platform.tree)
    if reserved is not None:
        for region in sorted(facts.reserved ^ reserved, key=str):
            there = region in facts.reserved
            must_be, is_seen = ("a reserved region", "none") if there else ("none", "a reserved region")
            yield _finding(signature, f"memory {region}", must_be, is_seen)


def _check_units(signature: str, units: tuple[UnitPlace, ...], table: FirmwareTable) -> Iterator[Finding]:
    """Each IOMMU is described once, and no other."""
    for stated in table.units:
        if not any(stated.is_same(unit) for unit in units):
            yield _finding(signature, "IOMMUs", "none that is not there", str(stated))
    for unit in units:
        times = sum(stated.is_same(unit) for stated in table.units)
        if times != 1:
            yield _finding(signature, "IOMMUs", f"{unit}, once", f"it is described {times} times")


def _check_facts(facts: Facts, signature: str, table: FirmwareTable) -> Iterator[Finding]:
    """What a table says of the platform as a whole, where it is for this table to say."""
    remapping = table.interrupt_remapping
    if None not in (remapping, facts.interrupt_remapping) and remapping != facts.interrupt_remapping:
        yield _finding(
            signature,
            "interrupt remapping",
            "said to be there" if facts.interrupt_remapping else "not said to be there",
            "it is" if remapping else "it is not",
        )
    bits = table.physical_address_bits
    if bits is not None and bits < facts.address_width:
        yield _finding(signature, "width of physical addresses", f"{facts.address_width} bits or more", f"{bits} bits")
    ioapics = table.ioapics
    if ioapics is not None:
        for id in sorted(ioapics - facts.ioapics):
            yield _finding(signature, f"I/O APIC {id}", "none: the machine has no such I/O APIC", "behind an IOMMU")
        if facts.interrupt_remapping:
            for id in sorted(facts.ioapics - ioapics):
                yield _finding(signature, f"I/O APIC {id}", "behind an IOMMU, which remaps its interrupts", "nowhere")


def _is_true(must: MustBeBehind | None, seen: tuple[Behind, ...]) -> bool:
    """Whether the table names that IOMMU alone, with the id that reaches it and none that cannot."""
    if must is None or len(seen) != 1:
        return must is None and not seen
    return must.unit.is_same(seen[0].unit) and must.id in seen[0].ids and seen[0].ids <= must.ids


def _finding(signature: str, subject: str, must_be: str, seen: str) -> Finding:
    return Finding(subject=f"{signature}: {subject}", expected=must_be, seen=seen, citation=_CITATIONS[signature])


def _must_be(must: MustBeBehind | None) -> str:
    return "no IOMMU" if must is None else f"{must.unit}, which knows it as {must.id:#x}"


def _seen(seen: tuple[Behind, ...]) -> str:
    words = [f"{one.unit}, which knows it as {', '.join(f'{id:#x}' for id in sorted(one.ids))}" for one in seen]
    return " and ".join(words) or "no IOMMU"


def _dump(data: bytes) -> str:
    """Bytes by offset, sixteen a line."""
    return "\n".join(f"{at:04x}  {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))
