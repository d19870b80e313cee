"""Arm SMMUv3 (System Memory Management Unit Architecture Specification, IHI 0070, numbering of issue G.b).

The Non-secure programming interface with VMSAv8-64 translation tables (Arm ARM, DDI 0487).
"""

from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.commands import Smmuv3CommandError, Smmuv3Opcode
from harness.model.smmuv3.engine import Smmuv3Engine
from harness.model.smmuv3.events import Smmuv3Event, Smmuv3EventClass, Smmuv3EventType, Smmuv3Terminated
from harness.model.smmuv3.formats import Stage1Format, Stage2Format
from harness.model.smmuv3.queues import consume_commands, record_event
from harness.model.smmuv3.registers import Smmuv3Registers
from harness.model.smmuv3.tables import Smmuv3ContextTable, Smmuv3Tables

__all__ = [
    "Smmuv3Capabilities",
    "Smmuv3CommandError",
    "Smmuv3ContextTable",
    "Smmuv3Engine",
    "Smmuv3Event",
    "Smmuv3EventClass",
    "Smmuv3EventType",
    "Smmuv3Opcode",
    "Smmuv3Registers",
    "Smmuv3Tables",
    "Smmuv3Terminated",
    "Stage1Format",
    "Stage2Format",
    "consume_commands",
    "record_event",
]
