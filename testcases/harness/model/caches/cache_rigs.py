"""For each architecture a unit with one page, and the commands that do and do not reach what is cached of it.

Every command is put to the engine of the architecture as its driver writes it, so that what is tested is what a command
drops and what a walk is tagged with, together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.errors import SpecError
from harness.model.access import Access, AccessKind, Fault, Outcome, Permissions
from harness.model.amdvi import AmdviEngine, AmdviOpcode, AmdviRegisters, AmdviTables, Gcr3Table, make_command
from harness.model.amdvi.register_fields import CONTROL
from harness.model.amdvi.registers import extended_features
from harness.model.caches.iotlb import CacheModel
from harness.model.caches.policies import AMDVI, RISCV, SMMUV3, VTD_LEGACY, VTD_SCALABLE
from harness.model.caches.policy import CachePolicy
from harness.model.memory import OffsetMemory, Region, SparseMemory
from harness.model.radix import PageAllocator, RadixTable
from harness.model.riscv import RiscvIommuEngine, RiscvIommuRegisters, RiscvIommuTables
from harness.model.riscv.commands import encode_command
from harness.model.riscv.registers import capabilities as riscv_capabilities
from harness.model.riscv.tables import new_page_table
from harness.model.smmuv3 import (
    Smmuv3ContextTable,
    Smmuv3Engine,
    Smmuv3Opcode,
    Smmuv3Registers,
    Smmuv3Tables,
    Stage1Format,
    Stage2Format,
)
from harness.model.smmuv3.capabilities import capabilities as smmu_capabilities
from harness.model.smmuv3.commands import command_bits
from harness.model.smmuv3.registers import CR0
from harness.model.vtd import (
    FirstStageFormat,
    SecondStageFormat,
    VtdEngine,
    VtdRegisters,
    VtdScalableTables,
    VtdTables,
)
from harness.model.vtd.invalidation.commands import IQA_REG
from harness.model.vtd.invalidation.descriptors import (
    DescriptorType,
    Granularity,
    PasidCacheGranularity,
    PasidIotlbGranularity,
    build_descriptor,
)
from harness.model.vtd.register_layouts import ECAP_REG, GSTS_REG
from harness.model.vtd.registers import capabilities

RID = 0x28
PASID = 5
DOMAIN, OTHER_DOMAIN = 0x11, 0x22
SPACE, OTHER_SPACE = 0x33, 0x44
PAGE, NEXT_PAGE = 0x40_0000, 0x40_1000
FRAME, NEW_FRAME, OTHER_FRAME = 0x8000_0000, 0x8000_5000, 0x9000_0000
GUEST_FRAME = 0x123_4000
RAM = 0x400_0000
ENTRY = 64
# Where the guest of a nested unit finds its tables, and how far in memory they lie above that.
GUEST_TABLES, GUEST_SIZE, MOVED = 0x100_0000, 0x4_0000, 0x100_0000
RW = Permissions.READ | Permissions.WRITE


@dataclass
class Rig:
    """A unit, its model, and what its tests need to know of it.

    Attributes:
        name: of architecture and mode.
        engine_of: builds its engine.
        registers: of it.
        memory: what its tables are in.
        policy: of the architecture.
        access: a read of `PAGE`.
        table: that maps `PAGE` to `FRAME` at first (in the last stage).
        attach: gives the requester the other table, which maps `PAGE` to `OTHER_FRAME`: with the same tags, or others.
        commands: by a name of what they drop.
        right: names of those each of which ends what is cached of a leaf of `table`.
        wrong: names of those that do not.
        device: names of those that end what is cached of the device's entries, one after the other.
        translations: name of the one that then ends the translations of the old table.
        everything: names of those that together drop everything, in order.
        leaf_only: name of one that drops the leaf of `PAGE`, and no table that leads to it.
        above: the stage above the one that `table` is of, where there is one: it maps `PAGE` to itself.
        below: the stage below the one that `table` is of, where there is one: it maps `FRAME` to itself.
    """

    name: str
    engine_of: Callable[[Any, Any], Any]
    registers: Any
    memory: SparseMemory
    policy: CachePolicy[Any]
    access: Access
    table: RadixTable
    attach: Callable[[bool], None]
    commands: Mapping[str, Any]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    device: tuple[str, ...]
    translations: str
    everything: tuple[str, ...]
    leaf_only: str
    above: RadixTable | None = None
    below: RadixTable | None = None
    model: CacheModel[Any] = field(init=False)

    def __post_init__(self) -> None:
        source = self.access.requester, self.access.pasid
        self.model = CacheModel(self.engine_of, self.registers, self.memory, self.policy, sources=[source])

    def change(self, action: Callable[[], None]) -> list[tuple[int, bytes]]:
        """What an action on the tables writes, without its being done: address and bytes of what has changed.

        It is in pieces of the size of the largest entries, so that none is ever written by halves.
        """
        before = dict(self.memory.words())
        action()
        after = dict(self.memory.words())
        changed = sorted(at for at in after if after[at] != before.get(at, 0))
        entries = sorted({at & -ENTRY for at in changed})
        runs = [(at, self.memory.read(at, ENTRY)) for at in entries]
        for at in changed:
            self.memory.write_u64(at, before.get(at, 0))
        return runs

    def do(self, action: Callable[[], None]) -> None:
        """Do it, each entry in one piece."""
        for address, data in self.change(action):
            self.model.memory.write(address, data)

    def map(self, frame: int | None, rights: Permissions = RW, page: int = PAGE) -> None:
        """Have a page mapped to another frame, or to none."""
        self.do(lambda: remap(self.table, page, frame, rights))

    def invalidate(self, *names: str) -> None:
        """Put commands to the unit."""
        for name in names:
            result = self.model.engine.submit(self.commands[name])
            assert result.error is None, (name, result.error)
            assert result.invalidations
            self.model.invalidate(result.invalidations)

    def targets(self, kind: AccessKind = AccessKind.READ, page: int = PAGE) -> set[int | None]:
        """Where the access may go; None for a fault."""
        access = Access(requester=self.access.requester, pasid=self.access.pasid, iova=page, length=1, kind=kind)
        return {target(outcome) for outcome in self.model.allowed(access)}


def target(outcome: Outcome) -> int | None:
    return None if isinstance(outcome, Fault) else outcome.address


def remap(table: RadixTable, page: int, frame: int | None, rights: Permissions = RW) -> None:
    with suppress(SpecError):  # nothing was mapped
        table.unmap(page, 0x1000)
    if frame is not None:
        table.map(page, frame, 0x1000, rights)


def replace_last_table(table: RadixTable, frame: int) -> None:
    """Put another table of the last level in the place of the one that maps `PAGE`; it maps it to `frame`."""
    memory, new = table.pages.memory, table.pages.take()
    leaf = table.format.leaf_entry(frame, table.format.page_sizes[0], 0, RW)
    memory.write_u64(new | table.entry_address(PAGE, 1) & 0xFFF, leaf)
    memory.write_u64(table.entry_address(PAGE, 2), table.format.table_entry(new, 2))


def read(pasid: int | None = None) -> Access:
    return Access(requester=RID, pasid=pasid, iova=PAGE, length=1, kind=AccessKind.READ)


def two(make: Callable[[], RadixTable], frame: int = FRAME, other: int = OTHER_FRAME) -> tuple[RadixTable, RadixTable]:
    """Two tables that map `PAGE`, one to each frame. The next page has a place in them, and nothing in it."""
    tables = make(), make()
    for table, at in zip(tables, (frame, other), strict=True):
        table.map(PAGE, at, 0x1000)
    return tables


# --- VT-d ---


def vtd_commands(more: Mapping[str, tuple[DescriptorType, dict[str, int]]]) -> dict[str, int]:
    page, next_page = {"ADDR": PAGE >> 12}, {"ADDR": NEXT_PAGE >> 12}
    iotlb, context = DescriptorType.IOTLB, DescriptorType.CONTEXT_CACHE
    described: dict[str, tuple[DescriptorType, dict[str, int]]] = {
        "contexts": (context, {"G": Granularity.GLOBAL}),
        "device": (context, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "SID": RID}),
        "other device": (context, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "SID": RID + 1}),
        "iotlb": (iotlb, {"G": Granularity.GLOBAL}),
        "domain": (iotlb, {"G": Granularity.DOMAIN, "DID": DOMAIN}),
        "other domain": (iotlb, {"G": Granularity.DOMAIN, "DID": OTHER_DOMAIN}),
        "page": (iotlb, {"G": Granularity.SELECTIVE, "DID": DOMAIN, **page}),
        "page, IH": (iotlb, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "IH": 1, **page}),
        "2 MiB": (iotlb, {"G": Granularity.SELECTIVE, "DID": DOMAIN, "AM": 9, **page}),
        "next page": (iotlb, {"G": Granularity.SELECTIVE, "DID": DOMAIN, **next_page}),
        "page of other domain": (iotlb, {"G": Granularity.SELECTIVE, "DID": OTHER_DOMAIN, **page}),
        **more,
    }
    return {name: build_descriptor(kind, values) for name, (kind, values) in described.items()}


def vtd_registers(root: int, mode: int = 0) -> VtdRegisters:
    names = ("C", "QI", "DT", "IR", "PT", "SC", "NEST", "PASID", "SMTS", "SSTS", "FSTS", "SMPWCS", "RPS")
    ecap = ECAP_REG.encode({**dict.fromkeys(names, 1), "PSS": 19})
    cap = capabilities(max_address_mask=18)
    # Scalable mode takes descriptors of 256 bits.
    iqa = IQA_REG.encode({"DW": mode})
    return VtdRegisters(rtaddr=root | mode << 10, cap=cap, ecap=ecap, gsts=GSTS_REG.encode({"TES": 1}), iqa=iqa)


def vtd_legacy() -> Rig:
    memory = SparseMemory((Region(0, RAM),))
    tables = VtdTables(memory, 0x1000)
    table, other = two(lambda: RadixTable(tables.pages, SecondStageFormat(), 3))
    tables.attach(RID, DOMAIN, 3, table=table)

    def attach(same_tags: bool) -> None:
        tables.attach(RID, DOMAIN if same_tags else OTHER_DOMAIN, 3, table=other)

    return Rig(
        name="VT-d legacy",
        engine_of=VtdEngine,
        registers=vtd_registers(tables.root),
        memory=memory,
        policy=VTD_LEGACY,
        access=read(),
        table=table,
        attach=attach,
        commands=vtd_commands({}),
        right=("iotlb", "domain", "page", "page, IH", "2 MiB"),
        wrong=("contexts", "device", "other domain", "next page", "page of other domain"),
        device=("device",),
        translations="domain",
        everything=("contexts", "iotlb"),
        leaf_only="page, IH",
    )


def vtd_scalable(stages: str) -> Rig:
    """With "first" a request with PASID; with "nested" the leaf is one of the second stage."""
    memory = SparseMemory((Region(0, RAM),))
    tables = VtdScalableTables(memory, 0x1000)
    tables.attach(RID, pasid=True)
    pasid = PASID if stages == "first" else None
    number = PASID if stages == "first" else 0
    first: RadixTable | None = None
    second: RadixTable | None = None
    if stages == "first":
        first, other_first = two(lambda: RadixTable(tables.pages, FirstStageFormat(), 4, sign_extended=True))
        table, other_second = first, None
    elif stages == "second":
        second, other_second = two(lambda: RadixTable(tables.pages, SecondStageFormat(), 4))
        table, other_first = second, None
    else:
        first = RadixTable(tables.pages, FirstStageFormat(), 4, sign_extended=True)
        first.map(PAGE, PAGE, 0x1000)
        first.map(NEXT_PAGE, NEXT_PAGE, 0x1000)
        second, other_second = two(lambda: RadixTable(tables.pages, SecondStageFormat(), 4))
        # The guest's tables are where the second stage says that they are.
        for each in (second, other_second):
            each.map(0, 0, 0x20_0000)
        table, other_first = second, first
    tables.attach_pasid(RID, DOMAIN, pasid=pasid, first_stage=first, second_stage=second)

    def attach(same_tags: bool) -> None:
        domain = DOMAIN if same_tags else OTHER_DOMAIN
        tables.attach_pasid(RID, domain, pasid=pasid, first_stage=other_first, second_stage=other_second)

    cache, piotlb = DescriptorType.PASID_CACHE, DescriptorType.PASID_IOTLB
    whole, one = PasidIotlbGranularity.PASID, PasidIotlbGranularity.PAGE
    commands = vtd_commands(
        {
            "pasids": (cache, {"G": PasidCacheGranularity.GLOBAL}),
            "pasid entry": (cache, {"G": PasidCacheGranularity.PASID, "DID": DOMAIN, "PASID": number}),
            "pasid": (piotlb, {"G": whole, "DID": DOMAIN, "PASID": number}),
            "other pasid": (piotlb, {"G": whole, "DID": DOMAIN, "PASID": number + 1}),
            "page of pasid": (piotlb, {"G": one, "DID": DOMAIN, "PASID": number, "ADDR": PAGE >> 12}),
            "page of pasid, IH": (piotlb, {"G": one, "DID": DOMAIN, "PASID": number, "ADDR": PAGE >> 12, "IH": 1}),
            "next page of pasid": (piotlb, {"G": one, "DID": DOMAIN, "PASID": number, "ADDR": NEXT_PAGE >> 12}),
            "page of other pasid": (piotlb, {"G": one, "DID": DOMAIN, "PASID": number + 1, "ADDR": PAGE >> 12}),
        }
    )
    right: tuple[str, ...] = ("iotlb", "domain")
    wrong: tuple[str, ...] = (
        "contexts",
        "pasids",
        "other domain",
        "page of other domain",
        "other pasid",
        "page of other pasid",
    )
    if stages == "first":
        right += ("pasid", "page of pasid", "page of pasid, IH")
        wrong += ("next page of pasid",)
    else:
        right += ("page", "page, IH", "2 MiB")
        # Table 23: of nested translations an address spares none, and 6.2.4: its second stage is not kept by itself.
        right, wrong = (right, (*wrong, "next page")) if stages == "second" else ((*right, "next page"), wrong)
    return Rig(
        name=f"VT-d scalable, {stages}",
        engine_of=VtdEngine,
        registers=vtd_registers(tables.root, mode=1),
        memory=memory,
        policy=VTD_SCALABLE,
        access=read(pasid),
        table=table,
        attach=attach,
        commands=commands,
        right=right,
        wrong=wrong,
        device=("pasid entry",),
        translations="domain",
        everything=("contexts", "pasids", "iotlb"),
        leaf_only="page of pasid, IH" if stages == "first" else "page, IH",
        above=first if stages == "nested" else None,
    )


# --- RISC-V ---


def riscv(stages: str) -> Rig:
    """The "first" stage of the host for a device, the "second" for a guest, or the first of "both" for its process."""
    memory = SparseMemory((Region(0, RAM),))
    tables = RiscvIommuTables(memory, 0x1_0000, 1)
    registers = RiscvIommuRegisters(capabilities=riscv_capabilities(), ddtp=tables.ddtp)
    page, next_page = PAGE >> 12, NEXT_PAGE >> 12
    commands = {
        "devices": encode_command("IODIR.INVAL_DDT"),
        "device": encode_command("IODIR.INVAL_DDT", DV=1, DID=RID),
        "other device": encode_command("IODIR.INVAL_DDT", DV=1, DID=RID + 1),
        "guests": encode_command("IOTINVAL.GVMA"),
        "host": encode_command("IOTINVAL.VMA"),
        "gscid": encode_command("IOTINVAL.GVMA", GV=1, GSCID=DOMAIN),
        "other gscid": encode_command("IOTINVAL.GVMA", GV=1, GSCID=OTHER_DOMAIN),
        "page of gscid": encode_command("IOTINVAL.GVMA", GV=1, GSCID=DOMAIN, AV=1, ADDR=page),
        "next page of gscid": encode_command("IOTINVAL.GVMA", GV=1, GSCID=DOMAIN, AV=1, ADDR=next_page),
        "frame of gscid": encode_command("IOTINVAL.GVMA", GV=1, GSCID=DOMAIN, AV=1, ADDR=FRAME >> 12),
        "page of other gscid": encode_command("IOTINVAL.GVMA", GV=1, GSCID=OTHER_DOMAIN, AV=1, ADDR=page),
    }
    guest: dict[str, Any] = {"GV": 1, "GSCID": DOMAIN} if stages == "both" else {}
    commands |= {
        "space": encode_command("IOTINVAL.VMA", PSCV=1, PSCID=SPACE, **guest),
        "other space": encode_command("IOTINVAL.VMA", PSCV=1, PSCID=OTHER_SPACE, **guest),
        "page": encode_command("IOTINVAL.VMA", AV=1, ADDR=page, **guest),
        "page of space": encode_command("IOTINVAL.VMA", AV=1, ADDR=page, PSCV=1, PSCID=SPACE, **guest),
        "next page": encode_command("IOTINVAL.VMA", AV=1, ADDR=next_page, **guest),
        "page of other space": encode_command("IOTINVAL.VMA", AV=1, ADDR=page, PSCV=1, PSCID=OTHER_SPACE, **guest),
        "first stage of other guest": encode_command("IOTINVAL.VMA", GV=1, GSCID=OTHER_DOMAIN),
        "first stage": encode_command("IOTINVAL.VMA", **guest),
        "process": encode_command("IODIR.INVAL_PDT", DV=1, DID=RID, PID=PASID),
    }
    first_right: tuple[str, ...] = ("first stage", "space", "page", "page of space")
    first_wrong: tuple[str, ...] = (
        "devices",
        "other space",
        "next page",
        "page of other space",
        "first stage of other guest",
    )
    pasid, below = None, None
    right, wrong = first_right, first_wrong
    if stages == "first":
        table, other = two(lambda: tables.new_page_table("Sv39"))
        tables.attach(RID, first=table, pscid=SPACE)

        def attach(same_tags: bool) -> None:
            tables.attach(RID, first=other, pscid=SPACE if same_tags else OTHER_SPACE)

        wrong = (*first_wrong, "guests")
        device, translations = ("device",), "space"
    elif stages == "second":
        table, other = two(lambda: tables.new_page_table("Sv39x4"))
        tables.attach(RID, second=table, gscid=DOMAIN)

        def attach(same_tags: bool) -> None:
            tables.attach(RID, second=other, gscid=DOMAIN if same_tags else OTHER_DOMAIN)

        right = ("guests", "gscid", "page of gscid")
        wrong = ("devices", "host", "other gscid", "next page of gscid", "page of other gscid")
        device, translations = ("device",), "gscid"
    else:
        second = tables.new_page_table("Sv39x4")
        second.map(GUEST_TABLES, GUEST_TABLES + MOVED, GUEST_SIZE)
        for frame in (FRAME, NEW_FRAME, OTHER_FRAME):
            second.map(frame, frame, 0x1000)
        pages = PageAllocator(OffsetMemory(memory, MOVED), GUEST_TABLES)
        table, other = two(lambda: new_page_table(pages, "Sv39"))
        below = second
        tables.attach_processes(RID, 1, second=second, gscid=DOMAIN, guest_pages=pages)
        tables.set_process(RID, PASID, first=table, pscid=SPACE)

        def attach(same_tags: bool) -> None:
            tables.set_process(RID, PASID, first=other, pscid=SPACE if same_tags else OTHER_SPACE)

        right = (*first_right, "gscid", "guests")
        wrong = (*first_wrong, "host", "other gscid", "page of other gscid")
        device, translations, pasid = ("process",), "space", PASID
    return Rig(
        name=f"RISC-V, {stages}",
        engine_of=RiscvIommuEngine,
        registers=registers,
        memory=memory,
        policy=RISCV,
        access=read(pasid),
        table=table,
        attach=attach,
        commands=commands,
        right=right,
        wrong=wrong,
        device=device,
        translations=translations,
        everything=("devices", "guests", "host"),
        leaf_only="page of gscid" if stages == "second" else "page of space",
        below=below,
    )


# --- AMD-Vi ---


def amdvi(stages: str) -> Rig:
    """With "host" tables, or a request with PASID with "guest" tables over them, of which the guest's are meant."""
    memory = SparseMemory((Region(0, RAM),))
    tables = AmdviTables(memory, 0x1_0000, size=1)
    registers = AmdviRegisters(
        device_table_base=tables.device_table_base,
        extended_feature=extended_features(),
        control=CONTROL.encode({"IommuEn": 1, "GTEn": 1}),
    )
    everything, low = 0x7FFF_FFFF_FFFF_F000, {"PDE": 1}
    guest = {"GN": 1, "PASID": PASID}
    pages: dict[str, dict[str, int]] = {
        "domain": {"DomainID": DOMAIN, "Address": everything, "S": 1, **low},
        "other domain": {"DomainID": OTHER_DOMAIN, "Address": everything, "S": 1, **low},
        "page": {"DomainID": DOMAIN, "Address": PAGE},
        "page and directories": {"DomainID": DOMAIN, "Address": PAGE, **low},
        "8 KiB": {"DomainID": DOMAIN, "Address": PAGE, "S": 1},
        "next page": {"DomainID": DOMAIN, "Address": NEXT_PAGE},
        "page of other domain": {"DomainID": OTHER_DOMAIN, "Address": PAGE},
        "frame": {"DomainID": DOMAIN, "Address": FRAME},
        "pasid": {"DomainID": DOMAIN, "Address": everything, "S": 1, **guest, **low},
        "other pasid": {"DomainID": DOMAIN, "Address": everything, "S": 1, **guest, "PASID": PASID + 1},
        "page of pasid": {"DomainID": DOMAIN, "Address": PAGE, **guest},
        "next page of pasid": {"DomainID": DOMAIN, "Address": NEXT_PAGE, **guest},
        "page of other pasid": {"DomainID": DOMAIN, "Address": PAGE, **guest, "PASID": PASID + 1},
        "pasid of other domain": {"DomainID": OTHER_DOMAIN, "Address": everything, "S": 1, **guest},
    }
    commands = {name: make_command(AmdviOpcode.INVALIDATE_IOMMU_PAGES, values) for name, values in pages.items()}
    commands |= {
        "all": make_command(AmdviOpcode.INVALIDATE_IOMMU_ALL),
        "device": make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": RID}),
        "other device": make_command(AmdviOpcode.INVALIDATE_DEVTAB_ENTRY, {"DeviceID": RID + 1}),
    }
    if stages == "host":
        table, other = two(lambda: tables.attach(RID, DOMAIN, 4))
        tables.attach(RID, DOMAIN, table=table)
        pasid, host = None, None
        right: tuple[str, ...] = ("all", "domain", "page", "page and directories", "8 KiB")
        wrong: tuple[str, ...] = ("device", "other domain", "next page", "page of other domain", "page of pasid")
        translations = "domain"

        def attach(same_tags: bool) -> None:
            tables.attach(RID, DOMAIN if same_tags else OTHER_DOMAIN, table=other)
    else:
        host = tables.attach(RID, DOMAIN, 4)
        host.map(GUEST_TABLES, GUEST_TABLES + MOVED, GUEST_SIZE)
        for frame in (FRAME, NEW_FRAME, OTHER_FRAME):
            host.map(frame, frame, 0x1000)
        guest_pages = PageAllocator(OffsetMemory(memory, MOVED), GUEST_TABLES)
        roots = Gcr3Table(guest_pages), Gcr3Table(guest_pages)
        trees = [root.add(PASID) for root in roots]
        table, other = two(lambda: trees.pop(0))
        tables.attach_guest(RID, DOMAIN, roots[0], host=host)
        pasid = PASID
        right = ("all", "pasid", "page of pasid", "domain")
        wrong = ("device", "other pasid", "next page of pasid", "page of other pasid", "pasid of other domain")
        translations = "pasid"

        def attach(same_tags: bool) -> None:
            tables.attach_guest(RID, DOMAIN if same_tags else OTHER_DOMAIN, roots[1], host=host)

    return Rig(
        name=f"AMD-Vi, {stages}",
        engine_of=AmdviEngine,
        registers=registers,
        memory=memory,
        policy=AMDVI,
        access=read(pasid),
        table=table,
        attach=attach,
        commands=commands,
        right=right,
        wrong=wrong,
        device=("device",),
        translations=translations,
        everything=("all",),
        leaf_only="page" if stages == "host" else "page of pasid",
        below=host,
    )


