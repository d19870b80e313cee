"""Requests to a virtio-iommu for programs: good ones for the most part, and every way in which one can be refused."""

from __future__ import annotations

from random import Random

from harness.conform.layout import DEVICES
from harness.conform.targets.virtio_driver import Driver, Message
from harness.model.virtio.virtqueue import DescriptorFlags
from harness.model.virtio_iommu.config import Features
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.requests import Attach, AttachFlags, Detach, Map, MapFlags, Probe, Request, Unmap
from harness.model.virtio_iommu.wire import HEAD_SIZE, TAIL_SIZE, encode_request

__all__ = ["Requests"]

_ENDPOINTS = tuple(sorted({entry.requester for entry in DEVICES}))
_NO_ENDPOINTS = (0x7F00, 0x7FF8, 0xFFFF, 0x0301)
_ALIASED_ENDPOINT = 1 << 16  # of another segment
_DOMAINS = (0, 1, 2, 5, 0xFFFF_FFFF)
_BYPASS_DOMAINS = (7, 0x8000_0000)
_NO_DOMAIN = 0x1234
_PAGE = 4096
_FAR = 1 << 40  # where nothing answers
_READ_WRITE = MapFlags.READ | MapFlags.WRITE


class Requests:
    """Makes requests, and knows what came of earlier ones.

    Args:
        random: to choose by.
        driver: that they are put to.
        engine: that takes them too, to know what is attached and mapped.
        pages: physical addresses that most mappings lead to.
        data: physical address from which on devices may reach everything,
        end: and where memory ends.
        is_thorough: try what QEMU gets wrong as well.
    """

    def __init__(
        self,
        random: Random,
        driver: Driver,
        engine: VirtioIommuEngine,
        pages: range,
        data: int,
        end: int,
        *,
        is_thorough: bool,
    ) -> None:
        self._random = random
        self._driver = driver
        self._engine = engine
        self._pages = pages
        self._data = range(data, end)
        self._is_thorough = is_thorough
        self._regions = {region for each in engine.config.endpoints.values() for region in each}

    def change(self) -> None:
        """One request of any kind."""
        random = self._random
        draw = random.random()
        if draw < 0.3:
            self.map()
        elif draw < 0.55:
            self.unmap()
        elif draw < 0.7:
            alone = [each for each in _ENDPOINTS if self._engine.domain_of(each) is None]
            self.attach(random.choice(alone if alone and random.random() < 0.7 else _ENDPOINTS))
        elif draw < 0.77:
            self.detach()
        elif draw < 0.87:
            self.probe()
        else:
            self.refused()

    def attach(self, endpoint: int) -> None:
        """Put an endpoint into a domain, or a bypass domain."""
        random = self._random
        knows_bypass = self._is_thorough or self._driver.features & Features.BYPASS_CONFIG
        bypass = bool(knows_bypass and random.random() < 0.1)
        domain = random.choice(_BYPASS_DOMAINS if bypass else _DOMAINS)
        if self._is_thorough or not self._engine.is_alone(endpoint, domain):
            self._submit(Attach(domain=domain, endpoint=endpoint, flags=int(bypass)))

    def detach(self) -> None:
        """Take an endpoint out of its domain, for the most part."""
        random = self._random
        endpoint = random.choice(_ENDPOINTS)
        domain = self._engine.domain_of(endpoint)
        if domain is None or random.random() < 0.1:
            domain = random.choice(_DOMAINS)
        self._submit(Detach(domain=domain, endpoint=endpoint, reserved=random.choice((0, 0, 1 << 63))))

    def leave(self, endpoint: int) -> None:
        """Take an endpoint out of the domain that it is in."""
        domain = self._engine.domain_of(endpoint)
        if domain is not None:
            self._submit(Detach(domain=domain, endpoint=endpoint))

    def map(self) -> None:
        """Map a range in a domain: often beside another one."""
        random = self._random
        domain = self._some_domain()
        granule = self._engine.granule
        start = self._new_start(domain)
        count = random.choice((1, 1, 1, 2, 3, 8, 16))
        phys = random.randrange(self._pages.start, self._pages.stop - count * _PAGE + 1, _PAGE) // granule * granule
        draw = random.random()
        if draw < 0.05:
            start, count, phys = start & -(1 << 21), 512, self._data.start
        elif draw < 0.1:
            start, count, phys = start & -(1 << 30), 1 << 18, _FAR
        elif draw < 0.13:
            phys = self._data.stop - count // 2 * _PAGE
        flags = random.choice((_READ_WRITE,) * 5 + (MapFlags.READ, MapFlags.WRITE, MapFlags.NONE))
        if self._driver.features & Features.MMIO and random.random() < 0.05:
            flags |= MapFlags.MMIO
        self._map(domain, start, count * _PAGE, phys, flags)

    def unmap(self) -> None:
        """Unmap a range: one mapping, several of them, or one and more, or a part."""
        random = self._random
        domain = self._some_domain()
        mapped = self._mapped(domain)
        if not mapped:
            self._unmap(domain, 0, (1 << 64) - 1)
            return
        start, first_size = random.choice(mapped)
        last, last_size = random.choice([each for each in mapped if start <= each[0] <= start + (1 << 24)])
        end = last + last_size - 1
        draw = random.random()
        if draw < 0.2:
            start, end = max(0, start - _PAGE), end + _PAGE
        elif draw < 0.3 and first_size > _PAGE:
            start += _PAGE
        elif draw < 0.4 and last_size > _PAGE:
            end -= _PAGE
        elif draw < 0.43:
            start, end = 0, (1 << 64) - 1
        self._unmap(domain, start, min(end, (1 << 64) - 1))

    def probe(self) -> None:
        """Ask for an endpoint's properties, with room for them, or more."""
        random = self._random
        room = self._engine.config.probe_size + TAIL_SIZE
        endpoint = random.choice(_ENDPOINTS + _NO_ENDPOINTS[:1])
        readable = encode_request(Probe(endpoint=endpoint))
        if random.random() < 0.3:
            readable = readable[:8] + random.randbytes(64)
        if self._is_thorough and random.random() < 0.1:
            room = random.randrange(TAIL_SIZE, room)
        self._put(readable, room + random.choice((0, 0, 8)))

    def refused(self) -> None:
        """A request that the device must refuse, or that is out of the ordinary."""
        random = self._random
        endpoint, domain = random.choice(_ENDPOINTS), self._some_domain()
        start = self._new_start(domain)
        page, unknown = self._pages.start, 1 << random.randrange(3, 32)
        choices: list[Request] = [
            Attach(domain=domain, endpoint=random.choice(_NO_ENDPOINTS)),
            Attach(domain=domain, endpoint=endpoint, flags=1 << random.randrange(1, 32)),
            Detach(domain=domain, endpoint=random.choice(_NO_ENDPOINTS)),
            Detach(domain=_NO_DOMAIN, endpoint=endpoint),
            Map(domain=_NO_DOMAIN, virt_start=0, virt_end=0xFFF, phys_start=page, flags=3),
            Map(domain=random.choice(_BYPASS_DOMAINS), virt_start=0, virt_end=0xFFF, phys_start=page, flags=3),
            Map(domain=domain, virt_start=start, virt_end=start + 0xFFF, phys_start=page, flags=unknown),
            Unmap(domain=_NO_DOMAIN, virt_start=0, virt_end=0xFFF),
            Unmap(domain=random.choice(_BYPASS_DOMAINS), virt_start=0, virt_end=0xFFF),
        ]  # fmt: skip
        mapped = self._mapped(domain)
        if mapped:
            old, size = random.choice(mapped)
            choices.append(Map(domain=domain, virt_start=old, virt_end=old + size + 0xFFF, phys_start=page, flags=3))
        if self._is_thorough:
            choices = self._overlooked(endpoint, domain, start)
        if random.random() < 0.15:
            self._cut_off()
        else:
            self._submit(random.choice(choices))

    def malformed(self) -> None:
        """A chain that no driver may make: the device needs a reset afterwards."""
        slot, write, following = self._driver.slot, DescriptorFlags.WRITE, DescriptorFlags.NEXT
        chains = (
            [(slot, 4, write | following, 1), (slot + 8, 20, 0, 0)],
            [(slot, 20, following, 0xFFFE)],
            [(slot, 20, following, 0)],
            [(slot, 8, DescriptorFlags.INDIRECT, 0)],
            [(slot, 32, DescriptorFlags.INDIRECT | following, 1), (slot + 64, 4, write, 0)],
        )
        self._driver.submit_raw(self._random.choice(chains))

    def _overlooked(self, endpoint: int, domain: int, start: int) -> list[Request]:
        """Of these QEMU takes some."""
        random = self._random
        page, beyond = self._pages.start, self._engine.config.input_range[1] + 1
        homes = ((each, self._engine.domain_of(each)) for each in _ENDPOINTS)
        alone = [(each, home) for each, home in homes if home is not None and self._engine.is_alone(each, home)]
        choices: list[Request] = [
            Attach(domain=domain, endpoint=endpoint | _ALIASED_ENDPOINT),
            Attach(domain=domain, endpoint=endpoint, reserved=1 << random.randrange(32)),
            Attach(domain=random.choice(_BYPASS_DOMAINS), endpoint=endpoint),
            Attach(domain=domain, endpoint=endpoint, flags=AttachFlags.BYPASS),
            Map(domain=domain, virt_start=start, virt_end=start + 0x7FF, phys_start=page, flags=3),
            Map(domain=domain, virt_start=start + 0x800, virt_end=start + 0xFFF, phys_start=page, flags=3),
            Map(domain=domain, virt_start=start, virt_end=start + 0xFFF, phys_start=page + 0x10, flags=3),
            Map(domain=domain, virt_start=start, virt_end=start + 0x1FFF, phys_start=(1 << 64) - 0x1000, flags=3),
            Unmap(domain=domain, virt_start=start, virt_end=start + 0xFFF, reserved=1 << random.randrange(32)),
        ]
        if not self._driver.features & Features.MMIO:
            choices.append(Map(domain=domain, virt_start=start, virt_end=start + 0xFFF, phys_start=page, flags=7))
        for each, home in alone[:1]:
            choices += [Attach(domain=home, endpoint=each, flags=flags) for flags in range(2)]
        if beyond < 1 << 64:
            choices.append(Map(domain=domain, virt_start=beyond, virt_end=beyond + 0xFFF, phys_start=page, flags=3))
        for region in self._engine.config.endpoints[endpoint][:1]:
            at = random.choice((region.start, region.end - 0xFFF))
            choices.append(Map(domain=domain, virt_start=at, virt_end=at + 0xFFF, phys_start=page, flags=3))
        return choices

    def _cut_off(self) -> None:
        """Too few bytes, or too many, or of a type that there is not."""
        random = self._random
        endpoint, domain = random.choice(_ENDPOINTS), self._some_domain()
        readable = encode_request(
            random.choice(
                (
                    Detach(domain=domain, endpoint=endpoint),
                    Unmap(domain=domain, virt_start=0, virt_end=0xFFF),
                    Attach(domain=domain, endpoint=endpoint),
                )
            )
        )
        draw = random.random()
        if self._is_thorough and draw < 0.1:
            self._unparsable(readable, random.randrange(TAIL_SIZE))
        elif draw < 0.5:
            self._put(readable[: random.randrange(4, len(readable))], TAIL_SIZE)
        elif draw < 0.7:
            self._put(readable[:1] + random.randbytes(3) + readable[4:], TAIL_SIZE)
        elif draw < 0.85 or not self._is_thorough:
            self._put(readable + random.randbytes(8), TAIL_SIZE + random.choice((0, 4)))
        elif draw < 0.95:
            self._put(bytes([random.choice((0, 6, 0x80, 0xFF))]) + readable[1:], TAIL_SIZE)
        else:
            self._unparsable(readable[: random.randrange(1, HEAD_SIZE)], TAIL_SIZE)

    def _unparsable(self, readable: bytes, writable: int) -> None:
        """A request that has no answer: alone, since a device may answer none that follow."""
        self._driver.submit()
        self._put(readable, writable)
        self._driver.submit()
        self._driver.settle()

    # What there is.

    def _some_domain(self) -> int:
        """A domain, of those that there are for the most part."""
        random = self._random
        known = [number for number in map(self._engine.domain_of, _ENDPOINTS) if number in _DOMAINS]
        return random.choice(known) if known and random.random() < 0.97 else random.choice(_DOMAINS)

    def _mapped(self, domain: int) -> list[tuple[int, int]]:
        """First address and size of its mappings."""
        domain_of = self._engine.domain_of
        for endpoint in _ENDPOINTS:
            if domain_of(endpoint) == domain:
                return self._engine.extents(endpoint)
        return []

    def _new_start(self, domain: int) -> int:
        """Where a mapping may begin: beside another one, or anywhere in the input range."""
        random = self._random
        mapped = self._mapped(domain)
        first, last = self._engine.config.input_range
        if mapped and random.random() < 0.6:
            old, size = random.choice(mapped)
            start = old + random.choice((size, size, size + _PAGE, -_PAGE))
        else:
            start = random.getrandbits(random.choice((20, 30, last.bit_length()))) & -_PAGE
        return min(max(start, first), last - _PAGE + 1)

    # What is sent.

    def _map(self, domain: int, start: int, size: int, phys: int, flags: MapFlags) -> None:
        first, last = self._engine.config.input_range
        end = start + size - 1
        if end > last or start < first or any(region.overlaps(start, end) for region in self._regions):
            return
        self._submit(Map(domain=domain, virt_start=start, virt_end=end, phys_start=phys, flags=flags))

    def _unmap(self, domain: int, start: int, end: int) -> None:
        affected = [(first, size) for first, size in self._mapped(domain) if first <= end and first + size > start]
        is_cut = any(first < start or first + size - 1 > end for first, size in affected)
        # 5.13.6.6.2: a device should remove none of them, but may; QEMU removes some.
        if is_cut and len(affected) > 1 and not self._is_thorough:
            return
        self._submit(Unmap(domain=domain, virt_start=start, virt_end=end))

    def _submit(self, request: Request) -> None:
        self._put(encode_request(request), TAIL_SIZE)

    def _put(self, readable: bytes, writable: int) -> None:
        self._engine.submit_bytes(readable, writable)
        self._driver.queue(Message(readable, writable))
