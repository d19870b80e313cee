"""The stream table: from a StreamID to an STE that was found good (IHI 0070 3.3.1, 5.1 and 5.2).

Choices that IHI 0070 leaves open: an STE beyond the OAS is an F_STE_FETCH, a stage 1 context pointer out of range makes
the STE ILLEGAL also in front of stage 2 (3.4.3), EATS 0b01 with S2S 1 is ILLEGAL only where stage 2 translates (5.2),
and the stream table is aligned to the size that the effective LOG2SIZE gives it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from harness.model.explanation import Step
from harness.model.invalidation import CachedEntry, EntryKind
from harness.model.memory import Memory, OutsideMemory
from harness.model.smmuv3.capabilities import ADDRESS_SIZES
from harness.model.smmuv3.configuration import GRANULE_OF_TG0, Stream, StreamWorld
from harness.model.smmuv3.events import Smmuv3EventType
from harness.model.smmuv3.permissions import stage2_rights
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.smmuv3.structures import L1STD, STE, STE_SIZE, shown_ste
from harness.model.smmuv3.walk import Table, make_table

__all__ = ["EL2_DOMAIN", "Config", "StreamBlocked", "StreamTable"]

_TYPE = Smmuv3EventType
_MOST_REMEMBERED = 4096

EL2_DOMAIN = 1 << 16
"""Stands for "no VMID, the NS-EL2 regimes" where caches are tagged: no VMID has this value."""


class Config(IntEnum):
    """STE.Config; values with bit 2 clear behave as ABORT (5.2)."""

    ABORT = 0b000
    BYPASS = 0b100
    STAGE1 = 0b101
    STAGE2 = 0b110
    NESTED = 0b111


class StreamBlocked(NamedTuple):
    """Why there is no STE to work with, where its fetch failed, and which field of it is ILLEGAL."""

    event: Smmuv3EventType
    fetch_address: int = 0
    reason: str = ""


class StreamTable:
    """Finds and checks STEs as an SMMU with these registers does."""

    def __init__(self, registers: Smmuv3Registers) -> None:
        self._registers = registers
        self._table = registers.stream_table
        self._bits = registers.stream_table_bits
        self._split = registers.split_bits
        self._address_bits = registers.capabilities.address_bits
        # Whether an STE is good, and what it means, depends on its bytes and the registers alone.
        self._known: dict[bytes, Stream | StreamBlocked] = {}

    def find(self, memory: Memory, stream_id: int, trace: list[Step] | None) -> Stream | StreamBlocked:
        """The STE of a StreamID, or why there is none."""
        # 7.3.3: StreamIDs from 2^LOG2SIZE on are out of range.
        if stream_id >> self._bits:
            return StreamBlocked(_TYPE.C_BAD_STREAMID)
        if self._split is None:
            address = self._table + (stream_id << 6)
        else:
            found = self._find_level2(memory, stream_id, self._split, trace)
            if isinstance(found, StreamBlocked):
                return found
            address = found
        if address + STE_SIZE > 1 << self._address_bits:
            return StreamBlocked(_TYPE.F_STE_FETCH, address)
        try:
            entry = memory.read(address, STE_SIZE)
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(f"STE [{stream_id:#x}]", STE.section, address, note="no memory there"))
            return StreamBlocked(_TYPE.F_STE_FETCH, address)
        stream = self._known.get(entry)
        if stream is None:
            if len(self._known) > _MOST_REMEMBERED:
                self._known.clear()
            stream = self._known[entry] = self._decode(int.from_bytes(entry, "little"))
        if trace is not None:
            value = int.from_bytes(entry, "little")
            # An STE may be cached in any state (5.2.1).
            domain, reason = (stream.domain, "") if isinstance(stream, Stream) else (None, stream.reason)
            tags = CachedEntry(kind=EntryKind.DEVICE, requester=stream_id, domain=domain)
            name = f"STE [{stream_id:#x}]"
            fields, sought = shown_ste(value), _sought(stream)
            trace.append(Step(name, STE.section, address, value, fields, "", STE_SIZE, tags, reason, sought))
        return stream

    def _find_level2(self, memory: Memory, stream_id: int, split: int, trace: list[Step] | None) -> int | StreamBlocked:
        """Address of the STE in the level 2 array that the L1STD of a StreamID points at (5.1)."""
        address = self._table + (stream_id >> split << 3)
        name = f"L1STD [{stream_id >> split:#x}]"
        if address + 8 > 1 << self._address_bits:
            return StreamBlocked(_TYPE.F_STE_FETCH, address)
        try:
            entry = memory.read_u64(address)
        except OutsideMemory:
            if trace is not None:
                trace.append(Step(name, L1STD.section, address, note="no memory there"))
            return StreamBlocked(_TYPE.F_STE_FETCH, address)
        if trace is not None:
            tags = CachedEntry(kind=EntryKind.DEVICE, requester=stream_id)
            trace.append(Step(name, L1STD.section, address, entry, L1STD.describe(entry), cached=tags))
        # 7.3.3: Span 0, reserved or above SPLIT + 1, or a StreamID beyond 2^(Span - 1).
        span = entry & 0x1F
        index = stream_id & (1 << split) - 1
        if not span or span > split + 1 or index >> span - 1:
            return StreamBlocked(_TYPE.C_BAD_STREAMID)
        # The array is aligned to its size: L2Ptr[5 + Span - 1:0] is taken as 0.
        return (L1STD["L2PTR"].get(entry) & -(STE_SIZE << span - 1)) + (index << 6)

    def _decode(self, ste: int) -> Stream | StreamBlocked:
        fields = dict(STE.decode(ste))
        capabilities = self._registers.capabilities
        if not fields["V"]:
            return _illegal("V")
        config = fields["CONFIG"]
        if not config & Config.BYPASS:
            return _ABORTS
        stage1, stage2 = bool(config & 0b001), bool(config & 0b010)
        # 5.2.2: a stage that is not there.
        if (stage1 and not capabilities.stage1) or (stage2 and not capabilities.stage2):
            return _illegal("CONFIG")
        ats = self._effective_ats(fields)
        if ats is None:
            return _illegal("EATS")
        # STRW counts only with stage 1 alone, on an SMMU with EL2 (5.2.2, IgnoreSTESTRW).
        world = StreamWorld.EL1
        if config == Config.STAGE1 and capabilities.el2_streams:
            if fields["STRW"] & 0b01:
                return _illegal("STRW")
            if fields["STRW"]:
                world = StreamWorld.EL2_HOST if self._registers.el2_host else StreamWorld.EL2
        if stage1 and (wrong := self._wrong_stage1(fields)):
            return _illegal(wrong)
        # S2VMID is ignored without stage 2 in the SMMU, in EL2, and where nothing translates (IgnoreSTES2VMID).
        domain = 0
        if world is not StreamWorld.EL1:
            domain = EL2_DOMAIN
        elif capabilities.stage2 and config != Config.BYPASS:
            domain = fields["S2VMID"]
            if domain > 0xFF and not capabilities.wide_vmids:
                return _illegal("S2VMID")
        table = None
        if stage2:
            found = self._stage2_table(fields, domain)
            if isinstance(found, str):
                return _illegal(found)
            table = found
        overrides = capabilities.permission_overrides
        substreams = bool(capabilities.substream_id_bits and fields["S1CDMAX"])
        return Stream(
            aborts=False,
            stage1=stage1,
            stage2=table,
            world=world,
            domain=domain,
            context_pointer=fields["S1CONTEXTPTR"],
            # S1Fmt 0b11 behaves as 0b00 (5.2).
            context_format=fields["S1FMT"] % 3 if substreams else 0,
            context_bits=fields["S1CDMAX"] if substreams else 0,
            default_substream=fields["S1DSS"],
            ats=ats,
            privileged=_override(fields["PRIVCFG"]) if overrides else None,
            instruction=_override(fields["INSTCFG"]) if overrides else None,
            stalls=bool(stage2 and fields["S2S"]),
            records=bool(stage2 and fields["S2R"]),
            stall_disabled=bool(fields["S1STALLD"]),
            merges=bool(fields["MEV"]),
            contexts={},
        )

    def _effective_ats(self, fields: dict[str, int]) -> int | None:
        """EATS as it counts (5.2); None where it is ILLEGAL (5.2.2)."""
        capabilities = self._registers.capabilities
        config, ats = fields["CONFIG"], fields["EATS"]
        if not capabilities.ats or config == Config.BYPASS:
            return 0b00
        if ats == 0b01:
            return None if config & 0b010 and fields["S2S"] else ats
        if ats == 0b10:
            if config != Config.NESTED or fields["S2S"] or not capabilities.split_stage_ats:
                return None
            return ats if self._registers.checks_translated else 0b00
        # 0b11 needs a Device Permission Table, and behaves as 0b00 without one.
        return 0b00

    def _wrong_stage1(self, fields: dict[str, int]) -> str:
        """The field of stage 1 that is ILLEGAL (5.2.2); nothing where none is."""
        capabilities = self._registers.capabilities
        if fields["S1STALLD"] and capabilities.stall_model in (0b01, 0b10):
            return "S1STALLD"
        if capabilities.substream_id_bits and fields["S1CDMAX"]:
            if fields["S1CDMAX"] > capabilities.substream_id_bits:
                return "S1CDMAX"
            if fields["S1FMT"] in (0b01, 0b10) and not capabilities.two_level_contexts:
                return "S1FMT"
        # 3.4.3: beyond the OAS, or in front of stage 2 beyond the IAS, which is the same here.
        return "S1CONTEXTPTR" if fields["S1CONTEXTPTR"] >> self._address_bits else ""

    def _stage2_table(self, fields: dict[str, int], domain: int) -> Table | str:
        """The stage 2 table; or the field that is ILLEGAL (5.2.2)."""
        capabilities = self._registers.capabilities
        stall_model = capabilities.stall_model
        if (stall_model == 0b01 and fields["S2S"]) or (stall_model == 0b10 and not fields["S2S"]):
            return "S2S"
        capabilities.check_modelled(fields["S2AA64"], "STE")
        if not fields["S2AA64"] or not capabilities.aarch64_tables:
            return "S2AA64"
        if (fields["S2HA"] or fields["S2HD"]) and not capabilities.hardware_access_flag:
            return "S2HA"
        if fields["S2HD"] and not capabilities.hardware_dirty_state:
            return "S2HD"
        # TTENDIAN 0b10 is little-endian only, 0b11 big-endian only.
        if capabilities.table_endianness == (0b10 if fields["S2ENDI"] else 0b11):
            return "S2ENDI"
        granule = GRANULE_OF_TG0[fields["S2TG"]]
        if granule not in capabilities.granules:
            return "S2TG"
        wide = bool(fields["S2DS"]) and capabilities.wide_descriptors
        large = self._address_bits == 52
        output_bits = min(ADDRESS_SIZES[fields["S2PS"]], self._address_bits)
        base = fields["S2TTB"] << 4
        if base >> (output_bits if granule == 16 or wide else min(output_bits, 48)):
            return "S2TTB"
        input_bits = 64 - fields["S2T0SZ"]
        longest = min(52 if granule == 16 or wide else 48, self._address_bits)
        shortest = 25 if not capabilities.small_tables else 17 if granule == 16 else 16
        levels = self._stage2_levels(fields, granule, wide=wide)
        if not shortest <= input_bits <= longest or levels is None:
            return "S2T0SZ"
        # DDI 0487 D8, S2InconsistentSL: at least one bit for the topmost table, at most 16 tables side by side.
        stride = granule - 3
        least = (levels - 1) * stride + granule + 1
        if not least <= input_bits <= least + stride - 1 + 4:
            return "S2SL0"
        device_mask = 0
        if fields["S2PTW"] and fields["CONFIG"] == Config.NESTED:
            # MemAttr[3:2] is 0 in device memory; with S2FWB, MemAttr[2] alone.
            device_mask = 0x10 if fields["S2FWB"] and capabilities.forced_write_back else 0x30
        return make_table(
            stage=2,
            granule=granule,
            base=base,
            input_bits=input_bits,
            levels=levels,
            large=large,
            wide=wide,
            output_bits=output_bits,
            big_endian=bool(fields["S2ENDI"]),
            hierarchy=0,
            rights=stage2_rights(by_privilege=capabilities.execute_never_by_privilege),
            sets_access_flag=bool(fields["S2HA"]),
            sets_dirty_state=bool(fields["S2HD"]),
            ignores_access_flag=bool(fields["S2AFFD"]),
            domain=domain,
            device_mask=device_mask,
        )

    def _stage2_levels(self, fields: dict[str, int], granule: int, *, wide: bool) -> int | None:
        """Number of levels that S2SL0 asks for; None for a reserved one (DDI 0487 D8, S2InvalidSL)."""
        start = fields["S2SL0"] | (fields["S2SL0_2"] << 2 if wide and granule == 12 else 0)
        small = self._registers.capabilities.small_tables
        # Levels, and the least OAS that has a use for them.
        if granule == 12:
            known = {0: (2, 0), 1: (3, 0), 2: (4, 44), 3: (1, 0 if small else 64), 4: (5, 52)}
        elif granule == 14:
            known = {0: (1, 0), 1: (2, 0), 2: (3, 42), 3: (4, 0 if wide else 64)}
        else:
            known = {0: (1, 0), 1: (2, 0), 2: (3, 44)}
        levels, least = known.get(start, (0, 64))
        return levels if self._address_bits >= least else None


_ABORTS = Stream(
    aborts=True,
    stage1=False,
    stage2=None,
    world=StreamWorld.EL1,
    domain=0,
    context_pointer=0,
    context_format=0,
    context_bits=0,
    default_substream=0,
    ats=0,
    privileged=None,
    instruction=None,
    stalls=False,
    records=False,
    stall_disabled=False,
    merges=False,
    contexts={},
)


def _sought(stream: Stream | StreamBlocked) -> CachedEntry | None:
    """The tags of the translations of an STE with stage 2 alone; with stage 1 its CD tells them."""
    if isinstance(stream, StreamBlocked) or stream.stage1 or stream.stage2 is None:
        return None
    return CachedEntry(kind=EntryKind.LEAF, domain=stream.domain, stage=2)


def _illegal(field: str) -> StreamBlocked:
    return StreamBlocked(_TYPE.C_BAD_STE, reason=field)


def _override(value: int) -> bool | None:
    """PRIVCFG or INSTCFG: 0b10 clears the attribute, 0b11 sets it, others use the incoming one (5.2)."""
    return bool(value & 1) if value & 0b10 else None
