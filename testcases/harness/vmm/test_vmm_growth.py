"""Processors and memory that are plugged into a running QEMU."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vmm_rig import Start, spec

from harness.errors import SpecError
from harness.model.memory import Region
from harness.spec import Room
from harness.vmm.qemu.growth import memory_modules, plug_bridge, plug_memory, plug_processor
from harness.vmm.qemu.qmp import QmpError


def test_processors_are_plugged_until_there_is_no_room(start: Start) -> None:
    machine = start(replace(spec(), room=Room(cpus=2)))
    for _ in range(2):
        plug_processor(machine.qmp)
    assert len(machine.qmp.execute("query-cpus-fast")) == 3
    with pytest.raises(SpecError, match="no processor can be plugged"):
        plug_processor(machine.qmp)


def test_memory_that_is_plugged_is_where_it_is_said_to_be(start: Start) -> None:
    machine = start(replace(spec(), room=Room(memory_mib=128)))
    assert memory_modules(machine.qmp) == ()
    module = plug_memory(machine.qmp, 128)
    assert module == Region(module.base, 128 << 20)
    assert memory_modules(machine.qmp) == (module,)
    machine.memory.write(module.base + module.size - 4, b"last")
    assert machine.memory.read(module.base + module.size - 4, 4) == b"last"


def test_memory_beyond_the_room_is_refused(start: Start) -> None:
    machine = start(replace(spec(), room=Room(memory_mib=128)))
    with pytest.raises(QmpError):
        plug_memory(machine.qmp, 256)


def test_a_port_takes_a_bridge_where_nothing_is_plugged(start: Start) -> None:
    machine = start(spec("edu,hotplug=on,id=there", "edu,hotplug=on,id=absent"))
    machine.plug("there")
    plug_bridge(machine.qmp, "port.2")
    with pytest.raises(QmpError, match="occupied"):
        plug_bridge(machine.qmp, "port.1")
