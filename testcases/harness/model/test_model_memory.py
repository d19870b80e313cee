"""Physical memory: sparse, mapped, and behind a function."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.model.memory import CallableMemory, MappedMemory, OutsideMemory, Region, SparseMemory, split_ram

GIB = 1 << 30


@given(st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=30)), max_size=8), st.integers(0, 200))
def test_sparse_memory_reads_like_a_bytearray(writes: list[tuple[int, bytes]], address: int) -> None:
    memory, plain = SparseMemory(), bytearray(256)
    for at, data in writes:
        memory.write(at, data)
        plain[at : at + len(data)] = data
    assert memory.read(address, 40) == bytes(plain[address : address + 40])
    assert memory.read_u64(address) == int.from_bytes(plain[address : address + 8], "little")


@pytest.mark.parametrize("address", [0xFFF, 0x1FF9, 0x2000, 0x2FF8])
def test_a_word_that_is_not_whole_in_a_region_is_outside_of_memory(address: int) -> None:
    regions = (Region(0x1000, 0x1000), Region(0x3000, 0x1000, offset=0x1000))
    for memory in (SparseMemory(regions), MappedMemory(bytes(0x2000), regions)):
        with pytest.raises(OutsideMemory) as caught:
            memory.read_u64(address)
        assert caught.value.address == address


def test_a_write_outside_of_memory_writes_nothing() -> None:
    memory = SparseMemory((Region(0, 0x1000),))
    with pytest.raises(OutsideMemory):
        memory.write(0xFF8, b"x" * 16)
    assert dict(memory.words()) == {}


def test_ram_above_four_gib_is_the_rest_of_the_file() -> None:
    assert split_ram(3 * GIB, 2 * GIB) == (Region(0, 2 * GIB), Region(4 * GIB, GIB, offset=2 * GIB))
    assert split_ram(GIB, 2 * GIB) == (Region(0, GIB),)


def test_mapped_memory_reads_and_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    path.write_bytes(bytes(0x2000))
    regions = (Region(0, 0x1000), Region(0x10000, 0x1000, offset=0x1000))
    with MappedMemory.open(path, regions, writable=True) as memory:
        memory.write_u64(0x10008, 0x1122334455667788)
        memory.write(0x10, b"abc")
        assert memory.read_u64(0x10008) == 0x1122334455667788
        assert memory.read(0x10, 3) == b"abc"
    assert path.read_bytes()[0x1008:0x1010] == bytes.fromhex("8877665544332211")


def test_an_unaligned_word_of_mapped_memory_is_read() -> None:
    assert MappedMemory(bytes(range(16))).read_u64(3) == int.from_bytes(bytes(range(3, 11)), "little")


def test_a_truncated_dump_is_refused_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(bytes(0x1000))
    with pytest.raises(SpecError, match="0x1000"), MappedMemory.open(path, (Region(0, 0x2000),)):
        pass


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(SpecError, match="cannot be mapped"), MappedMemory.open(path):
            pass


def test_overlapping_regions_are_refused() -> None:
    with pytest.raises(SpecError, match="overlap"):
        SparseMemory((Region(0, 0x2000), Region(0x1000, 0x1000)))


class Bus:
    """A guest that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.data = bytearray(0x4000)

    def read(self, address: int, size: int) -> bytes:
        self.calls += 1
        return bytes(self.data[address : address + size])


def test_cached_memory_asks_once_for_each_page_until_it_forgets() -> None:
    bus = Bus()
    memory = CallableMemory(bus.read, (Region(0, 0x4000),), cached=True)
    bus.data[0x1000:0x1008] = b"\1" * 8
    assert memory.read(0xFFC, 8) == b"\0" * 4 + b"\1" * 4
    assert memory.read_u64(0x1000) == 0x0101010101010101
    assert bus.calls == 2
    bus.data[0x1000] = 9
    memory.forget()
    assert memory.read(0x1000, 1) == b"\x09"


def test_memory_without_a_cache_sees_every_change() -> None:
    bus = Bus()
    memory = CallableMemory(bus.read, (Region(0, 0x4000),))
    assert memory.read_u64(8) == 0
    bus.data[8] = 1
    assert memory.read_u64(8) == 1


def test_a_function_is_never_asked_outside_of_its_regions() -> None:
    bus = Bus()
    with pytest.raises(OutsideMemory):
        CallableMemory(bus.read, (Region(0, 0x4000),)).read_u64(0x3FFC)
    assert bus.calls == 0
