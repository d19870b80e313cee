"""What an ATS Translation Completion grants (IHI 0070 13.7.1)."""

from __future__ import annotations

from harness.model.access import Access, AccessKind
from harness.model.smmuv3.configuration import Stream
from harness.model.smmuv3.permissions import EXECUTE, READ, WRITE
from harness.model.smmuv3.stages import Output

__all__ = ["granted"]


def granted(access: Access, stream: Stream, outputs: list[Output]) -> int:
    """The rights, by what each stage that translates gives; 0 where the request is answered with none."""
    rights = READ | WRITE | EXECUTE
    for output in outputs:
        # 13.7: a writable-clean page is not granted for writing unless it was asked for, and marked dirty.
        rights &= output.rights & ~(WRITE if output.clean else 0)
    asked = access.kind is AccessKind.EXECUTE
    if stream.instruction is None:
        allowed = rights & READ
        execute = asked and rights & READ and rights & EXECUTE
    elif stream.instruction:
        allowed = READ if rights & EXECUTE else 0
        execute = asked and rights & EXECUTE
    else:
        allowed = rights & READ
        execute = asked and rights & READ
    return allowed | rights & WRITE | (EXECUTE if execute else 0)
