"""AMD-Vi (AMD I/O Virtualization Technology (IOMMU) Specification, 48882, numbering of revision 3.05 and later)."""

from harness.model.amdvi.commands import AmdviOpcode, make_command
from harness.model.amdvi.engine import AmdviEngine
from harness.model.amdvi.events import AmdviEvent, AmdviEventCode
from harness.model.amdvi.faults import AmdviFaultReason
from harness.model.amdvi.formats import GuestFormat, HostFormat
from harness.model.amdvi.queues import log_event, read_events, run_command_buffer
from harness.model.amdvi.registers import AmdviRegisters
from harness.model.amdvi.tables import AmdviTables, Gcr3Table

__all__ = [
    "AmdviEngine",
    "AmdviEvent",
    "AmdviEventCode",
    "AmdviFaultReason",
    "AmdviOpcode",
    "AmdviRegisters",
    "AmdviTables",
    "Gcr3Table",
    "GuestFormat",
    "HostFormat",
    "log_event",
    "make_command",
    "read_events",
    "run_command_buffer",
]
