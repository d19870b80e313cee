"""DMA for programs: which device does what at which address, with weight on the corners."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from harness.conform.command import RAM_BYTES
from harness.conform.edu import LANDING, MESSAGES, PAYLOADS
from harness.conform.layout import DmaDevice
from harness.conform.memory import DATA, HOT_DATA
from harness.conform.writer import ProgramWriter
from harness.model.access import AccessKind

__all__ = ["Traffic"]

_WORD = 4
_NEAR = 0x4_0000
_BOARD_END = 1 << 32  # below it is everything that a board has


@dataclass
class Traffic:
    """Makes DMAs, of which most mean something: at what is mapped, at its edges, and just beyond.

    Attributes:
        writer: of the program.
        random: to choose by.
        input_bits: width of the input addresses that tables can map.
        places: for each device's id, what may be of interest to it: first address and size of pages.
        special: addresses that are of interest to all.
        widest: width of the widest addresses,
        limits: and that of the addresses of some devices, by their ids.
        reads: share of the DMAs that read, 0 to 1.
        alignment: what addresses and lengths are multiples of, 1, 2 or 4 bytes.
        longest: DMA, bytes.
    """

    writer: ProgramWriter
    random: Random
    input_bits: int
    places: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    special: tuple[int, ...] = ()
    widest: int = 64
    limits: dict[str, int] = field(default_factory=dict)
    reads: float = 0.3
    alignment: int = 1
    longest: int = 96
    _reads_landed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def burst(self, devices: list[DmaDevice]) -> None:
        """One DMA of each device."""
        for entry in devices:
            self.one(entry)

    def one(self, entry: DmaDevice) -> None:
        """One DMA of a device; where it has read something, often the write that shows what it was."""
        draw = self.random.random
        length = -(-self._length() // self.alignment) * self.alignment
        iova = self._iova(entry.id, length) & -self.alignment
        landed = self._reads_landed.pop(entry.id, None)
        if landed is not None and draw() < 0.7:
            offset, length = landed
            iova = min(iova, (1 << self._width(entry.id)) - length)
            self.writer.dma(entry.id, AccessKind.WRITE, iova, length, offset)
        elif draw() < self.reads:
            offset = self._offset(LANDING, length)
            self._reads_landed[entry.id] = (offset, length)
            self.writer.dma(entry.id, AccessKind.READ, iova, length, offset)
        else:
            self.writer.dma(entry.id, AccessKind.WRITE, iova, length, self._offset(PAYLOADS, length))

    def word(self, entry: DmaDevice, kind: AccessKind) -> None:
        """A DMA of 4 bytes of one kind; nobody looks at what is read."""
        area = PAYLOADS if kind is AccessKind.WRITE else LANDING
        self.writer.dma(entry.id, kind, self._iova(entry.id, _WORD), _WORD, self._offset(area, _WORD))

    def show(self, entry: DmaDevice, iova: int) -> None:
        """A write of 4 bytes that tell themselves apart from others: it shows where it goes."""
        offset = PAYLOADS.start + self.random.randrange(len(PAYLOADS) // _WORD) * _WORD
        self.writer.dma(entry.id, AccessKind.WRITE, iova, _WORD, offset)

    def untranslated(self, entry: DmaDevice, far: Callable[[], int]) -> None:
        """A write that is not translated: to data, or to where nothing is, for the board has devices elsewhere.

        Args:
            entry: the device.
            far: chooses the highest bit of an address that is far away.
        """
        random, ram = self.random, self.writer.ram
        draw = random.random()
        if draw < 0.8:
            iova = ram + random.choice((HOT_DATA, DATA)).start + random.randrange(_NEAR) // _WORD * _WORD
        else:
            base = ram + RAM_BYTES if draw < 0.9 else 1 << far()
            iova = base + random.getrandbits(20) // _WORD * _WORD
        self.show(entry, iova)

    def message(self, entry: DmaDevice, address: int, number: int) -> None:
        """A write of 4 bytes with a small number in them, as an interrupt is."""
        self.writer.dma(entry.id, AccessKind.WRITE, address, _WORD, MESSAGES.start + number % 64 * _WORD)

    def _offset(self, area: range, length: int) -> int:
        """Where in an area of the buffer: a multiple of a word's size."""
        return area.start + int(self.random.random() * ((len(area) - length) // _WORD)) * _WORD

    def _length(self) -> int:
        if self.random.random() < 0.85:
            return _WORD
        return min(self.random.choice((1, 2, 8, 12, 16, 64, self.random.randrange(1, 96))), self.longest)

    def _iova(self, id: str, length: int) -> int:
        random = self.random
        draw = random.random()
        widest = self._width(id)
        places = self.places.get(id)
        if places and draw < 0.85:
            # Plain arithmetic on random numbers: this runs for every DMA.
            first, size = places[int(random.random() * len(places))]
            where = random.random()
            if where < 0.25:
                iova = first
            elif where < 0.4:
                iova = first + size - length
            elif where < 0.45:
                iova = first - length  # just before
            elif where < 0.5:
                iova = first + size  # just behind
            elif where < 0.53:
                iova = first + size - length // 2  # across the end
            else:
                iova = first + int(random.random() * size) & -_WORD
        elif self.special and draw < 0.9:
            iova = random.choice(self.special)
        else:
            within, beyond = min(self.input_bits, widest), min(self.input_bits + 1, widest)
            iova = random.getrandbits(random.choice((12, 21, 30, within, beyond, widest))) & -_WORD
            if iova < _BOARD_END:
                # Where nothing translates, tables and the board's own registers are there: not for devices to write.
                iova = self.writer.ram + HOT_DATA.start + iova % len(HOT_DATA)
        return max(0, min(iova, (1 << widest) - length))

    def _width(self, id: str) -> int:
        """Of the widest addresses of a device, bits."""
        return self.limits.get(id, self.widest)
