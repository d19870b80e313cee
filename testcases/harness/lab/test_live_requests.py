"""Requests of a virtio-iommu's driver, from the text of QEMU's trace to the model."""

from __future__ import annotations

import pytest

from harness.errors import GuestError, SpecError
from harness.live.model import endpoints
from harness.live.requests import RequestReplay, request
from harness.model.access import Access, AccessKind, Bypassed, Outcome, Translated
from harness.model.topology import topology
from harness.model.virtio_iommu.config import Features, VirtioIommuConfig
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.requests import Attach, Detach, Map, Request, Unmap
from harness.spec import Device, Iommu, IommuKind, Machine
from harness.vmm.qemu.trace import TraceEvent

_ENDPOINT = 32
_FEATURES = Features.MAP_UNMAP | Features.BYPASS_CONFIG | Features.INPUT_RANGE | Features.DOMAIN_RANGE


def _event(name: str, text: str) -> TraceEvent:
    return TraceEvent(f"virtio_iommu_{name}", text, None)


def _attach(domain: int) -> TraceEvent:
    return _event("attach", f"domain={domain} endpoint={_ENDPOINT}")


def _switch(*, translated: bool, device: str = "00:04.0") -> TraceEvent:
    text = f"Device {device} switching address space (iommu enabled={translated:d})"
    return _event("switch_address_space", text)


_MAP = _event("map", "domain=1 virt_start=0x1000 virt_end=0x1fff phys_start=0x3000 flags=3")


class _Rig:
    """A model, and a trace that is read in the pieces given."""

    def __init__(self, *pieces: tuple[TraceEvent, ...]) -> None:
        config = VirtioIommuConfig(
            endpoints={_ENDPOINT: ()},
            offered=_FEATURES,
            negotiated=_FEATURES,
            page_size_mask=0xFFFF_FFFF_FFFF_F000,
            input_range=(0, (1 << 64) - 1),
            domain_range=(0, (1 << 32) - 1),
            probe_size=0,
            bypass=True,
        )
        self.engine = VirtioIommuEngine(config)
        self._pieces = list(pieces)
        self.replay = RequestReplay(self.engine, lambda: self._pieces.pop(0) if self._pieces else ())

    def read(self, iova: int) -> Outcome:
        return self.engine.translate(Access(requester=_ENDPOINT, iova=iova, length=4, kind=AccessKind.READ))


@pytest.mark.parametrize(
    ("name", "text", "meaning"),
    [
        ("attach", "domain=2 endpoint=32", Attach(domain=2, endpoint=32)),
        ("detach", "domain=2 endpoint=32", Detach(domain=2, endpoint=32)),
        (
            "map",
            "domain=1 virt_start=0xfffff000 virt_end=0xffffffff phys_start=0x3000 flags=3",
            Map(domain=1, virt_start=0xFFFFF000, virt_end=0xFFFFFFFF, phys_start=0x3000, flags=3),
        ),
        ("unmap", "domain=1 virt_start=0x1000 virt_end=0x1fff", Unmap(domain=1, virt_start=0x1000, virt_end=0x1FFF)),
    ],
)
def test_an_event_of_each_request_is_understood(name: str, text: str, meaning: Request) -> None:
    assert request(_event(name, text)) == meaning


def test_another_event_is_no_request() -> None:
    assert request(_event("translate", "mr=x rid=1 addr=0x0 flag=1")) is None


def test_a_wording_that_is_not_known_is_an_error_not_a_guess() -> None:
    with pytest.raises(SpecError, match="has no endpoint"):
        request(_event("attach", "domain=2 ep=32"))
    with pytest.raises(SpecError, match="worded in a way that is not known"):
        _Rig((_event("switch_address_space", "Device 4 switches"),)).replay.catch_up()


def test_an_endpoint_that_is_attached_and_mapped_translates() -> None:
    rig = _Rig((_attach(1), _switch(translated=True), _MAP))
    rig.replay.catch_up()
    outcome = rig.read(0x1004)
    assert isinstance(outcome, Translated)
    assert outcome.address == 0x3004


def test_an_endpoint_that_is_attached_to_a_bypass_domain_is_bypassed() -> None:
    rig = _Rig((_attach(1), _switch(translated=False)))
    rig.replay.catch_up()
    assert isinstance(rig.read(0x1000), Bypassed)


def test_a_switch_that_comes_later_than_its_attach_is_waited_for() -> None:
    rig = _Rig((_attach(1),), (), (_switch(translated=False),))
    rig.replay.catch_up()
    assert isinstance(rig.read(0x1000), Bypassed)


def test_the_switch_of_leaving_the_old_domain_is_not_taken_for_that_of_the_new_one() -> None:
    """Having left, and with `bypass` set, the endpoint is bypassed for a moment."""
    rig = _Rig((_attach(1), _switch(translated=True)))
    rig.replay.catch_up()
    rig._pieces = [(_attach(2), _switch(translated=False)), (), (_switch(translated=True),)]
    rig.replay.catch_up()
    assert not isinstance(rig.read(0x1000), Bypassed)


def test_the_switch_of_another_device_says_nothing_of_this_one() -> None:
    rig = _Rig((_attach(1), _switch(translated=False, device="00:05.0"), _switch(translated=True)))
    rig.replay.catch_up()
    assert not isinstance(rig.read(0x1000), Bypassed)


def test_an_attach_without_a_switch_translates() -> None:
    rig = _Rig((_attach(1),))
    rig.replay.catch_up()
    assert not isinstance(rig.read(0x1000), Bypassed)


def test_a_request_that_the_model_refuses_is_told_as_what_it_can_be() -> None:
    rig = _Rig((_event("unmap", "domain=9 virt_start=0x1000 virt_end=0x1fff"),))
    with pytest.raises(GuestError, match=r"sent Unmap\(domain=9.* which the model answers with .*NOENT") as caught:
        rig.replay.catch_up()
    assert "either the driver sent a bad one, or QEMU and the model differ" in caught.value.hint


def test_a_device_that_is_still_to_be_plugged_is_an_endpoint() -> None:
    devices = (Device.parse("edu,iommu=on,hotplug=on,id=later"), Device.parse("edu,iommu=off,hotplug=on,id=outside"))
    machine = Machine(iommu=Iommu(kind=IommuKind.VIRTIO), devices=devices)
    plugged = topology(machine, {"later", "outside"})
    assert plugged.function("later").requester in endpoints(machine)
    assert plugged.function("outside").requester not in endpoints(machine)


def test_an_endpoint_behind_a_bridge_is_that_of_the_bridge() -> None:
    devices = tuple(map(Device.parse, ("edu,iommu=on,bridge=b,id=one", "edu,iommu=on,bridge=b,id=two")))
    found = endpoints(Machine(iommu=Iommu(kind=IommuKind.VIRTIO), devices=devices))
    assert found.count(0x0100) == 1
    assert not {0x0108, 0x0110} & set(found)
