"""What ECAP_REG says that matters to the model, by plain names, and the other way round (VT-d 11.4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harness.errors import SpecError
from harness.model.vtd.register_layouts import ECAP_REG

__all__ = ["ExtendedCapabilities"]

# Attribute of `ExtendedCapabilities`: field of ECAP_REG of one bit. The wider ones are not here.
_FIELDS = {
    "queued_invalidation": "QI",
    "device_tlbs": "DT",
    "interrupt_remapping": "IR",
    "extended_interrupts": "EIM",
    "pass_through": "PT",
    "snoop_control": "SC",
    "memory_types": "MTS",
    "nested": "NEST",
    "page_requests": "PRS",
    "execute_requests": "ERS",
    "supervisor_requests": "SRS",
    "no_write_flag": "NWFS",
    "extended_accessed": "EAFS",
    "pasid": "PASID",
    "device_tlb_throttling": "DIT",
    "page_request_drain": "PDS",
    "scalable_mode": "SMTS",
    "second_stage_flags": "SSADS",
    "second_stage": "SSTS",
    "first_stage": "FSTS",
    "walk_coherency": "SMPWCS",
    "rid_pasid": "RPS",
    "abort_mode": "ADMS",
    "rid_privilege": "RPRIVS",
    "host_permissions": "HPTS",
    "translated_with_pasid": "PTRS",
    "io_permissions": "SSIRWS",
    "host_permission_1g_pages": "HPT1GPS",
    "extended_interrupts_required": "EIMER",
    "interrupt_remapping_required": "IRREQ",
}
_IRO_UNIT = 16  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedCapabilities:
    """Which optional parts a unit has. Nothing is derived: a bit that is set without what it needs stays set.

    Attributes:
        queued_invalidation: QI.
        device_tlbs: DT, translation and translated requests.
        interrupt_remapping: IR.
        extended_interrupts: EIM, x2APIC mode.
        pass_through: PT.
        snoop_control: SC, the SNP bit of second-stage leaves, and PGSNP.
        memory_types: MTS, PAT, CD, EMTE and EMT.
        nested: NEST, PGTT 011b.
        page_requests: PRS.
        execute_requests: ERS; the architecture no longer has them, and wants it clear.
        supervisor_requests: SRS.
        no_write_flag: NWFS, translation requests that ask for reading only.
        extended_accessed: EAFS, the EA bit of first-stage entries.
        pasid: PASID, requests with PASID.
        device_tlb_throttling: DIT, the PFSID of device TLB invalidations.
        page_request_drain: PDS, the PD flag of a wait descriptor.
        scalable_mode: SMTS.
        second_stage_flags: SSADS, accessed and dirty bits of second-stage entries.
        second_stage: SSTS, PGTT 010b.
        first_stage: FSTS, PGTT 001b.
        walk_coherency: SMPWCS, PWSNP.
        rid_pasid: RPS.
        abort_mode: ADMS.
        rid_privilege: RPRIVS.
        host_permissions: HPTS, host permission tables.
        translated_with_pasid: PTRS, translated requests with PASID.
        io_permissions: SSIRWS, the IR and IW bits of second-stage entries.
        host_permission_1g_pages: HPT1GPS.
        extended_interrupts_required: EIMER, interrupts are blocked without EIME.
        interrupt_remapping_required: IRREQ, interrupts are blocked while they are not remapped.
        pasid_width: bits of a PASID; PSS holds one less.
        max_index_mask: MHMV, the largest IM of an interrupt entry cache invalidation.
        iotlb_registers: offset of IVA_REG, bytes; IRO counts in 16.
    """

    queued_invalidation: bool = False
    device_tlbs: bool = False
    interrupt_remapping: bool = False
    extended_interrupts: bool = False
    pass_through: bool = False
    snoop_control: bool = False
    memory_types: bool = False
    nested: bool = False
    page_requests: bool = False
    execute_requests: bool = False
    supervisor_requests: bool = False
    no_write_flag: bool = False
    extended_accessed: bool = False
    pasid: bool = False
    device_tlb_throttling: bool = False
    page_request_drain: bool = False
    scalable_mode: bool = False
    second_stage_flags: bool = False
    second_stage: bool = False
    first_stage: bool = False
    walk_coherency: bool = False
    rid_pasid: bool = False
    abort_mode: bool = False
    rid_privilege: bool = False
    host_permissions: bool = False
    translated_with_pasid: bool = False
    io_permissions: bool = False
    host_permission_1g_pages: bool = False
    extended_interrupts_required: bool = False
    interrupt_remapping_required: bool = False
    pasid_width: int = 1
    max_index_mask: int = 0
    iotlb_registers: int = 0

    @staticmethod
    @lru_cache(maxsize=64)
    def decode(ecap: int) -> ExtendedCapabilities:
        """From ECAP_REG; remembered, since every part of an engine asks."""
        reported = {attribute: bool(ECAP_REG[field].get(ecap)) for attribute, field in _FIELDS.items()}
        return ExtendedCapabilities(
            pasid_width=ECAP_REG["PSS"].get(ecap) + 1,
            max_index_mask=ECAP_REG["MHMV"].get(ecap),
            iotlb_registers=_IRO_UNIT * ECAP_REG["IRO"].get(ecap),
            **reported,
        )

    def encode(self) -> int:
        """As ECAP_REG; what is not here is zero.

        Raises:
            SpecError: a value that its field cannot hold.
        """
        bits = {field: int(getattr(self, attribute)) for attribute, field in _FIELDS.items()}
        iro, rest = divmod(self.iotlb_registers, _IRO_UNIT)
        if rest:
            raise SpecError(f"IVA_REG cannot stand at {self.iotlb_registers:#x}, which is no multiple of {_IRO_UNIT}")
        return ECAP_REG.encode({**bits, "PSS": self.pasid_width - 1, "MHMV": self.max_index_mask, "IRO": iro})
