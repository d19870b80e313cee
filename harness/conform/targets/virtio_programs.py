"""Programs for a virtio-iommu: software that negotiates, makes domains, maps and unmaps, and looks at faults."""

from __future__ import annotations

from random import Random

from harness.conform.command import RAM_BYTES
from harness.conform.edu import PAYLOADS
from harness.conform.layout import DEVICES, DmaDevice
from harness.conform.memory import DATA, HOT_DATA
from harness.conform.program import Program
from harness.conform.targets.virtio_driver import Driver
from harness.conform.targets.virtio_requests import Requests
from harness.conform.traffic import Traffic
from harness.conform.writer import ProgramWriter
from harness.model.access import AccessKind
from harness.model.virtio.negotiation import TransportFeatures
from harness.model.virtio_iommu.config import Features
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.probe import RegionKind
from harness.model.virtio_iommu.unit import VirtioIommuUnit

__all__ = ["Generation"]

_ALWAYS = TransportFeatures.VERSION_1 | TransportFeatures.ACCESS_PLATFORM | TransportFeatures.ORDER_PLATFORM
_WANTED = TransportFeatures.INDIRECT_DESC | TransportFeatures.EVENT_IDX | TransportFeatures.RING_RESET
_OWN = Features(sum(Features))
_BYTES = PAYLOADS[1::4]  # of each word a byte that differs from word to word
# Rounds of DMA. What a reset costs, and setting the device up, is paid once a program, so programs that no mistake of
# QEMU's is likely to end are longer.
_ROUNDS, _MORE_ROUNDS = range(30, 61), range(160, 241)
_THOROUGH, _PLUGS = 0.33, 0.5  # shares of the programs
_BOARD_END = 1 << 32
_EVERYTHING = 1 << 63  # bytes from which on a mapping is no mapping


