"""What a Block or Page descriptor allows, as tables computed once (Arm DDI 0487, chapter D8, memory access control).

Both stages make an index of 8 bits from a descriptor, the same for all configurations: AP or S2AP in bits 1:0, PXN and
UXN or XN[1:0] in bits 3:2, and in bits 7:4 PXNTable, UXNTable, APTable[0] and APTable[1] of all Table descriptors above
it. Which rights it stands for depends on the CD or STE. Rights are READ 1, WRITE 2, EXECUTE 4, as in `Permissions`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

__all__ = ["EXECUTE", "READ", "WRITE", "Rights", "stage1_rights", "stage2_rights"]

READ, WRITE, EXECUTE = 1, 2, 4

Rights: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Rights by privilege (False, True) and index."""


@lru_cache(maxsize=64)
def stage1_rights(*, two_privileges: bool, pan: bool, enhanced_pan: bool, write_execute_never: bool) -> Rights:
    """Rights at stage 1, with the Direct Permission Scheme.

    Args:
        two_privileges: the EL1&0 or EL2&0 regime; in EL2's own all accesses count as privileged (IHI 0070 13.4.1).
        pan: CD.PAN.
        enhanced_pan: CD.EPAN.
        write_execute_never: CD.WXN.
    """
    unprivileged = []
    privileged = []
    for index in range(256):
        readable_below, read_only = bool(index & 1), bool(index & 2)
        pxn, uxn = bool(index & 0x14), bool(index & 0x28)
        none_below, no_write = bool(index & 0x40), bool(index & 0x80)
        write = not read_only and not no_write
        if not two_privileges:
            # AP[1] and APTable[0] have no meaning, and XN is where UXN is.
            execute = not uxn and not (write_execute_never and write)
            rights = READ | WRITE * write | EXECUTE * execute
            unprivileged.append(rights)
            privileged.append(rights)
            continue
        read_below = readable_below and not none_below
        write_below = read_below and write
        # What unprivileged accesses can write, privileged ones never execute.
        execute = not pxn and not write_below
        execute_below = not uxn
        refused = pan and (read_below or write_below or (enhanced_pan and execute_below))
        if write_execute_never:
            execute = execute and not write
            execute_below = execute_below and not write_below
        unprivileged.append(READ * read_below | WRITE * write_below | EXECUTE * execute_below)
        privileged.append((0 if refused else READ | WRITE * write) | EXECUTE * execute)
    return tuple(unprivileged), tuple(privileged)


@lru_cache(maxsize=2)
def stage2_rights(*, by_privilege: bool) -> Rights:
    """Rights at stage 2, with the Direct Permission Scheme.

    Args:
        by_privilege: IDR3.XNX: XN[1:0] is 0b00 execute, 0b01 unprivileged only, 0b10 never, 0b11 privileged only.
    """
    tables = []
    for privileged in (False, True):
        rights = []
        for index in range(256):
            execute_never = index >> 2 & 0b11
            if by_privilege:
                execute = execute_never == 0b00 or execute_never == (0b11 if privileged else 0b01)
            else:
                execute = not execute_never & 0b10
            rights.append(index & (READ | WRITE) | EXECUTE * execute)
        tables.append(tuple(rights))
    return tables[0], tables[1]
