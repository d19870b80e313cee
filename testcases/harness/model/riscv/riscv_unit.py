"""What the RISC-V IOMMU tests share: a unit with one device, its two stages, and a view of guest memory."""

from __future__ import annotations

from collections.abc import Mapping as NamedValues

from harness.model.access import Access, AccessKind, AddressType, Outcome
from harness.model.explanation import Explanation
from harness.model.memory import MappedMemory, OffsetMemory, WritableMemory
from harness.model.radix import NO_OVERRIDES, PageAllocator, RadixTable
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters, RiscvIommuTables
from harness.model.riscv.registers import capabilities
from harness.model.riscv.tables import new_page_table

DEVICE = 0x28
IOVA = 0x40_0000
GUEST = 0x123_4000
OUTPUT = 0x8000_0000
RAM = 0x20_0000
NOWHERE = 0x7000_0000
GUEST_TABLES = 0x5000_0000
"""Guest physical address at which the tables of a guest lie,"""
GUEST_SHIFT = GUEST_TABLES - 0x10_0000
"""and how far that is from where they really are."""
PSCID, GSCID = 0x12345, 0xABC
FILE = 0x2800_0000
"""Guest physical address of the first virtual interrupt file; there are four, 16 KiB apart."""
MASK, PATTERN = 0b1100, FILE >> 12
REAL = 0x4_0000_0000
MRIF = 0x1_FE00
NOTICE = 0x5_0000_0000


class BigEndianMemory:
    """Memory whose entries of 4 and 8 bytes are stored the other way round."""

    def __init__(self, memory: WritableMemory) -> None:
        self._memory = memory

    def read(self, address: int, size: int) -> bytes:
        return self._memory.read(address, size)[::-1]

    def read_u64(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 8), "big")

    def write(self, address: int, data: bytes) -> None:
        self._memory.write(address, data[::-1])

    def write_u64(self, address: int, value: int) -> None:
        self._memory.write(address, value.to_bytes(8, "big"))


class MemoryBeyond:
    """Memory that answers from a limit on as well, with what lies at an address below it."""

    def __init__(self, memory: WritableMemory, limit: int, below: int) -> None:
        self._memory = memory
        self._limit = limit
        self._below = below

    def _find(self, address: int) -> int:
        return address if address < self._limit else address - self._limit + self._below

    def read(self, address: int, size: int) -> bytes:
        return self._memory.read(self._find(address), size)

    def read_u64(self, address: int) -> int:
        return self._memory.read_u64(self._find(address))

    def write(self, address: int, data: bytes) -> None:
        self._memory.write(self._find(address), data)

    def write_u64(self, address: int, value: int) -> None:
        self._memory.write_u64(self._find(address), value)


