"""The boards that programs run on: what QEMU is told to make them, and where things are on each.

No firmware runs: the processor halts at once, and what firmware would have done to PCI the harness does.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.vmm.qemu.apic import DELIVERY_EVENT

__all__ = ["ARM", "BOARDS", "PC", "RISCV", "Board"]


@dataclass(frozen=True, slots=True)
class Board:
    """One.

    Attributes:
        name: QEMU's name of the machine.
        arch: of its processor, under Debian's name.
        words: of the command line, for machine and processor.
        firmware: what the processor runs first, which is to wait for ever.
        ram: physical address where memory begins.
        ecam: physical address of PCI configuration space.
        window: physical address from which on BARs are placed.
        set_up: qtest commands that have to come first after each reset.
        reset: qtest commands that reset the machine; none where there is no register for it.
        devices: physical addresses where something stands that is no memory: what a DMA does there is not known.
        overwritten: what QEMU itself writes at each reset, from the start of memory on.
        interrupts: QEMU's trace event for each message that reaches the processors' interrupt controllers; empty where
            none tells what the message was.
        starts_in_ram: the firmware is at the start of memory.
    """

    name: str
    arch: str
    words: tuple[str, ...]
    firmware: bytes
    ram: int
    ecam: int
    window: int
    set_up: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    devices: tuple[range, ...] = ()
    overwritten: range = range(0)
    interrupts: str = ""
    starts_in_ram: bool = False


PC = Board(
    name="q35",
    arch="amd64",
    words=("-machine", "q35"),
    # 64 KiB whose reset vector, 16 bytes before the end, is cli; hlt; jmp back to the hlt.
    firmware=bytes.fromhex("fa f4 eb fd").rjust(0xFFF4, b"\0").ljust(0x1_0000, b"\0"),
    ram=0,
    ecam=0xB000_0000,
    window=0xC000_0000,
    # PCIEXBAR: Intel 3 Series (P35) datasheet, 5.1.17; QEMU, hw/pci-host/q35.c.
    set_up=("outl 0xcf8 0x80000060", "outl 0xcfc 0xb0000001"),
    # Reset control register: QEMU, hw/isa/lpc_ich9.c.
    reset=("outb 0xcf9 0x2", "outb 0xcf9 0x6"),
    devices=(range(0xA_0000, 0x10_0000), range(0xB000_0000, 1 << 32)),
    interrupts=DELIVERY_EVENT,
)

ARM = Board(
    name="virt",
    arch="arm64",
    words=("-machine", "virt,iommu=smmuv3,gic-version=3,highmem=off", "-cpu", "cortex-a57"),
    firmware=bytes.fromhex("7f2003d5 ffffff17"),  # wfi; b to the wfi
    ram=0x4000_0000,
    devices=(range(0x4000_0000),),
    ecam=0x3F00_0000,
    window=0x1000_0000,
)

RISCV = Board(
    name="virt",
    arch="riscv64",
    words=("-machine", "virt,aia=aplic-imsic", "-cpu", "rv64"),
    firmware=bytes.fromhex("73005010 6ff0dfff"),  # wfi; j to the wfi
    ram=0x8000_0000,
    devices=(range(0x8000_0000),),
    ecam=0x3000_0000,
    window=0x4000_0000,
    # SiFive test device: QEMU, hw/misc/sifive_test.c.
    reset=("writel 0x100000 0x7777",),
    # The device tree: QEMU, hw/riscv/boot.c, riscv_compute_fdt_addr.
    overwritten=range(0x60_0000, 0x61_0000),
    starts_in_ram=True,
)

BOARDS = (PC, ARM, RISCV)
