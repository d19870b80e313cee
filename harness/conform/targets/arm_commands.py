"""Commands for programs of arm-smmuv3 that invalidate nothing: those that an SMMU refuses, and those without effect."""

from __future__ import annotations

from harness.model.smmuv3.capabilities import Smmuv3Capabilities
from harness.model.smmuv3.commands import Smmuv3Opcode, command_bits

__all__ = ["COMMAND_ERRORS", "answers", "refused_for_features"]

_OP = Smmuv3Opcode
_RESERVED_OPCODES = (0x00, 0x07, 0x14, 0x29, 0x47, 0x70, 0x90, 0xFF)
_EL3_OPCODES = (0x18, 0x1A)
_NO_STALLS = 0b01  # of IDR0.STALL_MODEL

COMMAND_ERRORS = (
    *_RESERVED_OPCODES,
    command_bits(_OP.CMD_CFGI_STE, SSEC=1),
    command_bits(_OP.CMD_CFGI_STE_RANGE, SSEC=1),
    command_bits(_OP.CMD_CFGI_CD, SSEC=1),
    command_bits(_OP.CMD_CFGI_CD_ALL, SSEC=1),
)
"""Commands that every SMMU refuses (IHI 0070 4.1.3, 4.1.6), and every build of QEMU."""


def answers(has: Smmuv3Capabilities) -> list[int]:
    """Commands for devices that ask, and for stalled transactions: there are none, nothing changes (4.5, 4.7)."""
    found = []
    if has.ats:
        found += [command_bits(_OP.CMD_ATC_INV, SIZE=52), command_bits(_OP.CMD_ATC_INV, ADDRESS=1)]
    if has.pri:
        found += [command_bits(_OP.CMD_PRI_RESP, RESP=response) for response in range(3)]
    if has.stall_model != _NO_STALLS:
        found += [command_bits(_OP.CMD_RESUME, AC=1), command_bits(_OP.CMD_RESUME), command_bits(_OP.CMD_STALL_TERM)]
    return found


def refused_for_features(has: Smmuv3Capabilities) -> list[int]:
    """Commands that are illegal for what an SMMU lacks, for one of their fields, or on a queue that is not Secure."""
    opcodes = []
    if not has.stage1:
        opcodes += [_OP.CMD_CFGI_CD, _OP.CMD_CFGI_CD_ALL]
        opcodes += [_OP.CMD_TLBI_NH_ALL, _OP.CMD_TLBI_NH_ASID, _OP.CMD_TLBI_NH_VA, _OP.CMD_TLBI_NH_VAA]
    if not has.stage2:
        opcodes += [_OP.CMD_TLBI_S12_VMALL, _OP.CMD_TLBI_S2_IPA]
    if not has.el2_streams:
        opcodes += [_OP.CMD_TLBI_EL2_ALL, _OP.CMD_TLBI_EL2_ASID, _OP.CMD_TLBI_EL2_VA, _OP.CMD_TLBI_EL2_VAA]
    if not has.ats:
        opcodes.append(_OP.CMD_ATC_INV)
    if not has.pri:
        opcodes.append(_OP.CMD_PRI_RESP)
    if has.stall_model == _NO_STALLS:
        opcodes += [_OP.CMD_RESUME, _OP.CMD_STALL_TERM]
    commands = [*_EL3_OPCODES, *(command_bits(opcode) for opcode in opcodes)]
    commands += [command_bits(_OP.CMD_PREFETCH_CONFIG, SSEC=1), command_bits(_OP.CMD_PREFETCH_ADDR, SSEC=1)]
    commands.append(command_bits(_OP.CMD_SYNC, CS=0b11))
    if has.range_invalidation:
        commands.append(command_bits(_OP.CMD_TLBI_NH_VA if has.stage1 else _OP.CMD_TLBI_S2_IPA, TG=1))
    return commands
