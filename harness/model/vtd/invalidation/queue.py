"""The invalidation queue: which descriptors hardware takes, in what order, and what stops it (VT-d 6.5.2).

Sections are those of revision 5.10. What the specification leaves open is taken so:

- Before the first descriptor is fetched, these are looked at in turn: mode and width, the tail's alignment, its range.
- Descriptors are carried out one by one, each before the next is fetched.
- A device that does not answer is found out before the next descriptor is fetched, so that the head stands behind the
  descriptor that it did not answer, and no wait descriptor behind it completes.
- A head outside of the queue, as it stands after software has made the queue smaller, wraps with the next descriptor.

Nothing is written: a status write into the queue itself is not seen by the descriptors behind it.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from enum import StrEnum

from harness.model.bits import Field, Layout, changed
from harness.model.engine import CommandResult, MsiWrite
from harness.model.memory import Memory, OutsideMemory
from harness.model.vtd.invalidation.commands import IQA_REG, VtdQueueError, descriptor_size, execute, mode_error
from harness.model.vtd.invalidation.descriptors import DESCRIPTORS, DescriptorType, descriptor_type
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.reporting.events import FSTS_REG, Event, raise_status

__all__ = [
    "IQERCD_REG",
    "IQH_REG",
    "IQT_REG",
    "DeviceTlbFailure",
    "QueueRun",
    "QueueStep",
    "process_queue",
    "queue_size",
    "report_device_tlb",
]

IQH_REG = Layout(
    "IQH_REG", "VT-d 11.4.9.1", (Field("RSVD_0", 0, 4), Field("QH", 4, 15, in_place=True), Field("RSVD_19", 19, 45))
)
IQT_REG = Layout(
    "IQT_REG", "VT-d 11.4.9.2", (Field("RSVD_0", 0, 4), Field("QT", 4, 15, in_place=True), Field("RSVD_19", 19, 45))
)
IQERCD_REG = Layout(
    "IQERCD_REG",
    "VT-d 11.4.9.9",
    (Field("IQEI", 0, 4), Field("RSVD_4", 4, 28), Field("ITESID", 32, 16), Field("ICESID", 48, 16)),
)

_STOPPED = FSTS_REG["IQE"].mask | FSTS_REG["ITE"].mask
_PAGE = 4096
_FOR_DEVICE_TLBS = (DescriptorType.DEVICE_TLB, DescriptorType.PASID_DEVICE_TLB)


class DeviceTlbFailure(StrEnum):
    """What may be wrong with a device's answer to an invalidation, by the field of FSTS_REG that says so."""

    TIME_OUT = "ITE"
    """No answer came. The queue stops."""
    INVALID_COMPLETION = "ICE"
    """An answer came that nobody waited for. The queue goes on."""


@dataclass(frozen=True, slots=True)
class QueueStep:
    """What became of one place of the queue.

    Attributes:
        head: its offset in the queue, bytes.
        descriptor: the bits that were there; None where none were fetched.
        result: of it. `error` is a `VtdQueueError`, or `DeviceTlbFailure.TIME_OUT` where the device did not answer.
    """

    head: int
    descriptor: int | None
    result: CommandResult


@dataclass(frozen=True, slots=True)
class QueueRun:
    """What hardware did until the queue was empty or stopped.

    Attributes:
        registers: afterwards.
        steps: one for each descriptor, in their order; the last one may have an error.
        interrupts: invalidation and fault events that were sent, in their order.
    """

    registers: VtdRegisters
    steps: tuple[QueueStep, ...]
    interrupts: tuple[MsiWrite, ...]


def queue_size(registers: VtdRegisters) -> int:
    """Bytes of the queue, from IQA_REG.QS: 2^QS pages of 4 KiB, whatever the descriptor width."""
    return _PAGE << IQA_REG["QS"].get(registers.iqa)


def process_queue(registers: VtdRegisters, memory: Memory, *, silent: Container[int] = ()) -> QueueRun:
    """Take descriptors from the head to the tail, until an error stops it.

    Nothing is taken while the queue is off (QIES), or IQE or ITE is set.

    Args:
        registers: as they are now.
        memory: that the queue is in.
        silent: source ids of devices that do not answer an invalidation of their device TLB.
    """
    size = queue_size(registers)
    width = descriptor_size(registers)
    head = IQH_REG["QH"].get(registers.iqh) & ~(width - 1)
    tail = IQT_REG["QT"].get(registers.iqt)
    if not registers.queued_invalidation_enabled or registers.fsts & _STOPPED or head == tail:
        return QueueRun(registers, (), ())

    base = IQA_REG["IQA"].get(registers.iqa) & (1 << registers.host_address_width) - 1
    error = mode_error(registers) or _tail_error(tail, width, size)
    steps: list[QueueStep] = []
    interrupts: list[MsiWrite] = []
    stopped = False
    while head != tail and not stopped:
        at = head
        device: int | None = None
        descriptor = None if error is not None else _fetch(memory, base + head, width)
        if descriptor is None:
            result = CommandResult(error=error or VtdQueueError.FETCH)
        else:
            result, registers = execute(registers, descriptor)
            device = _device_tlb(descriptor)
        interrupt = result.interrupt
        if isinstance(result.error, VtdQueueError):
            # The head stays at the descriptor (VT-d 6.5.2.11).
            registers, interrupt = _report_error(registers, result.error)
        else:
            head = (head + width) % size
            if device is not None and device in silent:
                result = CommandResult(error=DeviceTlbFailure.TIME_OUT)
                registers, interrupt = report_device_tlb(registers, DeviceTlbFailure.TIME_OUT, device)
        stopped = result.error is not None
        steps.append(QueueStep(at, descriptor, result))
        if interrupt is not None:
            interrupts.append(interrupt)
    return QueueRun(replace(registers, iqh=head), tuple(steps), tuple(interrupts))


def report_device_tlb(registers: VtdRegisters, failure: DeviceTlbFailure, source_id: int) -> Event:
    """A device did not answer, or answered what nobody asked (VT-d 6.5.2.11).

    IQERCD_REG keeps the source id of the first one until software clears the field of FSTS_REG.
    """
    if FSTS_REG[failure.value].get(registers.fsts):
        return Event(registers)
    iqercd = changed(IQERCD_REG, registers.iqercd, {f"{failure.value}SID": source_id})
    return raise_status(replace(registers, iqercd=iqercd), {failure.value: 1})


def _tail_error(tail: int, width: int, size: int) -> VtdQueueError | None:
    if tail % width:
        return VtdQueueError.UNALIGNED_TAIL
    return VtdQueueError.INVALID_TAIL if tail >= size else None


def _fetch(memory: Memory, address: int, width: int) -> int | None:
    try:
        return int.from_bytes(memory.read(address, width), "little")
    except OutsideMemory:
        return None


def _report_error(registers: VtdRegisters, error: VtdQueueError) -> Event:
    """An invalidation queue error (VT-d 6.5.2.11)."""
    iqercd = changed(IQERCD_REG, registers.iqercd, {"IQEI": error})
    return raise_status(replace(registers, iqercd=iqercd), {"IQE": 1})


def _device_tlb(descriptor: int) -> int | None:
    """The source id whose device TLB a descriptor invalidates."""
    kind = descriptor_type(descriptor)
    return DESCRIPTORS[kind]["SID"].get(descriptor) if kind in _FOR_DEVICE_TLBS else None