# --- SMMUv3 ---


def smmuv3(stages: str) -> Rig:
    """Stages "1", "2" or "12", of which the first is meant."""
    memory = SparseMemory((Region(0, RAM),))
    tables = Smmuv3Tables(memory, 0x1_0000)
    vmid, asid = {"VMID": DOMAIN}, {"VMID": DOMAIN, "ASID": SPACE}
    if stages == "1":
        vmid, asid = {"VMID": 0}, {"VMID": 0, "ASID": SPACE}
    page, next_page = {"ADDRESS": PAGE >> 12}, {"ADDRESS": NEXT_PAGE >> 12}
    code = Smmuv3Opcode
    described: dict[str, tuple[Smmuv3Opcode, dict[str, int]]] = {
        "configuration": (code.CMD_CFGI_STE_RANGE, {"RANGE": 31}),
        "stream": (code.CMD_CFGI_STE, {"STREAMID": RID}),
        "other stream": (code.CMD_CFGI_STE, {"STREAMID": RID + 1}),
        "context": (code.CMD_CFGI_CD, {"STREAMID": RID}),
        "all": (code.CMD_TLBI_NSNH_ALL, {}),
        "vmid, both stages": (code.CMD_TLBI_S12_VMALL, vmid),
        "other vmid, both stages": (code.CMD_TLBI_S12_VMALL, {"VMID": OTHER_DOMAIN}),
        "ipa": (code.CMD_TLBI_S2_IPA, {**vmid, **page}),
        "ipa, leaf": (code.CMD_TLBI_S2_IPA, {**vmid, **page, "LEAF": 1}),
        "ipa of frame": (code.CMD_TLBI_S2_IPA, {**vmid, "ADDRESS": FRAME >> 12}),
        "next ipa": (code.CMD_TLBI_S2_IPA, {**vmid, **next_page}),
        "ipa of other vmid": (code.CMD_TLBI_S2_IPA, {"VMID": OTHER_DOMAIN, **page}),
        "vmid": (code.CMD_TLBI_NH_ALL, vmid),
        "other vmid": (code.CMD_TLBI_NH_ALL, {"VMID": OTHER_DOMAIN}),
        "asid": (code.CMD_TLBI_NH_ASID, asid),
        "other asid": (code.CMD_TLBI_NH_ASID, {**asid, "ASID": OTHER_SPACE}),
        "va": (code.CMD_TLBI_NH_VA, {**asid, **page}),
        "va, leaf": (code.CMD_TLBI_NH_VA, {**asid, **page, "LEAF": 1}),
        "va of any asid": (code.CMD_TLBI_NH_VAA, {**vmid, **page}),
        "next va": (code.CMD_TLBI_NH_VA, {**asid, **next_page}),
        "va of other asid": (code.CMD_TLBI_NH_VA, {**asid, **page, "ASID": OTHER_SPACE}),
    }
    stage2 = None
    if "2" in stages:
        if stages == "2":
            stage2, other = two(lambda: RadixTable(tables.pages, Stage2Format(12, input_bits=40), 3))
            table = stage2
        else:
            stage2 = RadixTable(tables.pages, Stage2Format(12, input_bits=40), 3)
            stage2.map(GUEST_TABLES, GUEST_TABLES + MOVED, GUEST_SIZE)
            for frame in (FRAME, NEW_FRAME, OTHER_FRAME):
                stage2.map(frame, frame, 0x1000)
    first_right = ("all", "vmid", "asid", "va", "va, leaf", "va of any asid")
    first_wrong = ("configuration", "other vmid", "other asid", "next va", "va of other asid")
    if stages == "2":
        right: tuple[str, ...] = ("all", "vmid, both stages", "ipa", "ipa, leaf")
        wrong: tuple[str, ...] = ("configuration", "vmid", "other vmid, both stages", "next ipa", "ipa of other vmid")
        device, translations = ("stream",), "vmid, both stages"
        tables.attach(RID, None, stage2, vmid=DOMAIN)

        def attach(same_tags: bool) -> None:
            tables.attach(RID, None, other, vmid=DOMAIN if same_tags else OTHER_DOMAIN)
    else:
        pages = tables.pages
        right, wrong, device, translations = first_right, first_wrong, ("context",), "asid"
        if stages == "12":
            pages = PageAllocator(OffsetMemory(memory, MOVED), GUEST_TABLES)
            right, wrong = (*right, "vmid, both stages"), (*wrong, "ipa", "other vmid, both stages")
        entries = Stage1Format(12)
        table, other = two(lambda: RadixTable(pages, entries, entries.levels))
        contexts = Smmuv3ContextTable(pages)
        contexts.describe(0, table, asid=SPACE)
        tables.attach(RID, contexts, stage2, vmid=DOMAIN if stages == "12" else 0)

        def attach(same_tags: bool) -> None:
            contexts.describe(0, other, asid=SPACE if same_tags else OTHER_SPACE)

    registers = Smmuv3Registers(
        capabilities=smmu_capabilities(),
        cr0=CR0.encode({"SMMUEN": 1, "CMDQEN": 1}),
        strtab_base=tables.strtab_base,
        strtab_base_cfg=tables.strtab_base_cfg,
    )
    return Rig(
        name=f"SMMUv3, stage {stages}",
        engine_of=Smmuv3Engine,
        registers=registers,
        memory=memory,
        policy=SMMUV3,
        access=read(),
        table=table,
        attach=attach,
        commands={name: command_bits(opcode, **values) for name, (opcode, values) in described.items()},
        right=right,
        wrong=wrong,
        device=device,
        translations=translations,
        everything=("configuration", "all"),
        leaf_only="ipa, leaf" if stages == "2" else "va, leaf",
        below=stage2 if stages == "12" else None,
    )


RIGS: dict[str, Callable[[], Rig]] = {
    "vtd-legacy": vtd_legacy,
    "vtd-second": lambda: vtd_scalable("second"),
    "vtd-first-pasid": lambda: vtd_scalable("first"),
    "vtd-nested": lambda: vtd_scalable("nested"),
    "riscv-first": lambda: riscv("first"),
    "riscv-second": lambda: riscv("second"),
    "riscv-both-process": lambda: riscv("both"),
    "amdvi-host": lambda: amdvi("host"),
    "amdvi-guest-pasid": lambda: amdvi("guest"),
    "smmuv3-1": lambda: smmuv3("1"),
    "smmuv3-2": lambda: smmuv3("2"),
    "smmuv3-12": lambda: smmuv3("12"),
}
