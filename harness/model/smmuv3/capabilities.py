"""What an SMMU can do, as its registers SMMU_IDR0 to SMMU_IDR5 say (IHI 0070, 6.3.1 to 6.3.6).

Some features of SMMUv3.2 and later are not modelled. An SMMU that announces one is judged as if it did not, so that the
fields that would enable the feature are reserved or ignored as on an SMMU without it; `Smmuv3Capabilities.unmodelled`
names those that are announced. VMSAv8-32 tables are the exception: nothing else tells what they translate, so that an
STE or CD that selects them, where the SMMU has them, is `NotModelled`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import SpecError
from harness.model.engine import NotModelled
from harness.model.smmuv3.id_registers import IDR0, IDR1, IDR3, IDR5

__all__ = ["ADDRESS_SIZES", "Smmuv3Capabilities", "capabilities"]

ADDRESS_SIZES = (32, 36, 40, 42, 44, 48, 52, 52)
"""Bits, by the encoding of IDR5.OAS, CD.IPS and STE.S2PS; 0b111 needs 128-bit descriptors, and is 52 without them."""

# Features that change what an access leads to and that the model does not have.
_UNMODELLED = ((IDR3, 3, ("DPT", "PASIDTT", "S1PI", "S2PI", "S2PO", "THE", "MPAM")), (IDR5, 5, ("D128",)))
_GRANULES = ((12, "GRAN4K"), (14, "GRAN16K"), (16, "GRAN64K"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Smmuv3Capabilities:
    """The capability registers of one SMMU, and what they mean.

    Attributes:
        idr0: SMMU_IDR0.
        idr1: SMMU_IDR1.
        idr3: SMMU_IDR3.
        idr5: SMMU_IDR5.

    Raises:
        SpecError: a value is wider than its register.
    """

    idr0: int
    idr1: int
    idr3: int
    idr5: int

    def __post_init__(self) -> None:
        for name in ("idr0", "idr1", "idr3", "idr5"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 32:
                raise SpecError(f"{name}={value:#x} is not a value of a 32-bit register")

    @property
    def stage1(self) -> bool:
        """IDR0.S1P."""
        return bool(IDR0["S1P"].get(self.idr0))

    @property
    def stage2(self) -> bool:
        """IDR0.S2P."""
        return bool(IDR0["S2P"].get(self.idr0))

    @property
    def aarch64_tables(self) -> bool:
        """IDR0.TTF[1]: VMSAv8-64 tables, the only ones that are modelled."""
        return bool(IDR0["TTF"].get(self.idr0) & 0b10)

    def check_modelled(self, aa64: int, what: str) -> None:
        """Refuse an STE or CD that selects VMSAv8-32 tables on an SMMU that has them.

        Args:
            aa64: its S2AA64 or AA64.
            what: its name.

        Raises:
            NotModelled: it does.
        """
        if not aa64 and IDR0["TTF"].get(self.idr0) & 0b01:
            raise NotModelled(
                f"the {what} selects VMSAv8-32 tables, which this SMMU has (IDR0.TTF) and the model does not",
                hint="nothing can be said of what it translates",
            )

    @property
    def hardware_access_flag(self) -> bool:
        """IDR0.HTTU: the Access flag can be set by the SMMU."""
        return IDR0["HTTU"].get(self.idr0) >= 1

    @property
    def hardware_dirty_state(self) -> bool:
        """IDR0.HTTU: pages can be marked dirty by the SMMU."""
        return IDR0["HTTU"].get(self.idr0) >= 2

    @property
    def el2_streams(self) -> bool:
        """IDR0.HYP: streams can belong to the NS-EL2 and NS-EL2-E2H StreamWorlds."""
        return bool(IDR0["HYP"].get(self.idr0))

    @property
    def ats(self) -> bool:
        """IDR0.ATS."""
        return bool(IDR0["ATS"].get(self.idr0))

    @property
    def split_stage_ats(self) -> bool:
        """STE.EATS 0b10 is there: IDR0.NS1ATS is 0."""
        return not IDR0["NS1ATS"].get(self.idr0)

    @property
    def pri(self) -> bool:
        """IDR0.PRI."""
        return bool(IDR0["PRI"].get(self.idr0))

    @property
    def msi(self) -> bool:
        """IDR0.MSI: the SMMU can send its own interrupts as messages."""
        return bool(IDR0["MSI"].get(self.idr0))

    @property
    def vmid_wildcards(self) -> bool:
        """IDR0.VMW."""
        return bool(IDR0["VMW"].get(self.idr0))

    @property
    def wide_asids(self) -> bool:
        """IDR0.ASID16: 16 bits instead of 8."""
        return bool(IDR0["ASID16"].get(self.idr0))

    @property
    def wide_vmids(self) -> bool:
        """IDR0.VMID16: 16 bits instead of 8."""
        return bool(IDR0["VMID16"].get(self.idr0))

    @property
    def two_level_contexts(self) -> bool:
        """IDR0.CD2L."""
        return bool(IDR0["CD2L"].get(self.idr0))

    @property
    def two_level_streams(self) -> bool:
        """IDR0.ST_LEVEL; its reserved values are taken as 0b01."""
        return bool(IDR0["ST_LEVEL"].get(self.idr0))

    @property
    def table_endianness(self) -> int:
        """IDR0.TTENDIAN: 0b10 little only, 0b11 big only, otherwise both."""
        return IDR0["TTENDIAN"].get(self.idr0)

    @property
    def stall_model(self) -> int:
        """IDR0.STALL_MODEL: 0b00 stall or terminate, 0b01 no stalls, 0b10 stalls only (0b11 is taken as 0b00)."""
        return IDR0["STALL_MODEL"].get(self.idr0)

    @property
    def aborts_only(self) -> bool:
        """IDR0.TERM_MODEL: a terminated transaction always aborts, CD.A must be 1."""
        return bool(IDR0["TERM_MODEL"].get(self.idr0))

    @property
    def stream_id_bits(self) -> int:
        """IDR1.SIDSIZE, at most 32."""
        return min(IDR1["SIDSIZE"].get(self.idr1), 32)

    @property
    def substream_id_bits(self) -> int:
        """IDR1.SSIDSIZE, at most 20."""
        return min(IDR1["SSIDSIZE"].get(self.idr1), 20)

    @property
    def command_queue_bits(self) -> int:
        """IDR1.CMDQS, at most 19."""
        return min(IDR1["CMDQS"].get(self.idr1), 19)

    @property
    def event_queue_bits(self) -> int:
        """IDR1.EVENTQS, at most 19."""
        return min(IDR1["EVENTQS"].get(self.idr1), 19)

    @property
    def permission_overrides(self) -> bool:
        """IDR1.ATTR_PERMS_OVR: STE.PRIVCFG and INSTCFG are there."""
        return bool(IDR1["ATTR_PERMS_OVR"].get(self.idr1))

    @property
    def hierarchical_disable(self) -> bool:
        """IDR3.HAD: CD.HAD0 and HAD1 are there."""
        return bool(IDR3["HAD"].get(self.idr3))

    @property
    def execute_never_by_privilege(self) -> bool:
        """IDR3.XNX: stage 2 tells privileged from unprivileged execution."""
        return bool(IDR3["XNX"].get(self.idr3))

    @property
    def forced_write_back(self) -> bool:
        """IDR3.FWB: STE.S2FWB is there."""
        return bool(IDR3["FWB"].get(self.idr3))

    @property
    def small_tables(self) -> bool:
        """IDR3.STT: TxSZ above 39."""
        return bool(IDR3["STT"].get(self.idr3))

    @property
    def range_invalidation(self) -> bool:
        """IDR3.RIL."""
        return bool(IDR3["RIL"].get(self.idr3))

    @property
    def unprivileged_disable(self) -> bool:
        """IDR3.E0PD: CD.E0PD0 and E0PD1 are there."""
        return bool(IDR3["E0PD"].get(self.idr3))

    @property
    def enhanced_pan(self) -> bool:
        """IDR3.EPAN: CD.EPAN is there."""
        return bool(IDR3["EPAN"].get(self.idr3))

    @property
    def address_bits(self) -> int:
        """OAS in bits; IAS is the same, VMSAv8-32 tables being left out (3.4)."""
        return ADDRESS_SIZES[IDR5["OAS"].get(self.idr5)]

    @property
    def granules(self) -> frozenset[int]:
        """log2 of each translation granule."""
        return frozenset(shift for shift, name in _GRANULES if IDR5[name].get(self.idr5))

    @property
    def wide_descriptors(self) -> bool:
        """IDR5.DS: 52-bit addresses with 4 KB and 16 KB granules (CD.DS, STE.S2DS)."""
        return bool(IDR5["DS"].get(self.idr5))

    @property
    def wide_input(self) -> bool:
        """IDR5.VAX: up to 52 bits of virtual address for each table."""
        return IDR5["VAX"].get(self.idr5) in (0b01, 0b10)

    @property
    def unmodelled(self) -> tuple[str, ...]:
        """Features announced that the model does not have: their absence is assumed."""
        announced = [
            f"IDR{number}.{name}"
            for layout, number, names in _UNMODELLED
            for name in names
            if layout[name].get(self.idr3 if number == 3 else self.idr5)
        ]
        if IDR0["TTF"].get(self.idr0) & 1:
            announced.append("IDR0.TTF[0] (VMSAv8-32 tables)")
        if IDR0["HTTU"].get(self.idr0) == 3:
            announced.append("IDR0.HTTU=0b11 (Access flag of Table descriptors)")
        return tuple(announced)


def capabilities(
    *,
    stages: frozenset[int] = frozenset({1, 2}),
    address_bits: int = 48,
    granules: frozenset[int] = frozenset({12, 14, 16}),
    stream_id_bits: int = 16,
    substream_id_bits: int = 20,
    **fields: int,
) -> Smmuv3Capabilities:
    """Capability registers that say so: the mirror image of the properties of `Smmuv3Capabilities`.

    An SMMUv3.2 with two-level tables, 16-bit identifiers, range invalidation, permission overrides, hardware update of
    flags, stalls where they are asked for and little-endian tables, when nothing else is said.

    Args:
        stages: that translate.
        address_bits: OAS.
        granules: log2 of each.
        stream_id_bits: SIDSIZE.
        substream_id_bits: SSIDSIZE.
        fields: any other field of `IDR0`, `IDR1`, `IDR3` or `IDR5`, by its name.

    Raises:
        SpecError: no such field, or a value that it cannot hold.
    """
    wanted = {
        "S1P": int(1 in stages),
        "S2P": int(2 in stages),
        "TTF": 0b10,
        "HTTU": 0b10,
        "ASID16": 1,
        "VMID16": 1,
        "CD2L": 1,
        "TTENDIAN": 0b10,
        "ST_LEVEL": 0b01,
        "SIDSIZE": stream_id_bits,
        "SSIDSIZE": substream_id_bits,
        "CMDQS": 19,
        "EVENTQS": 19,
        "ATTR_PERMS_OVR": 1,
        "HAD": 1,
        "XNX": 1,
        "RIL": 1,
        "OAS": ADDRESS_SIZES.index(address_bits),
        **{name: int(shift in granules) for shift, name in _GRANULES},
        **fields,
    }
    bits = []
    for layout in (IDR0, IDR1, IDR3, IDR5):
        bits.append(layout.encode({name: value for name, value in wanted.items() if name in layout}))
    for name in wanted:
        if not any(name in layout for layout in (IDR0, IDR1, IDR3, IDR5)):
            raise SpecError(f"no capability register of an SMMU has a field {name!r}")
    return Smmuv3Capabilities(idr0=bits[0], idr1=bits[1], idr3=bits[2], idr5=bits[3])
