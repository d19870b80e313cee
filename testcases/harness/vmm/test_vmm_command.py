from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from vmm_rig import spec

from harness.artifacts.qemu import QemuBuild
from harness.placement import Root, place
from harness.spec import Device, DeviceKind, Firmware, Iommu, IommuKind, Machine, Room, Scalable
from harness.spec import Start as FirmwareStart
from harness.vmm.protocol import Boot, FirmwareBoot, Flash, LinuxBoot, SavedMachine
from harness.vmm.qemu.arguments import Arguments, Properties
from harness.vmm.qemu.command import Accelerator, Options, command_line, front_ends
from harness.vmm.qemu.devices import front_end
from harness.vmm.qemu.machine import command_by_hand
from harness.vmm.qemu.wiring import HandWiring, HarnessWiring

_BOOT = FirmwareBoot(firmware=Path("/rom"))


def _line(machine: Machine, options: Options | None = None, boot: Boot = _BOOT) -> Arguments:
    return command_line(machine, boot, HandWiring(), options or Options())


def _devices(machine: Machine) -> list[str]:
    return [pair[1] for pair in _line(machine).pairs if pair[0] == "-device"]


def test_iommu_on_is_a_platform_device_on_the_main_root() -> None:
    (blk,) = [d for d in _devices(spec("virtio-blk,iommu=on", iommu=IommuKind.INTEL)) if "blk" in d]
    assert "bus=pcie.0,addr=0x4," in blk
    assert blk.endswith("iommu_platform=on,disable-legacy=on")


def test_iommu_off_is_no_platform_device_behind_the_root_that_bypasses() -> None:
    machine = spec("virtio-blk,iommu=off", iommu=IommuKind.INTEL)
    devices = _devices(machine)
    root, (port,) = Root.OUTSIDE.value, place(machine).ports
    assert f"pxb-pcie,id={root},bus=pcie.0,addr=0x3,bus_nr=0x80,bypass_iommu=on" in devices
    assert f"pcie-root-port,id={port.id},bus={root},addr=0x0,io-reserve=0x1000,chassis=1,slot=1" in devices
    (blk,) = [d for d in devices if "blk" in d]
    assert f"bus={port.id},addr=0x0," in blk
    assert blk.endswith("iommu_platform=off,disable-legacy=on")


def test_there_is_no_second_root_where_nothing_stands_outside() -> None:
    assert not [d for d in _devices(spec("edu,iommu=on", iommu=IommuKind.INTEL)) if "pxb" in d]


@pytest.mark.parametrize("kind", [IommuKind.INTEL, IommuKind.VIRTIO])
def test_the_iommu_stands_before_every_other_device(kind: IommuKind) -> None:
    assert _devices(spec("edu,iommu=on", "virtio-net,iommu=off", iommu=kind))[0].startswith(f"{kind}-iommu")


def _iommu(iommu: Iommu) -> list[str]:
    """The words of the IOMMU's device, without its id."""
    return [word for word in _devices(Machine(iommu=iommu))[0].split(",") if not word.startswith("id=")]


def test_what_the_spec_leaves_open_is_not_on_the_command_line() -> None:
    # intremap is: harness.placement decides it where the spec does not.
    assert _iommu(Iommu(kind=IommuKind.INTEL)) == ["intel-iommu", "intremap=on"]
    assert _iommu(Iommu(kind=IommuKind.VIRTIO)) == ["virtio-iommu-pci", "bus=pcie.0", "addr=0x1"]


def test_what_the_spec_says_of_intel_iommu_is_on_the_command_line() -> None:
    iommu = Iommu(
        kind=IommuKind.INTEL, interrupt_remapping=False, caching_mode=True, aw_bits=39, extended_interrupts=False
    )
    assert _iommu(iommu) == ["intel-iommu", "intremap=off", "caching-mode=on", "aw-bits=39", "eim=off"]


@pytest.mark.parametrize(
    ("scalable", "properties"),
    [
        (None, []),
        (Scalable.SECOND_STAGE, ["scalable-mode=on"]),
        (Scalable.FIRST_STAGE, ["scalable-mode=on", "fsts=on"]),
    ],
)
def test_scalable_mode_is_of_one_stage(scalable: Scalable | None, properties: list[str]) -> None:
    assert _iommu(Iommu(kind=IommuKind.INTEL, scalable=scalable)) == ["intel-iommu", "intremap=on", *properties]


