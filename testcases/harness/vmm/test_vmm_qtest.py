from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

import pytest
from vmm_rig import Start, stand_in, stopped

from harness.errors import SpecError, VmmTimeout
from harness.vmm.qemu.qtest import Qtest, QtestError, Width
from harness.vmm.rundir import RunDirectory

_ADDRESS = 0x10_0000


def test_memory_reads_back_as_it_was_written(start: Start) -> None:
    data = random.Random(1).randbytes(300_001)
    qtest = start().qtest
    qtest.write(_ADDRESS + 3, data)
    assert qtest.read(_ADDRESS + 3, len(data)) == data


def test_pieces_of_memory_are_read_at_once_in_the_order_asked_for(start: Start) -> None:
    data = random.Random(1).randbytes(0x8000)
    qtest = start().qtest
    qtest.write(_ADDRESS, data)
    pieces = [(0x3001, 4096), (0, 1), (0x7FFF, 1)]
    assert qtest.read_pieces([(_ADDRESS + at, size) for at, size in pieces]) == [
        data[at : at + size] for at, size in pieces
    ]
    assert qtest.read_pieces([]) == []


@pytest.mark.parametrize("width", list(Width))
def test_an_access_is_little_endian_and_of_its_width(start: Start, width: Width) -> None:
    qtest = start().qtest
    qtest.write(_ADDRESS, b"\xff" * 16)
    qtest.write_value(_ADDRESS, 0x0102030405060708 & (1 << 8 * width) - 1, width)
    assert qtest.read(_ADDRESS, 9) == bytes([8, 7, 6, 5, 4, 3, 2, 1])[:width] + b"\xff" * (9 - width)
    assert qtest.read_value(_ADDRESS, width) == 0x0102030405060708 & (1 << 8 * width) - 1


def test_a_port_is_reached(start: Start) -> None:
    qtest = start().qtest
    qtest.write_port(0xCF8, 0x8000_0000, Width.LONG)
    assert qtest.read_port(0xCFC, Width.LONG) == 0x29C0_8086  # Intel's 82G33 host bridge


def test_a_port_access_of_eight_bytes_is_refused(start: Start) -> None:
    with pytest.raises(SpecError, match="not 8"):
        start().qtest.read_port(0xCF8, Width.QUAD)


def test_a_batch_answers_each_command_in_order(start: Start) -> None:
    qtest = start().qtest
    values = list(range(40_000))  # more than the buffers of both directions hold
    qtest.batch([f"writel {_ADDRESS + 4 * value:#x} {value:#x}" for value in values])
    answers = qtest.batch([f"readl {_ADDRESS + 4 * value:#x}" for value in values])
    assert [int(answer, 0) for answer in answers] == values


def test_a_command_that_qemu_refuses_is_named_and_the_channel_goes_on(start: Start) -> None:
    qtest = start().qtest
    with pytest.raises(QtestError, match=r"'frobnicate': FAIL Unknown command 'frobnicate'"):
        qtest.batch([f"writel {_ADDRESS:#x} 0x7", "frobnicate", f"writel {_ADDRESS + 4:#x} 0x8"])
    assert qtest.read_value(_ADDRESS, Width.QUAD) == 8 << 32 | 7


def test_the_answer_to_a_command_that_timed_out_is_not_taken_for_the_next_ones(start: Start) -> None:
    machine = start()
    machine.qtest.write(_ADDRESS, b"\x11" * 4 + b"\x22" * 4)
    with stopped(machine.process.pid), pytest.raises(VmmTimeout):
        machine.qtest.read_value(_ADDRESS, Width.LONG, deadline=0.1)
    assert machine.qtest.read_value(_ADDRESS + 4, Width.LONG) == 0x2222_2222


def test_interrupt_lines_between_answers_are_passed_over(parent: Path) -> None:
    here, there = socket.socketpair()
    there.sendall(b"IRQ raise 4\nOK 0x2a\nIRQ lower 4\n")
    with RunDirectory.create(parent) as directory, stand_in(directory, "sleep", "60") as process, here, there:
        assert Qtest(here, process).command("inb 0x60") == "0x2a"


def test_a_build_without_base64_is_asked_in_hexadecimal(parent: Path) -> None:
    here, there = socket.socketpair()
    asked: list[str] = []

    def old_qemu() -> None:
        with there.makefile("rw") as file:
            for line in file:
                asked.append(line.strip())
                file.write("FAIL Unknown command 'b64read'\n" if line.startswith("b64") else "OK 0x0102\n")
                file.flush()

    thread = threading.Thread(target=old_qemu)
    thread.start()
    with RunDirectory.create(parent) as directory, stand_in(directory, "sleep", "60") as process:
        qtest = Qtest(here, process)
        assert qtest.read(_ADDRESS, 2) == b"\x01\x02"
        qtest.close()
        thread.join()
        there.close()
    assert asked == ["b64read 0x0 0x1", "read 0x100000 0x2"]
