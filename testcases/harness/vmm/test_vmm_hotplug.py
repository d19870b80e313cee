from __future__ import annotations

import pytest
from vmm_rig import Start, spec

from harness.errors import GuestError, SpecError, Unsupported
from harness.placement import place
from harness.spec import DeviceKind, Interface, IommuKind
from harness.vmm.qemu.capabilities import Capabilities, require
from harness.vmm.qemu.devices import front_end, virtio_interface
from harness.vmm.qemu.qmp import QmpError


@pytest.mark.parametrize("kind", [kind.value for kind in DeviceKind if kind.can_be_plugged])
@pytest.mark.parametrize("tag", ["on", "off"])
def test_a_device_is_plugged_into_a_running_machine(
    start: Start, capabilities: Capabilities, kind: str, tag: str
) -> None:
    machine = spec(f"{kind},iommu={tag},hotplug=on", iommu=IommuKind.INTEL)
    try:
        require(machine, capabilities)
    except Unsupported as error:
        pytest.skip(error.message)
    running = start(machine)
    running.plug(f"{kind}0")
    children = running.qmp.execute("qom-list", {"path": "/machine/peripheral"})
    assert f"{kind}0" in [child["name"] for child in children]


def test_what_is_plugged_has_the_properties_of_what_is_there_at_boot(start: Start) -> None:
    machine = start(spec("edu", "edu,hotplug=on"))
    machine.plug("edu1")
    masks = [
        machine.qmp.execute("qom-get", {"path": f"/machine/peripheral/{id}", "property": "dma_mask"})
        for id in ("edu0", "edu1")
    ]
    assert masks == [(1 << 64) - 1] * 2


def test_a_device_brings_its_bridge_and_the_machine_runs_on(start: Start) -> None:
    machine = start(spec("edu,iommu=on,bridge=b,hotplug=on,id=it", iommu=IommuKind.INTEL))
    machine.plug("it")
    children = {child["name"] for child in machine.qmp.execute("qom-list", {"path": "/machine/peripheral"})}
    assert children >= {"bridge.b", "it"}
    assert machine.qmp.execute("query-status")["status"] == "running"


def test_a_machine_whose_bridge_is_refused_runs_on(start: Start) -> None:
    machine = start(spec("edu,iommu=on,bridge=b,hotplug=on,id=it", iommu=IommuKind.INTEL))
    machine.plug("it")
    with pytest.raises(QmpError, match=r"[Dd]uplicate"):
        machine.plug("it")
    assert machine.qmp.execute("query-status")["status"] == "running"


def test_a_device_that_is_there_at_boot_cannot_be_plugged(start: Start) -> None:
    with pytest.raises(SpecError, match="edu0 is there from the start"):
        start(spec("edu")).plug("edu0")


def test_plugging_twice_is_refused_in_qemus_words(start: Start) -> None:
    machine = start(spec("edu,hotplug=on"))
    machine.plug("edu0")
    with pytest.raises(QmpError, match=r"[Dd]uplicate"):
        machine.plug("edu0")


def test_a_guest_that_does_not_let_go_is_a_guest_error(start: Start) -> None:
    machine = start(spec("edu,hotplug=on"))
    machine.plug("edu0")
    with pytest.raises(GuestError, match=r"did not let go of edu0 within 0\.3 s"):
        machine.unplug("edu0", deadline=0.3)


def test_unplugging_what_is_not_there_is_refused(start: Start) -> None:
    with pytest.raises(QmpError, match="edu0"):
        start(spec("edu,hotplug=on")).unplug("edu0")


@pytest.mark.parametrize("interface", [Interface.TRANSITIONAL, Interface.LEGACY], ids=str)
@pytest.mark.parametrize("kind", [kind.value for kind in DeviceKind if kind.has_legacy])
def test_qemu_refuses_access_platform_of_a_legacy_interface_as_specs_do(
    start: Start, kind: str, interface: Interface
) -> None:
    machine = start(spec(f"{kind},hotplug=on,id=it"))
    front = front_end(place(machine.spec).slot("it"))[0].json()
    with pytest.raises(QmpError, match="neither legacy nor transitional"):
        machine.qmp.execute("device_add", front | virtio_interface(interface, platform=True))


def test_qemu_refuses_a_second_balloon_as_specs_do(start: Start) -> None:
    machine = start(spec("virtio-balloon", "virtio-rng,hotplug=on"))
    where = front_end(place(machine.spec).slot("virtio-rng0"))[0].json()
    second = {"driver": "virtio-balloon-pci", "id": "second", "bus": where["bus"], "addr": where["addr"]}
    with pytest.raises(QmpError, match=r"[Oo]nly one balloon"):
        machine.qmp.execute("device_add", second)


def test_qemu_refuses_to_plug_a_display_as_specs_do(start: Start) -> None:
    machine = start(spec("virtio-rng,hotplug=on"))
    where = front_end(place(machine.spec).slot("virtio-rng0"))[0].json()
    display = {"driver": "virtio-gpu-pci", "id": "display", "bus": where["bus"], "addr": where["addr"]}
    with pytest.raises(QmpError, match="hotplug"):
        machine.qmp.execute("device_add", display)
