"""Stage 1 and stage 2 of a translation: the walk, the Access flag, permissions, and the flags that hardware sets.

IHI 0070 3.13 and 13.4, Arm DDI 0487 chapter D8. Where IHI 0070 leaves a choice: an access that has no permission
sets no flag (3.13.2), and flags of stage 1 are set before the final address goes through stage 2 (13.4.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.model.access import MemoryWrite
from harness.model.explanation import Step
from harness.model.memory import Memory
from harness.model.smmuv3.descriptors import STAGE1_LEAF
from harness.model.smmuv3.events import Smmuv3EventClass, Smmuv3EventType
from harness.model.smmuv3.permissions import READ, WRITE
from harness.model.smmuv3.walk import ACCESS_FLAG, Found, Table, WalkFault, give_reason, is_global_page, walk

__all__ = ["Nested", "Output", "check_leaf", "translate_stage1", "translate_stage2"]

_TYPE = Smmuv3EventType
_F_ACCESS, _F_PERMISSION, _F_TRANSLATION = _TYPE.F_ACCESS, _TYPE.F_PERMISSION, _TYPE.F_TRANSLATION
_IN, _TT = Smmuv3EventClass.IN, Smmuv3EventClass.TT
_DBM = STAGE1_LEAF["DBM"].mask
# Bit 7: AP[2] at stage 1, S2AP[1] at stage 2.
_WRITE_CONTROL = 0x80


class Output(NamedTuple):
    """What a stage gives.

    Attributes:
        address: output address.
        shift: log2 of the page's bytes.
        rights: READ, WRITE and EXECUTE of the page, for the privilege of the access.
        entry: the Block or Page descriptor.
        clean: its WRITE is there only because hardware would mark the page dirty, and it has not.
    """

    address: int
    shift: int
    rights: int
    entry: int
    clean: bool


def check_leaf(
    table: Table, entry: int, hierarchy: int, needed: int, privileged: bool, dirties: bool
) -> tuple[int, int, bool] | Smmuv3EventType:
    """The rights of a page, its descriptor after the access, and whether it stays writable-clean; or a fault.

    Access flag first, then permission (7.3.22).

    Args:
        table: in which the Block or Page descriptor is.
        entry: the descriptor.
        hierarchy: of `Found`.
        needed: rights that must all be there.
        privileged: PRIV of the access.
        dirties: it writes, or asks for leave to write: a writable-clean page becomes writable-dirty.
    """
    updated = entry
    if not entry & ACCESS_FLAG:
        if table.sets_access_flag:
            updated |= ACCESS_FLAG
        elif not table.ignores_access_flag:
            return _F_ACCESS
    # 3.13.3: with DBM, a page that is not writable is writable-clean, and counts as writable.
    clean = table.sets_dirty_state and bool(entry & _DBM) and entry & _WRITE_CONTROL != table.dirty
    effective = entry ^ _WRITE_CONTROL if clean else entry
    # The index of `permissions`.
    rights = table.rights[privileged][effective >> 6 & 0b11 | effective >> 51 & 0b1100 | hierarchy << 4]
    if needed & ~rights:
        return _F_PERMISSION
    # HTTU does not apply where something else than AP[2] or S2AP[1] takes the right to write away.
    clean = clean and bool(rights & WRITE)
    if clean and dirties:
        return rights, updated ^ _WRITE_CONTROL, False
    return rights, updated, clean


def translate_stage2(
    memory: Memory,
    table: Table,
    ipa: int,
    needed: int,
    *,
    privileged: bool,
    dirties: bool,
    event_class: Smmuv3EventClass,
    writes: list[MemoryWrite],
    trace: list[Step] | None,
    table_read: bool = True,
) -> Output | WalkFault:
    """Stage 2 of an address: that of the access (CLASS IN), of a stage 1 descriptor (TT) or of a CD (CD)."""
    # 3.4: an IPA outside of what S2T0SZ describes is a Translation fault.
    if ipa >> table.input_bits:
        give_reason(trace, "out of range", table, event_class)
        return WalkFault(_F_TRANSLATION, 2, None, event_class, ipa)
    found = walk(memory, table, ipa, event_class, None, trace)
    if isinstance(found, WalkFault):
        return found
    checked = check_leaf(table, found.entry, 0, needed, privileged, dirties)
    # STE.S2PTW: CDs and stage 1 tables must not be in device memory (5.2); an Access flag fault comes first (7.3.22).
    in_device_memory = bool(table.device_mask) and not found.entry & table.device_mask
    if in_device_memory and event_class is not _IN and checked is not _F_ACCESS:
        checked = _F_PERMISSION
    if not isinstance(checked, tuple):
        reason = "AF" if checked is _F_ACCESS else "S2PTW" if in_device_memory else "S2AP"
        give_reason(trace, reason, table, event_class)
        return WalkFault(checked, 2, found.level, event_class, ipa, table_read=table_read)
    rights, updated, clean = checked
    if updated != found.entry:
        _set_flags(writes, table, found, updated)
    return Output(found.address, found.shift, rights, found.entry, clean)


@dataclass(slots=True)
class Nested:
    """Stage 2 around the descriptors of a stage 1 walk (3.13.5, 7.3.12 to 7.3.16).

    Attributes:
        memory: physical memory.
        table: of stage 2.
        writes: takes the flags that it sets.
        trace: takes its steps.
    """

    memory: Memory
    table: Table
    writes: list[MemoryWrite]
    trace: list[Step] | None

    def __call__(self, ipa: int) -> int | WalkFault:
        """Where a descriptor is: a read."""
        return self._translate(ipa, READ)

    def update(self, ipa: int) -> int | WalkFault:
        """The same for the update of a descriptor: stage 2 must allow a write, and marks the page dirty."""
        return self._translate(ipa, WRITE)

    def _translate(self, ipa: int, needed: int) -> int | WalkFault:
        output = translate_stage2(
            self.memory,
            self.table,
            ipa,
            needed,
            privileged=False,
            dirties=needed == WRITE,
            event_class=_TT,
            writes=self.writes,
            trace=self.trace,
            table_read=needed == READ,
        )
        return output if isinstance(output, WalkFault) else output.address


def translate_stage1(
    memory: Memory,
    table: Table,
    address: int,
    needed: int,
    *,
    privileged: bool,
    dirties: bool,
    nested: Nested | None,
    writes: list[MemoryWrite],
    trace: list[Step] | None,
) -> Output | WalkFault:
    """Stage 1 of an address that TxSZ lets in; `address` is its low bits."""
    # CD.E0PDx: reported as a Translation fault (5.4).
    if table.no_unprivileged and not privileged:
        return WalkFault(_F_TRANSLATION, 1, None, _IN)
    found = walk(memory, table, address, _IN, nested, trace)
    if isinstance(found, WalkFault):
        return found
    checked = check_leaf(table, found.entry, found.hierarchy, needed, privileged, dirties)
    if not isinstance(checked, tuple):
        if trace is not None:
            alone = check_leaf(table, found.entry, 0, needed, privileged, dirties)
            reason = "AF" if checked is _F_ACCESS else "APTable" if isinstance(alone, tuple) else "AP"
            give_reason(trace, reason, table, _IN)
        # One with an Access flag fault is in no TLB.
        is_global = checked is _F_PERMISSION and is_global_page(table, found.entry)
        return WalkFault(checked, 1, found.level, _IN, is_global=is_global)
    rights, updated, clean = checked
    if updated != found.entry:
        if nested is not None:
            written = nested.update(found.table_address)
            if isinstance(written, WalkFault):
                return written._replace(is_global=is_global_page(table, found.entry))
        _set_flags(writes, table, found, updated)
    return Output(found.address, found.shift, rights, found.entry, clean)


def _set_flags(writes: list[MemoryWrite], table: Table, found: Found, entry: int) -> None:
    """Add the update of a descriptor to what has been written already.

    Memory stays as it was, so a stage 2 descriptor that serves several accesses of one walk is seen without the flags
    that an earlier one has set; they are only ever set, and taken over here.
    """
    order: Literal["big", "little"] = "big" if table.big_endian else "little"
    for earlier in writes:
        if earlier.address == found.fetched_from and table.stage == 2:
            before = int.from_bytes(earlier.data, order)
            if entry | before == before:
                return
            entry |= before
    writes.append(MemoryWrite(found.fetched_from, entry.to_bytes(8, order)))
