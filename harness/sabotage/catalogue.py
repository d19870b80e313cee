"""The catalogue of sabotages: what each breaks, how, and the cases that must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

from harness.checks.known_issues import matches
from harness.errors import SpecError
from harness.live.machine import LiveMachine
from harness.model.access import Access, Outcome
from harness.sabotage import tamper
from harness.sabotage.tamper import RogueWrite
from harness.spec import IommuKind, Machine
from harness.vmm.qemu.arguments import Properties, Value
from harness.vmm.qemu.command import MANAGEMENT

__all__ = ["SABOTAGES", "Sabotage", "find_sabotage"]

_EVERY = (IommuKind.INTEL, IommuKind.VIRTIO)
_GROUPS = "test_groups.py::test_groups_hold_exactly_the_devices_behind_the_iommu"
_NO_DRIVER = "test_rogue_device.py::test_a_device_without_a_driver_reaches_nothing"
_DPDK = "test_dpdk.py"
_HOTPLUG = "test_hotplug.py"
_FIRMWARE = "test_start_by_firmware.py"
_LANDS = "test_vfio.py::test_dma_to_a_mapping_lands_exactly_where_the_model_says"
_NIC_AIMS = "test_vfio_nics.py::test_a_nic_reaches_nothing_that_is_not_mapped"
_RENUMBERED = "test_life_cycle.py::test_a_reset_that_gives_buses_other_numbers_leads_no_device_astray"
_ITS_ALONE = "test_interrupts.py::test_every_message_of_a_driver_is_its_devices_alone"

_WALK = "the model's walk of this machine's tables for *: expected blocked, saw *"
_FREE_NUMBER = "0x1d"  # of the root bus: harness/placement.py

_Said = tuple[Access, Outcome, str]


def _nothing(live: LiveMachine, id: str, iova: int) -> None:
    pass


def _as_it_is(live: LiveMachine, said: _Said) -> _Said:
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Sabotage:
    """One.

    Attributes:
        name: what it is called.
        says: what is broken, in a line.
        cases: those that are there to notice, below testcases/, without their parameters or with a part of them.
        by: patterns of what they must notice it by: one finding of each case must match, as reports print it.
        iommus: machines with which it can be done.
        kernel_args: words at the end of the guest kernel's command line.
        arguments: of QEMU's, each option with its value.
        alter: what becomes of a device of QEMU's command line; None takes it away.
        before_dma: done when a case is about to ask the model for an access: machine, id of the device, IOVA.
        before_interrupt: done when a case is about to ask it for an interrupt.
        before_mappings: done when a case is about to ask it for what is mapped: machine, id of the device.
        write: done in the place of each DMA write of a rogue device.
        after_unplug: done when the guest has let go of a device: machine, id of the device, address where it was.
        after_move: done when a machine has come into another QEMU.
        outcome: what is made of the model's answer.
        words: more options of pytest.
        within: entered for the whole run.
    """

    name: str
    says: str
    cases: tuple[str, ...]
    by: tuple[str, ...]
    iommus: tuple[IommuKind, ...] = (IommuKind.INTEL,)
    kernel_args: tuple[str, ...] = ()
    arguments: tuple[tuple[str, ...], ...] = ()
    alter: Callable[[Properties], Properties | None] = lambda front: front
    before_dma: Callable[[LiveMachine, str, int], None] = _nothing
    before_interrupt: Callable[[LiveMachine], None] = lambda live: None
    before_mappings: Callable[[LiveMachine, str], None] = lambda live, id: None
    write: Callable[[LiveMachine, RogueWrite], None] = lambda live, write: write.do(write.iova)
    after_unplug: Callable[[LiveMachine, str, str], None] = lambda live, id, address: None
    after_move: Callable[[LiveMachine], None] = lambda live: None
    outcome: Callable[[LiveMachine, _Said], _Said] = _as_it_is
    words: tuple[str, ...] = ()
    within: Callable[[], AbstractContextManager[object]] = nullcontext

    def is_for(self, case: str) -> bool:
        """Whether a case, by its pytest node id, is there to notice."""
        return matches(case, [f"testcases/{one}" if "[" in one else f"testcases/{one}*" for one in self.cases])


def find_sabotage(name: str) -> Sabotage:
    """The sabotage of that name.

    Raises:
        SpecError: there is none; the message lists them.
    """
    for sabotage in SABOTAGES:
        if sabotage.name == name:
            return sabotage
    raise SpecError(f"there is no sabotage {name!r}", hint=f"choose one of: {', '.join(s.name for s in SABOTAGES)}")


def _without(*drivers: str) -> Callable[[Properties], Properties | None]:
    return lambda front: None if front.driver in drivers else front


def _with(which: str, values: Mapping[str, Value]) -> Callable[[Properties], Properties | None]:
    """Other values for the device of that id, or the devices of that driver."""

    def alter(front: Properties) -> Properties:
        return replace(front, values={**front.values, **values}) if which in (front.id, front.driver) else front

    return alter


def _another_device(front: Properties) -> Properties:
    if front.driver != "edu":
        return front
    return Properties("pci-testdev", front.id, {key: front.values[key] for key in ("bus", "addr")})


def _slot_apart(front: Properties) -> Properties:
    """The second function of a slot in a slot of its own."""
    if front.driver == "edu" and str(front.values["addr"]).endswith(".1"):
        return replace(front, values={**front.values, "addr": _FREE_NUMBER})
    return front


def _spec_that_refuses_nothing() -> AbstractContextManager[object]:
    return patch.object(Machine, "__post_init__", lambda self: None)


SABOTAGES = (
    Sabotage(
        name="no-iommu",
        says="the machine has no IOMMU at all",
        iommus=_EVERY,
        alter=_without("intel-iommu", "virtio-iommu-pci"),
        cases=(_GROUPS, "test_firmware.py::test_firmware_tells_the_truth_about_every_device"),
        by=(
            "IOMMU group of *: expected a group of *, saw no group",
            "ACPI table *",
        ),
    ),
    Sabotage(
        name="iommu-unused",
        says="the guest's kernel is told not to use its IOMMU",
        kernel_args=("intel_iommu=off",),
        cases=(
            _GROUPS,
            _NO_DRIVER,
            "test_firmware.py::test_a_kernel_lives_with_units_that_name_each_device",
            f"{_FIRMWARE}::test_seabios_starts_a_guest_from_a_disk_behind_the_iommu",
        ),
        by=(
            "IOMMU group of *: expected a group of *, saw no group",
            _WALK,
        ),
    ),
    Sabotage(
        name="passed-through",
        says="the guest's kernel passes all devices through",
        iommus=_EVERY,
        kernel_args=("iommu=pt",),
        cases=(
            "test_groups.py::test_group_type_follows_the_kernel_command_line[*strict]",
            "test_dma_modes.py::test_words_for_every_iommu_mean_what_they_say[*iommu.passthrough=0]",
            _NO_DRIVER,
        ),
        by=(
            "type of IOMMU group *",
            _WALK,
        ),
    ),
    Sabotage(
        name="flushed-at-once",
        says="the guest's kernel is told to flush what is unmapped at once, where lazy mode is asked for",
        kernel_args=("iommu.strict=1",),
        cases=("test_dma_modes.py::test_lazy_mode_blocks_what_is_unmapped_from_the_flush_on",),
        by=("type of IOMMU group *: expected DMA-FQ, saw DMA",),
    ),
    Sabotage(
        name="bus-bypassed",
        says="the root bus goes around the IOMMU",
        arguments=(("-machine", "default_bus_bypass_iommu=on"),),
        cases=(_GROUPS, _NO_DRIVER, f"{_HOTPLUG}::test_a_device_on_a_bus_that_is_plugged_is_held_back"),
        by=(
            "IOMMU group of *: expected a group of *, saw no group",
            _WALK,
        ),
    ),
    Sabotage(
        name="driver-missing",
        says="the driver of the virtio-iommu is not loaded, with boot-bypass on",
        iommus=(IommuKind.VIRTIO,),
        kernel_args=("module_blacklist=virtio_iommu", "deferred_probe_timeout=0"),
        alter=_with("virtio-iommu-pci", {"boot-bypass": True}),
        cases=(_GROUPS,),
        by=("IOMMU group of *: expected a group of *, saw no group",),
    ),
    Sabotage(
        name="interrupts-not-remapped",
        says="the IOMMU remaps no interrupts",
        alter=_with("intel-iommu", {"intremap": "off"}),
        cases=(_ITS_ALONE,),
        by=("what the model makes of *",),
    ),
    Sabotage(
        name="interrupts-remapped",
        says="the IOMMU remaps interrupts where it must not",
        alter=_with("intel-iommu", {"intremap": "on"}),
        cases=(
            "test_interrupts.py::test_without_interrupt_remapping_vfio_refuses_devices",
            "test_interrupts.py::test_without_interrupt_remapping_a_forged_interrupt_arrives",
        ),
        by=("*: expected a refusal: *", "what the model makes of *: expected let through, saw *"),
    ),
    Sabotage(
        name="page-entry-turned",
        says="entries of page tables lead to another page",
        before_dma=tamper.turn_leaf,
        cases=(
            _LANDS,
            "test_vfio.py::test_a_dma_over_scattered_pages_goes_on_in_the_next_one",
            "test_vfio.py::test_a_device_reaches_the_registers_of_another_only_through_a_mapping",
            "test_vfio.py::test_a_device_with_short_addresses_reaches_memory_above_them",
            "test_vfio.py::test_a_user_space_driver_is_safe_through_vfio_only",
            "test_scalable_mode.py::test_a_device_in_scalable_mode_is_held_to_its_mappings",
            "test_vfio_nics.py::test_a_nic_sends_and_stores_frames_to_the_byte[*virtio-net]",
            f"{_DPDK}::test_dpdk_forwards_every_frame_by_its_virtual_addresses",
        ),
        by=("the model's walk of this machine's tables for *: expected goes to *, saw *",),
    ),
    Sabotage(
        name="context-entry-passes-through",
        says="the device's context entry lets it through untranslated",
        before_dma=tamper.pass_through,
        cases=(
            "test_rogue_device.py::test_a_rogue_write_is_blocked[*victim-page]",
            f"{_NIC_AIMS}[*e1000e-own-address]",
        ),
        by=(_WALK,),
    ),
    Sabotage(
        name="interrupt-entries-open",
        says="entries of the interrupt remapping table verify no source",
        before_interrupt=tamper.open_interrupt_entries,
        cases=(_ITS_ALONE,),
        by=("what the model makes of *",),
    ),
    Sabotage(
        name="unmap-without-invalidation",
        says="an unmap leaves what is cached",
        before_dma=tamper.keep_translations,
        cases=(_LANDS, f"{_NIC_AIMS}[*e1000e-unmapped]", _RENUMBERED),
        by=(
            "memory at * after *: expected * (unchanged), saw *",
            "byte * of a frame that came out after *: expected not what stands in memory, saw *",
        ),
    ),
    Sabotage(
        name="requester-mistaken",
        says="one device is taken for another",
        before_dma=tamper.mistake_requester,
        cases=("test_vfio.py::test_containers_are_worlds_of_their_own",),
        by=(_WALK,),
    ),
    Sabotage(
        name="model-allows-writes",
        says="the model allows a write wherever it allows a read",
        iommus=_EVERY,
        outcome=tamper.forget_write_permission,
        cases=(
            "test_rogue_device.py::test_a_rogue_write_is_blocked[*wrong-way]",
            "test_vfio_nics.py::test_a_nic_is_held_to_the_permission_of_a_page[*virtio-net]",
        ),
        by=(_WALK,),
    ),
    Sabotage(
        name="outside-is-inside",
        says="the root complex outside the IOMMU does not bypass it",
        iommus=_EVERY,
        alter=_with("pxb-pcie", {"bypass_iommu": False}),
        cases=(
            "test_rogue_device.py::test_a_device_outside_the_iommu_reaches_all_memory",
            "test_vfio_nics.py::test_a_nic_outside_the_iommu_reaches_all_memory[*igb]",
        ),
        by=(
            "memory at * after *: expected * (payload), saw *",
            "what came out of the cable after *: expected *, saw *",
        ),
    ),
    Sabotage(
        name="inside-is-outside",
        says="the second root complex, which is to be behind the IOMMU, bypasses it",
        iommus=_EVERY,
        alter=_with("expander.0", {"bypass_iommu": True}),
        cases=("test_topologies.py::test_a_second_root_complex_is_behind_the_iommu_like_the_first",),
        by=("IOMMU group of *: expected a group of *, saw no group",),
    ),
    Sabotage(
        name="extended-interrupts-off",
        says="the IOMMU has destinations of eight bits, where those of 32 are asked for",
        alter=_with("intel-iommu", {"eim": "off"}),
        cases=("test_interrupts.py::test_a_forged_interrupt_is_blocked_in_x2apic_mode",),
        by=("Extended Interrupt Mode in IRTA_REG: expected 1, saw 0",),
    ),
    Sabotage(
        name="bypassed-at-boot",
        says="a virtio-iommu that is to let nothing pass before it has a driver has boot-bypass on",
        iommus=(IommuKind.VIRTIO,),
        alter=_with("virtio-iommu-pci", {"boot-bypass": True}),
        cases=(f"{_FIRMWARE}::test_without_boot_bypass_firmware_reads_no_disk[*seabios]",),
        by=("DMA of disk that the IOMMU is asked about: expected some, saw none",),
    ),
    Sabotage(
        name="closed-at-boot",
        says="a virtio-iommu that is to let all pass before it has a driver has boot-bypass off",
        iommus=(IommuKind.VIRTIO,),
        alter=_with("virtio-iommu-pci", {"boot-bypass": False}),
        cases=(f"{_FIRMWARE}::test_a_device_reaches_all_memory_while_firmware_runs[*seabios]",),
        by=("the model's walk of this machine's tables for *: expected goes to *, saw *",),
    ),
    Sabotage(
        name="another-device",
        says="another device stands where edu was asked for",
        alter=_another_device,
        cases=("test_groups.py::test_lspci_shows_every_function_and_no_other",),
        by=("lspci at *",),
    ),
    Sabotage(
        name="platform-bit-set",
        says="the device that goes around the IOMMU offers VIRTIO_F_ACCESS_PLATFORM",
        alter=_with(MANAGEMENT, {"iommu_platform": True}),
        cases=("test_devices.py::test_virtio_without_access_platform_goes_around_the_iommu",),
        by=("VIRTIO_F_ACCESS_PLATFORM of *",),
    ),
    Sabotage(
        name="platform-bit-missing",
        says="virtio-blk does not offer VIRTIO_F_ACCESS_PLATFORM",
        iommus=_EVERY,
        alter=_with("virtio-blk-pci", {"iommu_platform": False}),
        cases=(
            "test_devices.py::test_virtio_blk_reads_back_what_was_written[*on]",
            "test_virtio_features.py::test_virtio_blk_takes_the_path_of_the_truth_table[*modern-platform-behind*strict]",
        ),
        by=("VIRTIO_F_ACCESS_PLATFORM of *",),
    ),
    Sabotage(
        name="writes-land-untranslated",
        says="what a device writes lands at the address that it puts on the bus, beside what the IOMMU does with it",
        iommus=_EVERY,
        write=tamper.land_untranslated,
        cases=("test_rogue_device.py::test_a_rogue_write_is_blocked[*victim-page]", _NO_DRIVER),
        by=("memory at * after *: expected * (unchanged), saw *",),
    ),
    Sabotage(
        name="writes-lost",
        says="nothing of what a device writes lands",
        iommus=_EVERY,
        write=tamper.lose,
        cases=(_LANDS, "test_rogue_device.py::test_a_rogue_write_is_blocked[*victim-page]"),
        by=("memory at * after *: expected * (payload), saw *",),
    ),
    Sabotage(
        name="faults-untold",
        says="the IOMMU's fault interrupt is masked",
        write=tamper.mask_fault_event,
        cases=("test_rogue_device.py::test_a_rogue_write_is_blocked[*victim-page]", _NO_DRIVER),
        by=("fault report of * in the guest's log: expected a fault of *, saw no fault of *",),
    ),
    Sabotage(
        name="writes-astray",
        says="a device writes where nothing is mapped as well",
        iommus=_EVERY,
        write=tamper.write_astray,
        cases=(_LANDS,),
        by=("fault report after *: expected none: it is allowed, saw *",),
    ),
    Sabotage(
        name="unplugged-comes-back",
        says="a device that was unplugged is plugged again at once",
        iommus=_EVERY,
        after_unplug=tamper.plug_back,
        cases=(f"{_HOTPLUG}::test_unplugged_devices_leave_their_groups[*acpi]",),
        by=(
            "lspci at *",
            "IOMMU group of *",
        ),
    ),
    Sabotage(
        name="slot-apart",
        says="the functions of a slot stand in two",
        iommus=_EVERY,
        alter=_slot_apart,
        cases=("test_topologies.py::test_devices_that_share_a_way_share_a_group[*slot]",),
        by=(
            "IOMMU group of *",
            "IOMMU group *",
        ),
    ),
    Sabotage(
        name="moved-mapping-lost",
        says="a mapping is gone after a move to a newer QEMU",
        after_move=tamper.lose_mapping,
        words=("--qemu=bookworm", "--move-to=trixie"),  # Debian's 10.0 cannot be moved to 11.1: docs/findings.md, F-10
        cases=("test_migration.py::test_mappings_hold_after_a_move_to_a_newer_qemu",),
        by=("*: expected *, saw no such mapping",),
    ),
    Sabotage(
        name="mapping-in-use-lost",
        says="a mapping of a user-space driver goes away while its frames flow",
        before_mappings=tamper.lose_mapping_in_use,
        cases=(f"{_DPDK}::test_dpdk_costs_the_iommu_nothing_while_frames_flow",),
        by=("what the model finds mapped for nic afterwards: expected *, saw no such mapping",),
    ),
    Sabotage(
        name="nothing-refused",
        says="a spec refuses nothing",
        within=_spec_that_refuses_nothing,
        cases=("test_refusals.py::test_a_device_that_no_iommu_can_stand_before_is_refused_by_name",),
        by=("*: expected a refusal that names it, saw *",),
    ),
)
"""All of them."""