def test_a_property_has_the_name_that_the_build_has_for_it() -> None:
    machine = Machine(iommu=Iommu(kind=IommuKind.INTEL, scalable=Scalable.SECOND_STAGE))
    assert "scalable-mode=on" in " ".join(_line(machine))
    assert "x-scalable-mode=on" in " ".join(_line(machine, options=Options(names={"scalable-mode": "x-scalable-mode"})))


def test_amd_iommu_comes_after_the_function_that_it_is_told_to_take() -> None:
    function, iommu = _devices(Machine(iommu=Iommu(kind=IommuKind.AMD), devices=(Device.parse("edu,iommu=off"),)))[:2]
    assert function == "AMDVI-PCI,id=iommu-function.0,bus=pcie.0,addr=0x1"
    assert iommu == "amd-iommu,id=iommu.0,dma-remap=on,intremap=on,pci-id=iommu-function.0"


def test_what_the_spec_says_of_virtio_iommu_is_on_the_command_line() -> None:
    iommu = Iommu(kind=IommuKind.VIRTIO, aw_bits=48, boot_bypass=False)
    assert _iommu(iommu)[-2:] == ["aw-bits=48", "boot-bypass=off"]


def test_a_device_for_hotplug_has_its_back_end_and_is_not_there_yet() -> None:
    machine = spec("virtio-blk,hotplug=on")
    assert not [d for d in _devices(machine) if "blk" in d]
    assert any("node-name=virtio-blk0-disk" in word for word in _line(machine))


def test_hotplug_takes_the_same_properties_as_the_command_line() -> None:
    machine = spec("virtio-net,iommu=on,hotplug=on", iommu=IommuKind.INTEL)
    (front,) = front_end(place(machine).slot("virtio-net0"))
    words = dict(word.split("=") for word in front.text().split(",")[1:])
    on_off: dict[object, object] = {True: "on", False: "off"}
    assert {k: on_off.get(v, v) for k, v in front.json().items() if k != "driver"} == words


def test_a_port_for_a_bridge_that_comes_later_keeps_a_bus_number_for_it() -> None:
    line = _devices(spec("edu,iommu=on,bridge=b,hotplug=on", "edu,iommu=on,hotplug=on", iommu=IommuKind.INTEL))
    assert ["bus-reserve=1" in d for d in line if d.startswith("pcie-root-port")] == [True, False]
    assert not [d for d in line if d.startswith("pcie-pci-bridge")]


def test_a_bridge_that_has_come_is_there_from_the_start_in_the_qemu_that_a_machine_moves_to() -> None:
    machine = spec("edu,iommu=on,bridge=b,hotplug=on,id=it", iommu=IommuKind.INTEL)
    fronts = [front.text() for front in front_ends(machine, place(machine), ["it"])]
    assert "pcie-pci-bridge,id=bridge.b,bus=port.1" in fronts
    assert any(front.startswith("edu,id=it,bus=bridge.b,addr=0x1") for front in fronts)


def test_edu_can_put_every_address_on_the_bus() -> None:
    assert "edu,id=edu0,bus=pcie.0,addr=0x4,dma_mask=0xffffffffffffffff" in _devices(spec("edu"))


def test_a_comma_in_a_value_does_not_start_another_option() -> None:
    assert Properties("x", "i", {"drive": "a,b"}).text() == "x,id=i,drive=a,,b"
    sockets = [w for w in HarnessWiring(Path("/a,b"), {}).channels() if w[1].startswith("socket,id=qmp")]
    assert sockets[0][1] == "socket,id=qmp,path=/a,,b/qmp.sock"


def test_the_printed_command_means_the_same_words_to_a_shell() -> None:
    boot = LinuxBoot(kernel=Path("/k"), initrd=Path("/i i"), args=("console=ttyS0", "quiet"))
    line = _line(spec("edu"), boot=boot)
    text = line.shell(("qemu", "-L", "a b"), {"X": "1 2"})
    assert shlex.split(text.replace("\\\n", "")) == ["X=1 2", "qemu", "-L", "a b", *line]
    assert "\n    -append 'console=ttyS0 quiet'" in text


def test_interrupt_remapping_has_the_irqchip_that_it_needs_under_kvm() -> None:
    pairs = _line(spec(), Options(accelerator=Accelerator.KVM)).pairs
    assert ("-machine", "q35,kernel-irqchip=split") in pairs


