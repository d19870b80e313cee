"""Split virtqueues: chains that are taken, what is used, and who is told (virtio 1.3, 2.7)."""

from __future__ import annotations

import struct

import pytest

from harness.model.engine import NotModelled
from harness.model.memory import Region, SparseMemory
from harness.model.virtio.virtqueue import Buffer, DescriptorFlags, MalformedChain, Rings, SplitQueue

NEXT, WRITE, INDIRECT = DescriptorFlags.NEXT, DescriptorFlags.WRITE, DescriptorFlags.INDIRECT
SIZE = 8
RINGS = Rings(SIZE, 0x1000, 0x2000, 0x3000)
TABLE = 0x4000
BUFFER = 0x8000
RAM = 0x1_0000


class Queue:
    """A queue of eight descriptors, and what a driver does with it."""

    def __init__(self, *, indirect: bool = True, event_idx: bool = False, advises: bool = False) -> None:
        self.memory = SparseMemory((Region(0, RAM),))
        self.told: list[bool] = []
        self.device = SplitQueue(
            self.memory, RINGS, indirect=indirect, event_idx=event_idx, advises=advises, signal=self.told.append
        )
        self._count = 0

    def describe(
        self, number: int, length: int, flags: int = 0, following: int = 0, *, address: int = BUFFER, table: int = 0
    ) -> None:
        place = (table or RINGS.descriptors) + 16 * number
        self.memory.write(place, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, head: int = 0) -> None:
        self.memory.write(RINGS.driver + 4 + 2 * (self._count % SIZE), struct.pack("<H", head))
        self._count += 1
        self.memory.write(RINGS.driver + 2, struct.pack("<H", self._count))

    def used(self) -> tuple[int, int, int]:
        """`idx` of the used ring, and `id` and `len` of its first element."""
        return struct.unpack("<2xHII", self.memory.read(RINGS.device, 12))


def test_of_an_empty_queue_nothing_is_taken() -> None:
    assert Queue().device.take() is None


def test_a_chain_is_followed_and_taken_once() -> None:
    queue = Queue()
    queue.describe(3, 20, NEXT, 5)
    queue.describe(5, 4, WRITE, address=BUFFER + 0x100)
    queue.offer(3)
    chain = queue.device.take()
    assert chain is not None
    assert (chain.head, chain.readable) == (3, (Buffer(BUFFER, 20),))
    assert (chain.writable, chain.writable_size) == ((Buffer(BUFFER + 0x100, 4),), 4)
    assert queue.device.take() is None


def test_an_indirect_table_holds_the_whole_chain() -> None:
    queue = Queue()
    queue.describe(0, 32, INDIRECT | WRITE, address=TABLE)  # 2.7.5.3.2: WRITE means nothing there
    queue.describe(0, 20, NEXT, 1, table=TABLE)
    queue.describe(1, 4, WRITE, table=TABLE)
    queue.offer()
    chain = queue.device.take()
    assert chain is not None
    assert (chain.indirect, len(chain.readable), len(chain.writable)) == (True, 1, 1)


def test_what_is_put_is_spread_over_the_writable_elements() -> None:
    queue = Queue()
    queue.describe(0, 2, WRITE | NEXT, 1)
    queue.describe(1, 4, WRITE, address=BUFFER + 0x100)
    queue.offer()
    chain = queue.device.take()
    assert chain is not None
    queue.device.put(chain, b"abc")
    assert queue.memory.read(BUFFER, 4) == b"ab\0\0"
    assert queue.memory.read(BUFFER + 0x100, 2) == b"c\0"
    assert queue.used() == (1, 0, 3)


def test_the_readable_bytes_are_joined_up_to_the_limit() -> None:
    queue = Queue()
    queue.memory.write(BUFFER, b"abcdef")
    queue.describe(0, 2, NEXT, 1, address=BUFFER + 4)
    queue.describe(1, 4)
    queue.offer()
    chain = queue.device.take()
    assert chain is not None
    assert queue.device.gather(chain, 100) == b"efabcd"
    assert queue.device.gather(chain, 3) == b"efa"


