"""Host permission tables: where translated requests may go (VT-d 4.2.4, 9.12; revision 5.0)."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues

import pytest
from reasons import assert_fault
from vtd_units import HAW, NOWHERE, PASID, RID, Unit

from harness.model.access import Access, AccessKind, AddressType, Bypassed, BypassReason, Outcome
from harness.model.invalidation import EntryKind
from harness.model.vtd import VtdFaultReason
from harness.model.vtd.build.legacy import write_entry
from harness.model.vtd.host_permissions import HOST_PERMISSION_ENTRIES
from harness.model.vtd.registers import capabilities

READ, WRITE = AccessKind.READ, AccessKind.WRITE
# Bits of an address that choose a PPi choose the entry of the table below as well.
ADDRESS = 1 << 41 | 5 << 33 | 3 << 30 | 9 << 25 | 10 << 21 | 13 << 17 | 21 << 12
INDEX = {4: 1, 3: 5, 2: 3 << 5 | 9, 1: 10 << 4 | 13}
FIELD = {3: "PP3", 2: "PP10", 1: "PP21"}
R, W = 0b01, 0b10


class Host(Unit):
    """A unit whose requester has a host permission table with an entry of each level for ADDRESS."""

    def __init__(self) -> None:
        super().__init__("second")
        self.hpt = {level: self.tables.pages.take() for level in (4, 3, 2, 1)}
        self.fields: dict[int, dict[str, int]] = {
            level: {"AV": 1, "ADDR": self.hpt[level - 1] << 64} for level in (4, 3, 2)
        }
        self.fields[1] = {"PP21": R | W}
        for level in self.hpt:
            self.set(level, {})
        self.tables.set_context_fields(RID, {"HPTE": 1})
        self.tables.set_pasid_fields(RID, {"HPTPTR": self.hpt[4] << 256})

    def set(self, level: int, fields: NamedValues[str, int]) -> None:
        """Set fields of the entry of a level."""
        self.fields[level] |= fields
        value = HOST_PERMISSION_ENTRIES[level].encode(self.fields[level])
        write_entry(self.memory, self.hpt[level] + 16 * INDEX[level], value, 16)

    def request(
        self, kind: AccessKind = READ, iova: int = ADDRESS, length: int = 4, pasid: int | None = None
    ) -> Outcome:
        return self.access(kind, iova=iova, length=length, pasid=pasid, address_type=AddressType.TRANSLATED)


@pytest.fixture
def host() -> Host:
    return Host()


def allowed(iova: int = ADDRESS) -> Bypassed:
    return Bypassed(iova, BypassReason.TRANSLATED_REQUEST)


@pytest.mark.parametrize("kind", [READ, WRITE])
def test_translated_request_with_permission_keeps_its_address_4_2_4(host: Host, kind: AccessKind) -> None:
    assert host.request(kind) == allowed()


def test_neighbouring_page_has_a_permission_of_its_own_4_2_4(host: Host) -> None:
    assert_fault(host.request(iova=ADDRESS + 0x1000), VtdFaultReason.HOST_PERMISSION_NO_READ)
    host.set(1, {"PP22": R})
    assert host.request(iova=ADDRESS + 0x1000) == allowed(ADDRESS + 0x1000)


@pytest.mark.parametrize("level", [3, 2])
def test_permission_of_a_larger_page_decides_before_the_table_below_4_2_4(host: Host, level: int) -> None:
    host.set(1, {"PP21": 0})
    host.set(level, {FIELD[level]: R})
    assert host.request() == allowed()
    assert_fault(host.request(WRITE), VtdFaultReason.HOST_PERMISSION_NO_WRITE)


@pytest.mark.parametrize("level", [4, 3, 2])
def test_entry_without_address_ends_the_walk_4_2_4(host: Host, level: int) -> None:
    host.set(level, {"AV": 0})
    assert_fault(host.request(), VtdFaultReason.HOST_PERMISSION_NO_READ)
    assert_fault(host.request(WRITE), VtdFaultReason.HOST_PERMISSION_NO_WRITE)


def test_read_without_permission_faults_with_reason_0xa5_hpt_6(host: Host) -> None:
    host.set(1, {"PP21": W})
    assert_fault(host.request(), VtdFaultReason.HOST_PERMISSION_NO_READ)
    assert host.request(WRITE) == allowed()


def test_write_without_permission_faults_with_reason_0xa4_hpt_5(host: Host) -> None:
    host.set(1, {"PP21": R})
    assert_fault(host.request(WRITE), VtdFaultReason.HOST_PERMISSION_NO_WRITE)


def test_zero_length_read_needs_any_permission_with_zlr_9_12(host: Host) -> None:
    host.set(1, {"PP21": W})
    assert host.request(length=0) == allowed()
    host.cap = capabilities(zero_length_reads=False)
    assert_fault(host.request(length=0), VtdFaultReason.HOST_PERMISSION_NO_READ)


def test_zero_length_read_without_any_permission_faults_with_reason_0xa3_hpt_4(host: Host) -> None:
    host.set(1, {"PP21": 0})
    assert_fault(host.request(length=0), VtdFaultReason.HOST_PERMISSION_NOT_FOUND)


def test_topmost_table_outside_of_memory_faults_with_reason_0xa2_hpt_3(host: Host) -> None:
    host.tables.set_pasid_fields(RID, {"HPTPTR": NOWHERE << 256})
    assert_fault(host.request(), VtdFaultReason.HOST_PERMISSION_ROOT_ACCESS)


@pytest.mark.parametrize("level", [4, 3, 2])
def test_lower_table_outside_of_memory_faults_with_reason_0xa0_hpt_1(host: Host, level: int) -> None:
    host.set(level, {"ADDR": NOWHERE << 64})
    assert_fault(host.request(), VtdFaultReason.HOST_PERMISSION_ACCESS)


@pytest.mark.parametrize(
    ("level", "fields"),
    [
        (4, {"RSVD_0": 1}),
        (4, {"RSVD_65": 1}),
        (4, {"ADDR": 1 << HAW + 64}),
        (3, {"RSVD_32": 1}),
        (3, {"PP0": 0b100}),
        (2, {"PP15": 0b1000}),
        (1, {"PP21": 0b100}),
    ],
)
def test_reserved_field_of_an_entry_faults_with_reason_0xa1_hpt_2(
    host: Host, level: int, fields: dict[str, int]
) -> None:
    host.set(level, fields)
    assert_fault(host.request(), VtdFaultReason.HOST_PERMISSION_RESERVED)


def test_permission_for_a_gigabyte_is_reserved_without_hpt1gps_9_12_2(host: Host) -> None:
    host.set(3, {"PP3": R})
    assert host.request() == allowed()
    host.lacks("host_permission_1g_pages")
    assert_fault(host.request(), VtdFaultReason.HOST_PERMISSION_RESERVED)


def test_address_beyond_the_table_faults_with_reason_0x60_spt_9(host: Host) -> None:
    host.width = 52
    assert_fault(host.request(iova=1 << 49), VtdFaultReason.BEYOND_HOST_PERMISSIONS)
    host.tables.set_pasid_fields(RID, {"HPTSZ": 1})
    assert_fault(host.request(iova=1 << 49), VtdFaultReason.HOST_PERMISSION_NO_READ)
    assert_fault(host.request(iova=1 << 50), VtdFaultReason.BEYOND_HOST_PERMISSIONS)


def test_topmost_table_has_an_entry_for_each_2_tib_9_12_1(host: Host) -> None:
    # HPTSZ 1: 512 entries of 16 bytes, in two pages.
    host.width = 52
    top = host.tables.pages.take(0x2000)
    host.tables.set_pasid_fields(RID, {"HPTPTR": top << 256, "HPTSZ": 1})
    entry = HOST_PERMISSION_ENTRIES[4].encode({"AV": 1, "ADDR": host.hpt[3] << 64})
    for number in (16, 256 + 1):
        write_entry(host.memory, top + 16 * number, entry, 16)
        iova = number << 41 | ADDRESS & (1 << 41) - 1
        assert host.request(iova=iova) == allowed(iova)
    # The entry that leads on gives no right by itself: bit 64 is AV, not a PPi.
    host.set(1, {"PP21": 0})
    assert_fault(host.request(iova=16 << 41 | ADDRESS & (1 << 41) - 1), VtdFaultReason.HOST_PERMISSION_NO_READ)


def test_request_with_pasid_is_checked_by_the_table_of_its_pasid_6_2_6(host: Host) -> None:
    host.attach("second", PASID)
    host.tables.set_context_fields(RID, {"EPTR": 1})
    assert_fault(host.request(pasid=PASID), VtdFaultReason.HOST_PERMISSION_NO_READ)
    host.tables.set_pasid_fields(RID, {"HPTPTR": host.hpt[4] << 256}, PASID)
    assert host.request(pasid=PASID) == allowed()


def test_absent_pasid_entry_blocks_translated_requests_only_with_hpte_spt_2(host: Host) -> None:
    host.tables.set_pasid_fields(RID, {"P": 0})
    assert_fault(host.request(), VtdFaultReason.PASID_TABLE_NOT_PRESENT)
    host.tables.set_context_fields(RID, {"HPTE": 0})
    assert host.request() == allowed()


def test_untranslated_requests_do_not_look_at_the_table(host: Host) -> None:
    host.set(4, {"RSVD_0": 1})
    assert not isinstance(host.access(), Bypassed)
    assert host.access() == Unit("second").access()


def test_explanation_shows_the_entries_of_the_table(host: Host) -> None:
    access = Access(requester=RID, iova=ADDRESS, length=4, kind=READ, address_type=AddressType.TRANSLATED)
    steps = host.engine.explain(access).steps
    assert [step.what for step in steps[-4:]] == ["HPTL4E", "HPTL3E", "HPTL2E", "HPTL1E"]
    assert [step.address for step in steps[-4:]] == [host.hpt[level] + 16 * INDEX[level] for level in (4, 3, 2, 1)]
    values = [int.from_bytes(host.memory.read(step.address or 0, 16), "little") for step in steps[-4:]]
    assert [(step.value, step.size) for step in steps[-4:]] == [(value, 16) for value in values]


def test_explanation_ends_where_memory_does(host: Host) -> None:
    host.set(3, {"ADDR": NOWHERE << 64})
    access = Access(requester=RID, iova=ADDRESS, length=4, kind=READ, address_type=AddressType.TRANSLATED)
    last = host.engine.explain(access).steps[-1]
    assert (last.address, last.value, last.size) == (NOWHERE + 16 * INDEX[2], None, 16)


def test_explanation_shows_the_pasid_entries_with_the_tags_of_the_requester_6_2_1(host: Host) -> None:
    access = Access(requester=RID, iova=ADDRESS, length=4, kind=READ, address_type=AddressType.TRANSLATED)
    tags = [step.cached for step in host.engine.explain(access).steps]
    assert [tag.requester for tag in tags if tag is not None and tag.kind is EntryKind.PROCESS] == [RID, RID]
