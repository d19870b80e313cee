"""Intel VT-d (Virtualization Technology for Directed I/O, architecture specification, numbering of revision 5.10)."""

from harness.model.vtd.build.legacy import VtdTables
from harness.model.vtd.build.page_formats import FirstStageFormat, SecondStageFormat
from harness.model.vtd.build.scalable import VtdScalableTables
from harness.model.vtd.engine import VtdEngine
from harness.model.vtd.extended_capabilities import ExtendedCapabilities
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.registers import VtdRegisters

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