@pytest.mark.parametrize(
    "descriptors",
    [
        pytest.param([(4, WRITE | NEXT, 1), (4, 0, 0)], id="2.7.4.2 readable behind writable"),
        pytest.param([(4, NEXT, 0)], id="2.7.5.3.1 a loop"),
        pytest.param([(4, NEXT, SIZE)], id="an index beyond the table"),
        pytest.param([(8, INDIRECT, 0)], id="a table of half a descriptor"),
        pytest.param([(0, INDIRECT, 0)], id="a table of none"),
        pytest.param([(16, INDIRECT | NEXT, 1), (4, WRITE, 0)], id="2.7.5.3.1 a table and a next one"),
    ],
)
def test_what_a_driver_must_not_make_is_malformed(descriptors: list[tuple[int, int, int]]) -> None:
    queue = Queue()
    for number, (length, flags, following) in enumerate(descriptors):
        queue.describe(number, length, flags, following, address=TABLE)
    queue.offer()
    with pytest.raises(MalformedChain):
        queue.device.take()


def test_a_table_without_the_feature_or_within_a_table_is_malformed() -> None:
    for indirect in (False, True):
        queue = Queue(indirect=indirect)
        queue.describe(0, 16, INDIRECT, address=TABLE)
        queue.describe(0, 16, INDIRECT, address=TABLE, table=TABLE)
        queue.offer()
        with pytest.raises(MalformedChain):
            queue.device.take()


def test_an_entry_that_names_no_descriptor_is_not_taken() -> None:
    queue = Queue(event_idx=True, advises=True)
    queue.offer(SIZE)
    with pytest.raises(MalformedChain):
        queue.device.take()
    assert queue.memory.read(RINGS.device + 4 + 8 * SIZE, 2) == bytes(2)
    assert queue.device.save().available == 0


@pytest.mark.parametrize(("address", "length"), [(RAM - 4, 8), (RAM, 4), (BUFFER, 0)])
def test_an_element_outside_of_memory_or_of_no_bytes_is_not_modelled(address: int, length: int) -> None:
    queue = Queue()
    queue.describe(0, length, address=address)
    queue.offer()
    with pytest.raises(NotModelled):
        queue.device.take()


def test_more_than_fit_are_not_modelled() -> None:
    queue = Queue()
    queue.memory.write(RINGS.driver + 2, struct.pack("<H", SIZE + 1))
    with pytest.raises(NotModelled):
        queue.device.take()


def test_without_event_idx_the_flag_says_whether_the_driver_is_told() -> None:
    queue = Queue()
    queue.describe(0, 4, WRITE)
    for flags in (0, 1):
        queue.memory.write(RINGS.driver, struct.pack("<H", flags))
        queue.offer()
        chain = queue.device.take()
        assert chain is not None
        queue.device.put(chain, b"")
    assert queue.told == [True, False]


def test_with_event_idx_the_driver_is_told_of_the_one_that_it_named() -> None:
    queue = Queue(event_idx=True, advises=True)
    queue.describe(0, 4, WRITE)
    queue.memory.write(RINGS.driver + 4 + 2 * SIZE, struct.pack("<H", 1))
    for _ in range(3):
        queue.offer()
        chain = queue.device.take()
        assert chain is not None
        queue.device.put(chain, b"")
    assert queue.told == [False, True, False]
    assert queue.memory.read(RINGS.device + 4 + 8 * SIZE, 2) == b"\3\0"


def test_a_saved_state_is_come_back_to() -> None:
    queue = Queue()
    queue.describe(0, 4, WRITE)
    queue.offer()
    state = queue.device.save()
    assert queue.device.take() is not None
    queue.device.restore(state)
    assert queue.device.take() is not None


def test_the_parts_of_the_used_ring_are_named() -> None:
    device = Queue(event_idx=True).device
    names = {at: place.name if (place := device.place_at(RINGS.device + at)) else None for at in (0, 4, 67, 68, 70)}
    assert names == {0: "virtq_used", 4: "virtq_used_elem", 67: "virtq_used_elem", 68: "avail_event", 70: None}
    assert device.place_at(RINGS.device - 1) is None
