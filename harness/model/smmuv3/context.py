"""Context descriptors: from an STE and a SubstreamID to a CD that was found good (IHI 0070 3.3.2, 5.3 and 5.4).

Choices that IHI 0070 leaves open: bits of S1ContextPtr within the size of the CD table are taken as 0 (5.2), and an
L2Ptr out of range is a C_BAD_SUBSTREAMID also in front of stage 2 (3.4.3).
"""

from __future__ import annotations

from typing import NamedTuple

from harness.model.access import MemoryWrite
from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.smmuv3.capabilities import ADDRESS_SIZES, Smmuv3Capabilities
from harness.model.smmuv3.configuration import GRANULE_OF_TG0, Context, Stream
from harness.model.smmuv3.events import Smmuv3EventClass, Smmuv3EventType
from harness.model.smmuv3.permissions import READ, stage1_rights
from harness.model.smmuv3.stages import translate_stage2
from harness.model.smmuv3.structures import CD, L1CD, STE_SIZE, shown_cd
from harness.model.smmuv3.walk import Table, WalkFault, make_table

__all__ = ["ContextBlocked", "ContextTables", "Substream", "select_substream"]

_TYPE = Smmuv3EventType
_WHOLE_ADDRESS = (1 << 64) - 1
_WITHOUT_TOP_BYTE = (1 << 56) - 1
_MOST_REMEMBERED = 1024
# log2 of the granule by CD.TG1 (5.4).
_GRANULE_OF_TG1 = (None, 14, 12, 16)
# log2 of the CDs in a level 2 table by S1Fmt.
_LEAF_BITS = {0b01: 6, 0b10: 10}


class ContextBlocked(NamedTuple):
    """Why there is no CD to work with.

    Attributes:
        event: its type.
        fetch_address: what could not be read.
    """

    event: Smmuv3EventType
    fetch_address: int = 0


class Substream(NamedTuple):
    """Which CD translates stage 1 of an access, by its index in the CD table; None where stage 1 is bypassed."""

    context: int | None


def select_substream(stream: Stream, substream_id: int | None) -> Substream | Smmuv3EventType:
    """The index of the CD, by SubstreamID, S1CDMax and S1DSS (5.2)."""
    if substream_id is not None:
        # 7.3.9: no stage 1, no substreams, or beyond S1CDMax.
        if not stream.stage1 or substream_id >> stream.context_bits or not stream.context_bits:
            return _TYPE.C_BAD_SUBSTREAMID
        # S1DSS 0b10: SubstreamID 0 is taken by transactions without one (7.3.7).
        if stream.default_substream == 0b10 and not substream_id:
            return _TYPE.F_STREAM_DISABLED
        return Substream(substream_id)
    if not stream.stage1 or not stream.context_bits:
        return _BYPASSED if not stream.stage1 else _FIRST
    if stream.default_substream == 0b01:
        return _BYPASSED
    # S1DSS 0b11 behaves as 0b00.
    return _FIRST if stream.default_substream == 0b10 else _TYPE.F_STREAM_DISABLED


_BYPASSED = Substream(None)
_FIRST = Substream(0)
_VALID = CD["V"].mask