def test_memory_is_shared_with_its_file_by_the_machine_that_is_saved_and_by_no_other() -> None:
    linux = LinuxBoot(kernel=Path("/k"), ram=Path("/ram"))
    saved = SavedMachine(
        ram=Path("/ram"),
        state=Path("/state"),
        option_roms=("pvh.bin",),
        console=Path("/console"),
        trace=Path("/trace"),
        booted=linux,
    )
    words = {boot: list(_line(spec(), boot=boot)) for boot in (linux, replace(linux, ram=None), saved)}
    backends = {boot: next(word for word in line if word.startswith("memory-backend")) for boot, line in words.items()}
    assert list(backends.values()) == [
        "memory-backend-file,id=ram.0,size=128M,mem-path=/ram,share=on",
        "memory-backend-ram,id=ram.0,size=128M",
        "memory-backend-file,id=ram.0,size=128M,mem-path=/ram,share=off",
    ]
    assert "-incoming" in words[saved]
    assert "-kernel" not in words[saved]
    assert words[saved][words[saved].index("-option-rom") + 1] == "pvh.bin"


def test_sandbox_is_asked_for_where_it_is_to_be() -> None:
    assert not [pair for pair in _line(spec()).pairs if pair[0] == "-sandbox"]
    ((_, asked),) = [pair for pair in _line(spec(), Options(sandbox=True)).pairs if pair[0] == "-sandbox"]
    assert asked.startswith("on,")
    assert "spawn=deny" in asked


def test_every_device_has_an_id_and_an_address() -> None:
    machine = Machine(
        iommu=Iommu(kind=IommuKind.VIRTIO),
        devices=tuple(Device.parse(f"{kind},iommu={tag}") for kind in ("edu", "virtio-net") for tag in ("on", "off")),
    )
    devices = _devices(machine)
    assert len(devices) == 1 + 1 + 2 + 1 + 2 + 4
    assert all(",id=" in text and ",bus=" in text for text in devices)
    assert [text.partition(",")[0] for text in devices if ",addr=" not in text] == ["virtserialport"]


def test_a_disk_of_a_machine_run_by_hand_leads_to_no_file() -> None:
    replaced = replace(spec("virtio-blk"), memory_mib=256)
    assert any("null-co" in word for word in _line(replaced))


@pytest.mark.parametrize(
    ("options", "properties"),
    [
        ("iommu=on", "iommu_platform=on,disable-legacy=on"),
        ("iommu=on,platform=off", "iommu_platform=off,disable-legacy=on"),
        ("platform=on", "iommu_platform=on,disable-legacy=on"),
        ("virtio=transitional", "iommu_platform=off,disable-legacy=off"),
        ("virtio=legacy", "iommu_platform=off,disable-legacy=off,disable-modern=on"),
    ],
)
def test_interface_and_access_platform_are_on_the_command_line(options: str, properties: str) -> None:
    (rng,) = [d for d in _devices(spec(f"virtio-rng,{options}", iommu=IommuKind.INTEL)) if "virtio-rng" in d]
    assert rng.endswith(f"rng=virtio-rng0-backend,{properties}")


@pytest.mark.parametrize("kind", [kind for kind in DeviceKind if kind.can_be_plugged])
def test_what_is_plugged_is_what_would_have_been_there_at_boot(kind: DeviceKind) -> None:
    machine = spec(f"{kind},hotplug=on,id=it")
    there = replace(machine, devices=(replace(machine.devices[0], hotplug=False),))
    parts = front_end(place(machine).slot("it"))
    assert parts[0].driver == (f"{kind}-pci" if kind.is_virtio else kind.value)
    assert parts[0].id == "it"
    at_boot = front_end(place(there).slot("it"))
    assert [part.driver for part in parts] == [part.driver for part in at_boot]
    assert [part.values for part in parts[1:]] == [part.values for part in at_boot[1:]]


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("virtio-scsi", "-blockdev", "node-name=it-disk"),
        ("virtio-serial", "-chardev", "id=it-port"),
        ("e1000e", "-netdev", "id=it-net"),
        ("virtio-rng", "-object", "rng-builtin,id=it-backend"),
        ("virtio-crypto", "-object", "cryptodev-backend-builtin,id=it-backend"),
    ],
)
def test_a_device_that_is_plugged_later_has_its_back_end_from_the_start(kind: str, option: str, value: str) -> None:
    line = _line(spec(f"{kind},hotplug=on,id=it"))
    assert any(pair[0] == option and value in pair[1] for pair in line.pairs)


