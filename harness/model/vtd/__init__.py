"""Intel VT-d (Virtualization Technology for Directed I/O, architecture specification, numbering of revision 5.10)."""

from harness.model.vtd.engine import VtdEngine
from harness.model.vtd.extended_capabilities import ExtendedCapabilities
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.page_formats import FirstStageFormat, SecondStageFormat
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.scalable_tables import VtdScalableTables
from harness.model.vtd.tables import VtdTables

__all__ = [
    "ExtendedCapabilities",
    "FirstStageFormat",
    "SecondStageFormat",
    "VtdEngine",
    "VtdFaultReason",
    "VtdFaultRecord",
    "VtdRegisters",
    "VtdScalableTables",
    "VtdTables",
]