class ContextTables:
    """Finds and checks CDs as an SMMU with these capabilities does."""

    def __init__(self, capabilities: Smmuv3Capabilities) -> None:
        self._capabilities = capabilities
        self._address_bits = capabilities.address_bits

    def find(
        self,
        memory: Memory,
        stream: Stream,
        stream_id: int,
        index: int,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> Context | ContextBlocked | WalkFault:
        """The CD at an index; where stage 2 translates, its address is an IPA (5.4.1)."""
        bits = stream.context_bits
        if not stream.context_format:
            ipa = (stream.context_pointer & -(STE_SIZE << bits)) + (index << 6)
        else:
            leaf_bits = _LEAF_BITS[stream.context_format]
            found = self._find_level2(memory, stream, stream_id, index, leaf_bits, writes, trace)
            if not isinstance(found, int):
                return found
            ipa = found + ((index & (1 << leaf_bits) - 1) << 6)
        address = self._translate(memory, stream.stage2, ipa, writes, trace)
        if isinstance(address, WalkFault):
            return address
        try:
            entry = memory.read(address, STE_SIZE)
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(f"CD [{index:#x}]", CD.section, address, note="no memory there"))
            return ContextBlocked(_TYPE.F_CD_FETCH, address)
        known = stream.contexts
        if entry in known:
            context = known[entry]
        else:
            if len(known) > _MOST_REMEMBERED:
                known.clear()
            context = known[entry] = self._decode(int.from_bytes(entry, "little"), stream)
        if trace is not None:
            value = int.from_bytes(entry, "little")
            tags = CachedEntry(kind=EntryKind.PROCESS, requester=stream_id, space=index)
            name = f"CD [{index:#x}]"
            fields, reason = shown_cd(value), "" if value & _VALID else "V"
            sought = None if context is None else _sought(context)
            trace.append(Step(name, CD.section, address, value, fields, "", STE_SIZE, tags, reason, sought))
        return ContextBlocked(_TYPE.C_BAD_CD) if context is None else context

    def _find_level2(
        self,
        memory: Memory,
        stream: Stream,
        stream_id: int,
        index: int,
        leaf_bits: int,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> int | ContextBlocked | WalkFault:
        """Address of the level 2 table that the L1CD of an index points at (5.3)."""
        size = max(8 << max(stream.context_bits - leaf_bits, 0), 64)
        ipa = (stream.context_pointer & -size) + (index >> leaf_bits << 3)
        address = self._translate(memory, stream.stage2, ipa, writes, trace)
        if isinstance(address, WalkFault):
            return address
        name = f"L1CD [{index >> leaf_bits:#x}]"
        try:
            entry = memory.read_u64(address)
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(name, L1CD.section, address, note="no memory there"))
            return ContextBlocked(_TYPE.F_CD_FETCH, address)
        if trace is not None:
            # It serves a range of SubstreamIDs, and is dropped with any one of them (4.3.3).
            first = index >> leaf_bits << leaf_bits
            last = first + (1 << leaf_bits) - 1
            tags = CachedEntry(kind=EntryKind.PROCESS, requester=stream_id, first=first, last=last)
            trace.append(Step(name, L1CD.section, address, entry, L1CD.describe(entry), cached=tags))
        pointer = L1CD["L2PTR"].get(entry)
        # 7.3.9: V 0, or an L2Ptr out of range.
        if not entry & 1 or pointer >> self._address_bits:
            return ContextBlocked(_TYPE.C_BAD_SUBSTREAMID)
        return pointer & -(STE_SIZE << leaf_bits)

    def _translate(
        self,
        memory: Memory,
        table: Table | None,
        ipa: int,
        writes: list[MemoryWrite],
        trace: list[Step] | None,
    ) -> int | WalkFault:
        """Where a CD or L1CD is: a read with CLASS CD where stage 2 translates (7.3.13)."""
        if table is None:
            return ipa
        output = translate_stage2(
            memory,
            table,
            ipa,
            READ,
            privileged=False,
            dirties=False,
            event_class=Smmuv3EventClass.CD,
            writes=writes,
            trace=trace,
        )
        return output if isinstance(output, WalkFault) else output.address

    def _decode(self, cd: int, stream: Stream) -> Context | None:
        """A CD; None where it is ILLEGAL (5.4.2)."""
        fields = dict(CD.decode(cd))
        capabilities = self._capabilities
        if not fields["V"]:
            return None
        # Stalls and aborts that the SMMU, or the STE, does not allow or forces.
        stall_model = capabilities.stall_model
        if fields["S"] and (stream.stall_disabled or stall_model == 0b01):
            return None
        if (not fields["S"] and stall_model == 0b10) or (not fields["A"] and capabilities.aborts_only):
            return None
        capabilities.check_modelled(fields["AA64"], "CD")
        if not fields["AA64"] or not capabilities.aarch64_tables:
            return None
        if (fields["HA"] or fields["HD"]) and not capabilities.hardware_access_flag:
            return None
        if fields["HD"] and not capabilities.hardware_dirty_state:
            return None
        has_asid = stream.two_privileges
        if has_asid and fields["ASID"] > 0xFF and not capabilities.wide_asids:
            return None
        # EL2's own regime has no EPDx, and no TTB1 (5.4.1).
        walks = (not fields["EPD0"] or not has_asid, has_asid and not fields["EPD1"])
        # TTENDIAN 0b10 is little-endian only, 0b11 big-endian only.
        if any(walks) and capabilities.table_endianness == (0b10 if fields["ENDI"] else 0b11):
            return None
        tables: list[Table | None] = []
        for number, walked in enumerate(walks):
            table = self._table(fields, stream, number) if walked else None
            if walked and table is None:
                return None
            tables.append(table)
        ignored = (bool(fields["TBI0"]), bool(fields["TBI1"]))
        return Context(
            tables=(tables[0], tables[1]),
            compared=(
                _WITHOUT_TOP_BYTE if ignored[0] else _WHOLE_ADDRESS,
                _WITHOUT_TOP_BYTE if ignored[1] else _WHOLE_ADDRESS,
            ),
            aborts=bool(fields["A"]),
            records=bool(fields["R"]),
            stalls=bool(fields["S"]),
        )

    def _table(self, fields: dict[str, int], stream: Stream, number: int) -> Table | None:
        """TTB0 or TTB1; None where its fields are ILLEGAL (5.4.2)."""
        capabilities = self._capabilities
        granule = (_GRANULE_OF_TG1 if number else GRANULE_OF_TG0)[fields[f"TG{number}"]]
        if granule not in capabilities.granules:
            return None
        wide = bool(fields["DS"]) and capabilities.wide_descriptors
        # TxSZ: 52 bits of input need IDR5.VAX, and a 64 KB granule or DS.
        longest = 52 if capabilities.wide_input and (granule == 16 or wide) else 48
        shortest = 25 if not capabilities.small_tables else 17 if granule == 16 else 16
        input_bits = 64 - fields[f"T{number}SZ"]
        if not shortest <= input_bits <= longest:
            return None
        output_bits = min(ADDRESS_SIZES[fields["IPS"]], self._address_bits)
        base = fields[f"TTB{number}"] << 4
        if base >> (output_bits if granule == 16 or wide else min(output_bits, 48)):
            return None
        two_privileges = stream.two_privileges
        disabled = capabilities.hierarchical_disable and fields[f"HAD{number}"]
        return make_table(
            stage=1,
            granule=granule,
            base=base,
            input_bits=input_bits,
            levels=1 + (input_bits - 1 - granule) // (granule - 3),
            large=self._address_bits == 52,
            wide=wide,
            output_bits=output_bits,
            big_endian=bool(fields["ENDI"]),
            hierarchy=0 if disabled else 0b1111,
            rights=stage1_rights(
                two_privileges=two_privileges,
                pan=two_privileges and bool(fields["PAN"]),
                enhanced_pan=capabilities.enhanced_pan and bool(fields["EPAN"]),
                write_execute_never=bool(fields["WXN"]),
            ),
            sets_access_flag=bool(fields["HA"]),
            sets_dirty_state=bool(fields["HD"]),
            ignores_access_flag=bool(fields["AFFD"]),
            domain=stream.domain,
            space=fields["ASID"] if two_privileges else None,
            region=(1 << 64) - (1 << input_bits) if number else 0,
            no_unprivileged=(capabilities.unprivileged_disable and two_privileges and bool(fields[f"E0PD{number}"])),
        )


def _sought(context: Context) -> CachedEntry | None:
    """The tags of the translations of a CD; None where it has no table."""
    table = next((table for table in context.tables if table is not None), None)
    if table is None:
        return None
    return CachedEntry(kind=EntryKind.LEAF, domain=table.domain, space=table.space, stage=1)