def test_the_first_ports_outside_keep_room_for_legacy_registers() -> None:
    machine = spec(*("edu,iommu=off",) * 6, iommu=IommuKind.INTEL)
    ports = [d for d in _devices(machine) if d.startswith("pcie-root-port")]
    assert [",io-reserve=0x1000," in d for d in ports] == [True] * 4 + [False] * 2


def test_a_guest_that_resets_ends_qemu_unless_it_may_reboot() -> None:
    assert ("-no-reboot",) in _line(spec()).pairs
    assert ("-no-reboot",) not in _line(spec(), Options(reboots=True)).pairs


def test_a_machine_has_the_room_that_is_asked_for_and_no_other() -> None:
    machine = replace(spec(), cpus=2, room=Room(cpus=1, memory_mib=256))
    assert {("-smp", "2,maxcpus=3,sockets=3,cores=1,threads=1"), ("-m", "128M,slots=1,maxmem=384M")} <= {
        *_line(machine).pairs
    }
    assert {("-smp", "1"), ("-m", "128M")} <= {*_line(spec()).pairs}


@dataclass(frozen=True)
class _Disk:
    id: str

    def write(self, image: Path, boot: LinuxBoot) -> None:
        raise AssertionError("a command line writes nothing")


def _start(firmware: Firmware, disk: str | None, *devices: str) -> Machine:
    return replace(spec(*devices), start=FirmwareStart(firmware=firmware, disk=disk))


@pytest.mark.parametrize(("kind", "part"), [("virtio-blk", "virtio-blk-pci"), ("virtio-scsi", "scsi-hd")])
def test_firmware_is_handed_no_kernel_and_starts_with_the_medium_of_its_disk(kind: str, part: str) -> None:
    boot = LinuxBoot(kernel=Path("/k"), initrd=Path("/i"), args=("quiet",), disk=_Disk("here"))
    line = _line(_start(Firmware.SEABIOS, "here", f"{kind},id=here", f"{kind},id=other"), boot=boot)
    assert not {"-kernel", "-initrd", "-append"} & set(line)
    first = [pair[1] for pair in line.pairs if "bootindex=0" in pair[-1]]
    assert len(first) == 1
    assert first[0].startswith(part)
    assert "drive=here-disk" in first[0]
    assert ("-machine", "graphics=off") in line.pairs


def test_a_machine_whose_kernel_is_handed_over_has_no_order_of_disks() -> None:
    words = list(_line(spec("virtio-blk"), boot=LinuxBoot(kernel=Path("/k"))))
    assert not [word for word in words if "bootindex" in word or "graphics" in word or "pflash" in word]


@pytest.mark.parametrize("alone", [True, False])
def test_flash_chips_are_a_code_that_stays_and_variables_of_the_machines_own(alone: bool) -> None:
    flash = Flash(code=Path("/a,b/code"), variables=Path("/variables"))
    boot = FirmwareBoot(firmware=flash) if alone else LinuxBoot(kernel=Path("/k"), firmware=flash)
    machine = _start(Firmware.OVMF, None)
    own = command_line(machine, boot, HarnessWiring(Path("/run"), {}), Options()).pairs
    by_hand = _line(machine, boot=boot).pairs
    code = ("-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/a,,b/code")
    assert [pair for pair in own if "pflash" in pair[-1]] == [
        code,
        ("-drive", "if=pflash,unit=1,format=raw,readonly=off,file=/run/variables.fd"),
    ]
    assert [pair for pair in by_hand if "pflash" in pair[-1]] == [
        code,
        ("-drive", "if=pflash,unit=1,format=raw,snapshot=on,file=/variables"),
    ]
    assert not any(pair[0] == "-bios" for pair in own)


def test_by_hand_the_kernel_of_a_disk_is_handed_to_the_same_firmware(build: QemuBuild) -> None:
    flash = Flash(code=Path("/code"), variables=Path("/variables"))
    boot = LinuxBoot(kernel=Path("/k"), overlay=b"keys", args=("quiet",), firmware=flash, disk=_Disk("here"))
    text = command_by_hand(_start(Firmware.OVMF, "here", "virtio-blk,id=here"), build, boot, Options())
    assert "-kernel /k" in text
    assert "file=/code" in text
    assert "keys" not in text
