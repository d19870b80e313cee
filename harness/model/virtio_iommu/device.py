"""A virtio-iommu behind its transport: requests from the request queue, reports to the event queue, configuration.

Requests are carried out one after the other, and take effect when they are answered (virtio 1.3, 5.13.6). A report for
which there is no buffer is dropped (5.13.6.9); a buffer that is too small for one is given back unwritten, and the
report is dropped too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from harness.model.bits import Field, Layout
from harness.model.engine import NotModelled
from harness.model.unit import AnyBytes, Coverage, Place, Readout
from harness.model.virtio.virtqueue import Chain, SplitQueue
from harness.model.virtio_iommu.config import Features, VirtioIommuConfig
from harness.model.virtio_iommu.description import describe
from harness.model.virtio_iommu.engine import VirtioIommuEngine
from harness.model.virtio_iommu.faults import VirtioIommuFaultRecord
from harness.model.virtio_iommu.probe import ReservedRegion
from harness.model.virtio_iommu.requests import Status
from harness.model.virtio_iommu.wire import HEAD_SIZE, LONGEST_REQUEST, TAIL_SIZE, RequestType, request_type

__all__ = ["EVENT_QUEUE", "REQUEST_QUEUE", "VirtioIommuDevice", "read_config_space"]

REQUEST_QUEUE, EVENT_QUEUE = 0, 1
"""Numbers of the queues (5.13.2)."""

_KNOWN_FEATURES = sum(Features)
_NOTHING = Readout(0, 0)
_HALF = 4  # bytes; wider fields are read in halves (4.1.3.1)


class _ConfigField(NamedTuple):
    """A field of struct virtio_iommu_config (5.13.4), and the feature that it exists with."""

    name: str
    offset: int
    size: int
    feature: Features


_CONFIG_FIELDS = (
    _ConfigField("page_size_mask", 0, 8, Features(0)),
    _ConfigField("input_range.start", 8, 8, Features.INPUT_RANGE),
    _ConfigField("input_range.end", 16, 8, Features.INPUT_RANGE),
    _ConfigField("domain_range.start", 24, 4, Features.DOMAIN_RANGE),
    _ConfigField("domain_range.end", 28, 4, Features.DOMAIN_RANGE),
    _ConfigField("probe_size", 32, 4, Features.PROBE),
    _ConfigField("bypass", 36, 1, Features.BYPASS_CONFIG),
)
_CONFIG_SIZE = 40

_TAIL = Layout("struct virtio_iommu_req_tail", "virtio 5.13.6", (Field("status", 0, 8), Field("RSVD_8", 8, 24)))
_FAULT = Layout(
    "struct virtio_iommu_fault",
    "virtio 5.13.6.9",
    (
        Field("reason", 0, 8),
        Field("RSVD_8", 8, 24),
        Field("READ", 32, 1),
        Field("WRITE", 33, 1),
        Field("RSVD_34", 34, 6),
        Field("ADDRESS", 40, 1),
        Field("RSVD_41", 41, 23),
        Field("endpoint", 64, 32),
        Field("RSVD_96", 96, 32),
        Field("address", 128, 64),
    ),
)
_FAULT_SIZE = 24
_FAULT_FLAGS = 4  # the byte of READ and WRITE


def read_config_space(read: Callable[[int, int], int]) -> bytes:
    """The configuration space of a device, each field with accesses as wide as it is; reserved bytes are zero.

    Args:
        read: gives a value, by offset in the space and bytes.
    """
    space = bytearray(_CONFIG_SIZE)
    for field in _CONFIG_FIELDS:
        width = min(field.size, _HALF)
        for at in range(field.offset, field.offset + field.size, width):
            space[at : at + width] = read(at, width).to_bytes(width, "little")
    return bytes(space)


class VirtioIommuDevice:
    """See `VirtioDevice`.

    Args:
        space: configuration space after a reset.
        offered: feature bits that the device offers, those of the transport among them.
        endpoints: see `VirtioIommuConfig`.
        coverage: where to note requests and features.

    Attributes:
        engine: what requests mean.
        gave_back: whether a buffer of those that were served last went back unwritten.
    """

    def __init__(
        self,
        space: bytes,
        offered: int,
        endpoints: Mapping[int, tuple[ReservedRegion, ...]],
        coverage: Coverage,
    ) -> None:
        features = Features(offered & _KNOWN_FEATURES)
        self.engine = VirtioIommuEngine(VirtioIommuConfig.decode(space, endpoints, features, Features(0)))
        self._coverage = coverage
        self._accepted = Features(0)
        self.gave_back = False
        self._served: dict[int, str] = {}  # what requests were, by the heads of their chains
        self._behind: set[int] = set()  # heads of those that were served only behind one that is no request

    def reset(self) -> None:
        """See `VirtioDevice`."""
        self._accepted = Features(0)
        self.engine.reset()

    def accept(self, features: int) -> None:
        """See `VirtioDevice`."""
        self._accepted = Features(features & _KNOWN_FEATURES)
        for feature in self._accepted:
            self._coverage.note("register", f"driver_feature.{feature.name}")
        self.engine.negotiate(self._accepted)

    def serve(self, number: int, queue: SplitQueue) -> None:
        """See `VirtioDevice`. Buffers of the event queue stay there until there is something to report."""
        if number != REQUEST_QUEUE:
            return
        self.gave_back = follows = False
        ahead: set[int] = set()
        while (chain := queue.take()) is not None:
            readable = queue.gather(chain, LONGEST_REQUEST)
            self._served[chain.head] = name = describe(readable, self.engine)
            if follows:
                self._behind |= {chain.head} - ahead
            else:
                ahead.add(chain.head)
                self._behind.discard(chain.head)
            follows = follows or len(readable) < HEAD_SIZE or chain.writable_size < TAIL_SIZE
            answer = self.engine.submit_bytes(readable, chain.writable_size)
            self.gave_back = self.gave_back or not answer
            self._note(name, answer, chain)
            queue.put(chain, answer)

    def report(self, record: VirtioIommuFaultRecord, queue: SplitQueue) -> tuple[AnyBytes, ...]:
        """Report a fault (5.13.6.9).

        Returns:
            The byte of a report that was written that holds READ and WRITE, which a device need not set.

        Raises:
            MalformedChain, NotModelled: see `SplitQueue.take`.
        """
        chain = queue.take()
        if chain is None:
            return ()
        report = record.report(chain.writable_size)
        queue.put(chain, report)
        return (AnyBytes(chain.writable_at(_FAULT_FLAGS), 1),) if report else ()

    def read_config(self, offset: int, size: int) -> Readout:
        """See `VirtioDevice`. Known is a field that exists, read as wide as it is, or one half of it."""
        for field in _CONFIG_FIELDS:
            exists = not field.feature or field.feature & self.engine.config.offered
            width = min(field.size, _HALF)
            if exists and field.offset <= offset < field.offset + field.size and offset % width == 0 and size == width:
                value = int.from_bytes(self.engine.read_config()[offset : offset + size], "little")
                return Readout(value, (1 << 8 * size) - 1)
        return _NOTHING

    def write_config(self, offset: int, size: int, value: int) -> None:
        """See `VirtioDevice`: the field `bypass` can be written, once BYPASS_CONFIG is negotiated (5.13.4.1)."""
        bypass = _CONFIG_FIELDS[-1]
        allowed = Features.BYPASS_CONFIG in self._accepted and value in (0, 1)
        if (offset, size) != (bypass.offset, bypass.size) or not allowed:
            raise NotModelled(f"a driver must not write {value:#x} at {offset:#x} of configuration space (5.13.4.1)")
        self._coverage.note("register", f"bypass {value}")
        self.engine.write_bypass(bool(value))

    def config_place_at(self, offset: int, start: int) -> Place | None:
        """The field of configuration space that a byte belongs to.

        Args:
            offset: of the byte, from the start of the space.
            start: where that is, for the place.
        """
        for field in _CONFIG_FIELDS:
            if field.offset <= offset < field.offset + field.size:
                return Place(field.name, start + field.offset, field.size)
        return None

    def buffer_place_at(self, address: int, number: int, queue: SplitQueue) -> Place | None:
        """What the device writes at an address in a buffer of a queue."""
        for chain in queue.chains():
            at = 0
            for element in chain.writable:
                if element.address <= address < element.address + element.length:
                    return self._part_at(at + address - element.address, address, chain, number, queue)
                at += element.length
        return None

    def request_at(self, head: int) -> str:
        """What the request was that was served last of a chain with that head; empty where there was none."""
        return self._served.get(head, "")

    def _part_at(self, at: int, address: int, chain: Chain, number: int, queue: SplitQueue) -> Place | None:
        """The part of a buffer that its writable byte number `at`, which lies at `address`, belongs to."""
        if number == EVENT_QUEUE:
            place = Place("virtio_iommu_fault", address - at, _FAULT_SIZE, _FAULT, source="endpoint")
            return place if at < _FAULT_SIZE else None
        readable = queue.gather(chain, LONGEST_REQUEST)
        tail = self.engine.config.probe_size if request_type(readable) is RequestType.PROBE else 0
        behind = " behind what is no request" if chain.head in self._behind else ""
        if at < tail:
            room = "" if chain.writable_size >= tail + TAIL_SIZE else ", without room for all"
            return Place(f"properties{room}{behind}", address - at, min(tail, chain.writable_size))
        name = f"tail of {self.request_at(chain.head) or describe(readable, self.engine)}{behind}"
        return Place(name, address - at + tail, TAIL_SIZE, _TAIL) if at < tail + TAIL_SIZE else None

    def _note(self, name: str, answer: bytes, chain: Chain) -> None:
        self._coverage.note("command", name)
        status = Status(answer[-TAIL_SIZE]).name if answer else "none"
        self._coverage.note("command", f"{name.split()[0].rstrip(',')} status {status}")
        for form, found in (
            ("indirect table", chain.indirect),
            ("several readable elements", len(chain.readable) > 1),
            ("several writable elements", len(chain.writable) > 1),
        ):
            if found:
                self._coverage.note("format", form)
