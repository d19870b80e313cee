"""Intel VT-d (Virtualization Technology for Directed I/O, architecture specification, numbering of revision 4.1)."""

from harness.model.vtd.engine import VtdEngine
from harness.model.vtd.faults import VtdFaultReason, VtdFaultRecord
from harness.model.vtd.registers import VtdRegisters
from harness.model.vtd.tables import SecondStageFormat, VtdTables

__all__ = ["SecondStageFormat", "VtdEngine", "VtdFaultReason", "VtdFaultRecord", "VtdRegisters", "VtdTables"]