class Unit:
    """An IOMMU with one device, and one page of 4 KiB at IOVA.

    With a first stage only, or a second only, IOVA goes to OUTPUT. With both, the first takes IOVA to GUEST and the
    second GUEST to OUTPUT; the guest's own tables lie at GUEST_TABLES.

    Args:
        first: scheme of the first stage; None for Bare.
        second: of the second stage; None for Bare.
        pdt_mode: pdtp.MODE of a process directory, in which process 5 has the first stage; 0 for none.
        levels: of the device directory.
        without: capabilities that are not there.
        context: fields of the device context.
        process: fields of the process context.
        registers: registers, by their names,
        fields: likewise.
    """

    def __init__(
        self,
        first: str | None = "Sv39",
        second: str | None = None,
        *,
        pdt_mode: int = 0,
        levels: int = 1,
        without: frozenset[str] = frozenset(),
        features: frozenset[str] = frozenset(),
        context: NamedValues[str, int] = NO_OVERRIDES,
        process: NamedValues[str, int] = NO_OVERRIDES,
        device: int = DEVICE,
        registers: NamedValues[str, int] = NO_OVERRIDES,
        **fields: int,
    ) -> None:
        self.memory: WritableMemory = MappedMemory(bytearray(RAM))
        self.device = device
        caps = capabilities(without=without)
        for name in features:
            caps |= capabilities(features=frozenset({name}))
        self.fields: dict[str, int] = {"capabilities": caps, **registers, **fields}
        self.tables = RiscvIommuTables(self.memory, 0x1_0000, levels, "MSI_FLAT" not in without)
        self.second = self.tables.new_page_table(second) if second else None
        guest_pages = self.tables.pages
        target = OUTPUT
        if self.second is not None:
            self.second.map(GUEST if first else IOVA, OUTPUT, 0x1000)
            self.second.map(GUEST_TABLES, GUEST_TABLES - GUEST_SHIFT, 0x2_0000, largest_page=0x1000)
            guest_pages = PageAllocator(OffsetMemory(self.memory, -GUEST_SHIFT), GUEST_TABLES)
            target = GUEST
        self.first: RadixTable | None = new_page_table(guest_pages, first) if first else None
        if self.first is not None:
            self.first.map(IOVA, target, 0x1000)
        narrow = {"tc.SXL": 1} if "Sv32" in (first, second, (second or "")[:4]) else {}
        if pdt_mode:
            self.tables.attach_processes(
                device,
                pdt_mode,
                second=self.second,
                gscid=GSCID,
                guest_pages=guest_pages,
                overrides={**narrow, **context},
            )
            self.tables.set_process(device, 5, first=self.first, pscid=PSCID, overrides=process)
        else:
            self.tables.attach(
                device,
                first=self.first,
                second=self.second,
                pscid=PSCID,
                gscid=GSCID if self.second else 0,
                overrides={**narrow, **context},
            )
        if narrow:
            self.fields.setdefault("gxl_writable", True)
            self.fields.setdefault("fctl", 4 if second == "Sv32x4" else 0)

    def set_context(self, **values: int) -> None:
        """Set fields of the device context: tc_V stands for tc.V."""
        self.tables.set_context_fields(self.device, {name.replace("_", ".", 1): v for name, v in values.items()})

    def limit_addresses(self, below: int) -> int:
        """Leave 40 bits of physical addresses (6.3, PAS), with memory beyond that has there what lies `below`.

        Returns:
            The first address beyond.
        """
        self.fields["capabilities"] = self.fields["capabilities"] & ~(0x3F << 32) | 40 << 32
        self.memory = MemoryBeyond(self.memory, 1 << 40, below)
        return 1 << 40

    def registers(self) -> RiscvIommuRegisters:
        return RiscvIommuRegisters(**{"ddtp": self.tables.ddtp, **self.fields})  # type: ignore[arg-type]

    def engine(self) -> RiscvIommuEngine:
        return RiscvIommuEngine(self.registers(), self.memory)

    def request(
        self,
        kind: AccessKind = AccessKind.READ,
        *,
        iova: int = IOVA,
        length: int = 4,
        pasid: int | None = None,
        privileged: bool = False,
        address_type: AddressType = AddressType.UNTRANSLATED,
        device: int | None = None,
    ) -> Access:
        return Access(
            requester=self.device if device is None else device,
            iova=iova,
            length=length,
            kind=kind,
            pasid=pasid,
            privileged=privileged,
            address_type=address_type,
        )

    def access(
        self,
        kind: AccessKind = AccessKind.READ,
        *,
        iova: int = IOVA,
        length: int = 4,
        pasid: int | None = None,
        privileged: bool = False,
        address_type: AddressType = AddressType.UNTRANSLATED,
        device: int | None = None,
    ) -> Outcome:
        """The outcome of an access, which `explain` gives as well."""
        request = self.request(
            kind,
            iova=iova,
            length=length,
            pasid=pasid,
            privileged=privileged,
            address_type=address_type,
            device=device,
        )
        outcome = self.engine().translate(request)
        assert self.engine().explain(request).outcome == outcome
        return outcome

    def explain(self, kind: AccessKind = AccessKind.READ, *, iova: int = IOVA, pasid: int | None = None) -> Explanation:
        return self.engine().explain(self.request(kind, iova=iova, pasid=pasid))


def message_unit(first: str | None = None, **fields: int) -> Unit:
    """A unit with four interrupt files: 0 and 1 are real, 2 is resident in memory, 3 is not valid."""
    unit = Unit(first, "Sv39x4", registers=fields)
    unit.tables.set_interrupt_files(DEVICE, MASK, PATTERN)
    unit.tables.set_interrupt_file(DEVICE, 0, REAL)
    unit.tables.set_interrupt_file(DEVICE, 1, REAL + 0x1000)
    unit.tables.set_resident_interrupt_file(DEVICE, 2, MRIF, NOTICE, 0x5A5)
    return unit
