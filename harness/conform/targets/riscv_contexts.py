"""Contexts of devices for programs of riscv-iommu-pci: good ones for the most part, and what else there may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from harness.conform.board import RISCV
from harness.conform.command import behind_memory
from harness.conform.layout import DmaDevice
from harness.conform.memory import DATA
from harness.conform.targets.riscv_tables import Space, Vm
from harness.model.riscv.registers import RiscvIommuRegisters
from harness.model.riscv.tables import RiscvIommuTables

__all__ = ["PRIVATE_GSCID", "PRIVATE_PSCID", "Contexts"]

_OUTSIDE = behind_memory(RISCV)
_PD8 = 1
_SHARES_PROCESSES = 0.75
PRIVATE_PSCID, PRIVATE_GSCID = 0xFFFFE, 0xFFFD
"""From these on no address space has them whose tables are there."""
_IDLE_PSCIDS = (0, 0, 0x5A5A5)  # where there is no first stage, and they have no meaning
_ODD_CONTEXTS = 3  # in one program: what is cached has to be asked of each kind of context
_BAD_CONTEXTS: tuple[dict[str, int], ...] = (
    {"tc.V": 0},
    {"tc.DTF": 1},
    {"tc.DTF": 1, "tc.V": 0},
    {"tc.EN_ATS": 1},
    {"tc.EN_PRI": 1},
    {"tc.EN_ATS": 1, "tc.EN_PRI": 1, "tc.PRPR": 1},
    {"tc.PRPR": 1},
    {"tc.T2GPA": 1},
    {"tc.DPE": 1},
    {"tc.SBE": 1},
    {"IGN_tc_custom": 0x55},
)
_BAD_FIRST_STAGES: tuple[dict[str, int], ...] = (
    {"fsc.PPN": _OUTSIDE >> 12, "ta.PSCID": PRIVATE_PSCID},
    {"fsc.PPN": 1 << 43, "ta.PSCID": PRIVATE_PSCID},
)
# A root that the second stage does not map leaves no PSCID to tell by whose that is, so that others share the fault.
_ALONE_BEHIND_SECOND = {"iohgatp.GSCID": PRIVATE_GSCID + 1}
_BAD_SECOND_STAGES: tuple[dict[str, int], ...] = ({"iohgatp.PPN": _OUTSIDE >> 12, "iohgatp.GSCID": PRIVATE_GSCID},)
_BAD_PROCESSES: tuple[dict[str, int], ...] = (
    {"ta.V": 0},
    {"ta.ENS": 1},
    {"ta.SUM": 1},
    {"RSVD_ta_32": 1},
    {"fsc.MODE": 0},
    {"fsc.MODE": 3},
    {"fsc.MODE": 14},
    {"fsc.PPN": _OUTSIDE >> 12, "ta.PSCID": PRIVATE_PSCID},
)
# Of these QEMU overlooks some, so that a program that has one does not get far.
_OVERLOOKED: tuple[dict[str, int], ...] = (
    {"tc.GADE": 1},
    {"tc.SADE": 1},
    {"tc.SXL": 1},
    {"RSVD_tc_12": 1},
    {"RSVD_tc_32": 1},
    {"RSVD_ta_0": 1},
    {"ta.RCID": 1},
    {"RSVD_fsc_44": 1},
)
_OVERLOOKED_FIRST_STAGES: tuple[dict[str, int], ...] = (
    {"fsc.MODE": 1},
    {"fsc.MODE": 7},
    {"fsc.MODE": 11},
    {"fsc.MODE": 15},
)
_OVERLOOKED_SECOND_STAGES: tuple[dict[str, int], ...] = (
    {"iohgatp.MODE": 1},
    {"iohgatp.MODE": 7},
    {"iohgatp.MODE": 11},
    {"iohgatp.PPN": (RISCV.ram + DATA.start >> 12) + 1},
)
_OVERLOOKED_MESSAGES: tuple[dict[str, int], ...] = (
    {"msiptp.MODE": 2},
    {"RSVD_msiptp_44": 1},
    {"RSVD_msi_addr_mask_52": 1},
    {"RSVD_448": 1},
)
_OVERLOOKED_PROCESSES: tuple[dict[str, int], ...] = ({"RSVD_ta_3": 1}, {"RSVD_fsc_44": 1})


@dataclass
class Contexts:
    """Gives devices their contexts.

    Attributes:
        devices: the device directory.
        levels: of it.
        random: to choose by.
        registers: with the capabilities of the IOMMU.
        is_thorough: what QEMU overlooks is made wrong as well.
        with_processes: some devices have a process directory.
        has_good_records: what QEMU records of a fault can be relied on, so that faults may be without a record.
        behind: address spaces of each stage, by requester.
        has_processes: requesters with a process directory.
        passing: requesters whose requests keep their address: they are to stay where there is memory, or nothing.
    """

    devices: RiscvIommuTables
    levels: int
    random: Random
    registers: RiscvIommuRegisters
    is_thorough: bool
    with_processes: bool
    has_good_records: bool
    behind: dict[int, tuple[Space | None, Vm | None]] = field(default_factory=dict)
    has_processes: set[int] = field(default_factory=set)
    passing: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._odd = self.random.sample(_OVERLOOKED if self.is_thorough else _BAD_CONTEXTS, _ODD_CONTEXTS)
        self._idle_pscid = self.random.choice(_IDLE_PSCIDS)

    def attach(self, entry: DmaDevice, spaces: list[Space], plain: Vm | None) -> None:
        """Give a device a context.

        Args:
            entry: the device.
            spaces: first-stage address spaces that it may have.
            plain: second-stage address space of a device without a first stage.
        """
        random = self.random
        if entry.requester >> self._device_id_bits:
            self.behind[entry.requester] = None, None
            return
        draw = random.random()
        space = random.choice(spaces) if spaces and random.random() < 0.85 else None
        vm = space.vm if space is not None else plain
        overrides: dict[str, int] = {}
        if draw < 0.04:
            space = vm = None
        elif draw < 0.1:
            overrides = self._something_wrong(has_first=space is not None, has_second=vm is not None)
        self.has_processes.discard(entry.requester)
        self.passing.discard(entry.requester)
        if self.with_processes and space is not None and not overrides and random.random() < 0.5:
            self._attach_process(entry, space, vm)
        else:
            self.devices.attach(
                entry.requester,
                first=space.table if space is not None else None,
                second=vm.table if vm is not None else None,
                pscid=self._idle_pscid if space is None else space.pscid,
                gscid=vm.gscid if vm is not None else 0,
                overrides=overrides,
            )
        self.behind[entry.requester] = space, vm
        if space is None and vm is None:
            self.passing.add(entry.requester)

    def _something_wrong(self, *, has_first: bool, has_second: bool) -> dict[str, int]:
        """Something wrong with a device context, or out of the ordinary."""
        bad = [*self._odd]
        if self.is_thorough:
            bad += _OVERLOOKED_FIRST_STAGES if has_first else ()
            bad += _OVERLOOKED_SECOND_STAGES if has_second else ()
            bad += _OVERLOOKED_MESSAGES if self.registers.extended_contexts else ()
        else:
            alone = _ALONE_BEHIND_SECOND if has_second else {}
            bad += [each | alone for each in _BAD_FIRST_STAGES] if has_first else ()
            bad += _BAD_SECOND_STAGES if has_second else ()
        if not self.has_good_records:
            bad = [each for each in bad if "tc.DTF" not in each]
        return dict(self.random.choice(bad))

    def _attach_process(self, entry: DmaDevice, space: Space, vm: Vm | None) -> None:
        """A process directory; process 0 is that of requests without one, or none is (DPE)."""
        random = self.random
        sharing = [each for each in sorted(self.has_processes) if self.behind[each] == (space, vm)]
        if sharing and random.random() < _SHARES_PROCESSES:
            self._share_processes(entry, random.choice(sharing))
            return
        has_default = vm is not None or random.random() < 0.85
        pages = self.devices.pages if vm is None else vm.pages
        if vm is not None and vm.pages.next_page + 0x4000 > vm.end:
            return
        self.has_processes.add(entry.requester)
        self.devices.attach_processes(
            entry.requester,
            _PD8,
            second=vm.table if vm is not None else None,
            gscid=vm.gscid if vm is not None else 0,
            guest_pages=pages,
            overrides={"tc.DPE": int(has_default)},
        )
        overrides: dict[str, int] = {}
        # Behind a second stage it leaves too many outcomes to tell which one it was.
        if vm is None and random.random() < 0.1:
            overrides = random.choice(_OVERLOOKED_PROCESSES if self.is_thorough else _BAD_PROCESSES)
        self.devices.set_process(entry.requester, 0, first=space.table, pscid=space.pscid, overrides=overrides)
        if vm is None and (not has_default or overrides.get("fsc.MODE") == 0):
            self.passing.add(entry.requester)

    def _share_processes(self, entry: DmaDevice, other: int) -> None:
        """The context of another requester."""
        self.devices.share_processes(entry.requester, other)
        self.has_processes.add(entry.requester)
        if other in self.passing:
            self.passing.add(entry.requester)

    @property
    def _device_id_bits(self) -> int:
        """Bits of a device_id that the directory takes."""
        return (6 if self.registers.extended_contexts else 7) + 9 * (self.levels - 1)