class Generation:
    """One program in the making.

    Args:
        name: of the target.
        seed: that the program says it comes from.
        random: to choose by.
        unit: whose device it is for.
        ram: physical address where memory begins.
    """

    def __init__(self, name: str, seed: int, random: Random, unit: VirtioIommuUnit, ram: int) -> None:
        self.random = random
        self.is_thorough = random.random() < _THOROUGH
        self.plugs = random.random() < _PLUGS
        self.offered = unit.identity.features
        self.config = unit.config
        self.writer = ProgramWriter(name, seed, ram)
        self.driver = Driver(self.writer, random, unit.layout, unit.identity)
        # What the device makes of the requests, so that later ones mean something.
        self.engine = VirtioIommuEngine(self.config)
        self.engine.reset(system=True)
        pages = range(ram + HOT_DATA.start, ram + HOT_DATA.stop)
        self.requests = Requests(
            random, self.driver, self.engine, pages, ram + DATA.start, ram + RAM_BYTES, is_thorough=self.is_thorough
        )
        # QEMU goes by two bytes: of the last byte before a mapping it may take that mapping (see `byte_before`).
        self.traffic = Traffic(self.writer, random, self.config.input_range[1].bit_length(), alignment=2)
        messages = {r for regions in self.config.endpoints.values() for r in regions if r.kind is RegionKind.MSI}
        self.message_address = min((region.start for region in messages), default=None)
        self.unplugged = False

    def program(self) -> Program:
        """All of it."""
        random = self.random
        if random.random() < 0.2:
            self.burst()
        self.start()
        for _ in range(random.choice(_ROUNDS if self.is_thorough else _MORE_ROUNDS)):
            self.burst()
            if random.random() < 0.5:
                self.driver.look()
            for _ in range(random.randint(0, 6)):
                self.requests.change()
            self.driver.submit()
            if random.random() < (0.2 if self.is_thorough else 0.06):
                self.rarely()
        self.driver.look()
        return self.writer.program()

    def start(self) -> None:
        """Set the device up, with domains that have mappings."""
        random = self.random
        features = self.features()
        self.driver.start(features)
        self.engine.reset()
        self.engine.negotiate(Features(features & _OWN))
        if features & Features.BYPASS_CONFIG and random.random() < 0.8:
            self.write_bypass(int(random.random() < 0.2))
        for entry in DEVICES:
            if random.random() < 0.95:
                self.requests.attach(entry.requester)
        for _ in range(random.randint(10, 40)):
            self.requests.map()
        self.driver.submit()

    def features(self) -> int:
        """What the driver accepts: nearly all of what is offered."""
        random = self.random
        wanted = _WANTED & ~(TransportFeatures(0) if random.random() < 0.6 else TransportFeatures.INDIRECT_DESC)
        if random.random() < 0.4:
            wanted &= ~TransportFeatures.EVENT_IDX
        own = _OWN
        for feature, chance in (
            (Features.MMIO, 0.2),
            (Features.BYPASS_CONFIG, 0.1),
            (Features.PROBE, 0.1),
            (Features.INPUT_RANGE, 0.05),
            (Features.DOMAIN_RANGE, 0.05),
        ):
            if random.random() < chance:
                own &= ~feature
        return self.offered & int(_ALWAYS | wanted | own)

    def write_bypass(self, value: int) -> None:
        """Endpoints without a domain are in bypass mode, or are not."""
        self.driver.write_bypass(value)
        self.engine.write_bypass(bool(value))

    def rarely(self) -> None:
        """What does not happen often."""
        random = self.random
        draw = random.random()
        if draw < 0.15:
            self.writer.reset()
            self.driver.forget()
            self.engine.reset(system=True)
            if random.random() < 0.5:
                self.burst()
            self.start()
        elif draw < 0.35:
            self.reset_device()
        elif draw < 0.55:
            if self.driver.features & Features.BYPASS_CONFIG:
                self.write_bypass(random.getrandbits(1))
        elif draw < 0.75:
            self.driver.poke(far=self.is_thorough)
        elif draw < 0.9 or not self.is_thorough:
            if self.plugs:
                self.plug()
        else:
            self.requests.malformed()
            self.burst()
            self.reset_device()

    def plug(self) -> None:
        """Take a device away and put it back."""
        device = next(entry for entry in DEVICES if entry.can_unplug)
        self.writer.unplug(device.id)
        self.unplugged = True
        self.burst()
        self.writer.plug(device.id)
        self.unplugged = False

    def reset_device(self) -> None:
        """Reset the device alone; where QEMU keeps its domains, nothing is attached before."""
        if not self.is_thorough:
            for entry in DEVICES:
                self.requests.leave(entry.requester)
            self.driver.submit()
        else:
            self.find_places()
            # In bypass mode what lies below may be registers of the board.
            for id, places in self.traffic.places.items():
                self.traffic.places[id] = [each for each in places if each[0] > _BOARD_END]
        self.driver.reset()
        self.engine.reset()
        if self.is_thorough:
            self.dma()
        elif self.random.random() < 0.7:
            self.burst()
        self.start()

    # Traffic.

    def burst(self) -> None:
        """One DMA of each of many devices."""
        random = self.random
        if self.driver.features & TransportFeatures.RING_RESET and random.random() < 0.8:
            self.driver.refill()
        self.find_places()
        self.dma()
        if self.is_thorough and random.random() < 0.05:
            self.byte_before(random.choice(DEVICES))

    def dma(self) -> None:
        """One DMA of each of many devices, at the places that are known."""
        random = self.random
        self.driver.settle()
        for entry in random.sample(DEVICES, random.randint(len(DEVICES) // 2, len(DEVICES))):
            if not (entry.can_unplug and self.unplugged):
                self.one(entry)

    def one(self, entry: DmaDevice) -> None:
        """One DMA of a device, or an interrupt."""
        random = self.random
        is_attached = self.engine.domain_of(entry.requester) is not None
        places = self.traffic.places.get(entry.id)
        if is_attached and places and self.message_address is not None and random.random() < 0.12:
            self.traffic.message(entry, self.message_address, random.randrange(32, 64))
        else:
            self.traffic.one(entry)

    def byte_before(self, entry: DmaDevice) -> None:
        """A write of the byte before a mapping: alone, since it may be one of another write's bytes."""
        places = self.traffic.places[entry.id]
        if places and (first := self.random.choice(places)[0]):
            self.driver.settle()
            self.writer.dma(entry.id, AccessKind.WRITE, first - 1, 1, self.random.choice(_BYTES))

    def find_places(self) -> None:
        """Tell the traffic where each device has pages; one in bypass mode has none, but all of memory."""
        known: dict[int | None, list[tuple[int, int]]] = {}  # of each domain; without one a device has none
        for entry in DEVICES:
            domain = self.engine.domain_of(entry.requester)
            if domain not in known:
                known[domain] = [each for each in self.engine.extents(entry.requester) if each[1] < _EVERYTHING]
            self.traffic.places[entry.id] = known[domain]
