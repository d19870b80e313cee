"""Which cached entries an invalidation drops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.model.invalidation import EVERYTHING, CachedEntry, EntryKind, Invalidation

ENTRY = CachedEntry(
    kind=EntryKind.LEAF, requester=0x128, domain=3, space=7, stage=1, first=0x4000, last=0x5FFF, granule=12, level=2
)
LEAVES = frozenset({EntryKind.LEAF})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"requester": 0x128},
        {"requester": 0x12F, "requester_mask": 0xFFF8},
        {"domain": 3},
        {"space": 7},
        {"stage": 1},
        {"granule": 12, "level": 2},
        {"first": 0x5FFF},
        {"last": 0x4000},
        {"first": 0x4800, "last": 0x48FF},
        {"domain": 3, "space": 7, "first": 0, "last": 0x4000},
    ],
)
def test_an_invalidation_drops_what_matches_in_every_tag(fields: dict[str, int]) -> None:
    assert Invalidation(kinds=LEAVES, **fields).drops(ENTRY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"requester": 0x129},
        {"domain": 4},
        {"space": 8},
        {"stage": 2},
        {"granule": 14},
        {"level": 1},
        {"level": 3},
        {"first": 0x6000},
        {"last": 0x3FFF},
        {"domain": 3, "space": 8},
    ],
)
def test_an_invalidation_of_another_scope_spares_an_entry(fields: dict[str, int]) -> None:
    assert not Invalidation(kinds=LEAVES, **fields).drops(ENTRY)  # type: ignore[arg-type]


def test_an_invalidation_spares_entries_of_other_kinds() -> None:
    assert not Invalidation(kinds=EVERYTHING - LEAVES).drops(ENTRY)
    assert not Invalidation(kinds=EVERYTHING).drops(replace(ENTRY, kind=EntryKind.DEVICE_TLB))


def test_an_entry_without_a_tag_is_not_spared_for_it() -> None:
    entry = replace(ENTRY, requester=None, domain=None, stage=None, first=None, last=None, granule=None, level=None)
    assert Invalidation(kinds=LEAVES, requester=9, domain=9, stage=2, first=0, last=0, granule=16, level=1).drops(entry)


def test_an_entry_without_an_address_space_is_spared_by_one_that_names_one() -> None:
    assert not Invalidation(kinds=LEAVES, space=7).drops(replace(ENTRY, space=None))


def test_a_global_entry_goes_with_one_address_space_only_where_that_is_asked_for() -> None:
    entry = replace(ENTRY, is_global=True)
    assert not Invalidation(kinds=LEAVES, space=8).drops(entry)
    assert Invalidation(kinds=LEAVES, space=8, globals_too=True).drops(entry)


def test_interrupt_entries_are_dropped_by_their_numbers() -> None:
    entry = CachedEntry(kind=EntryKind.INTERRUPT, index=5)
    kinds = frozenset({EntryKind.INTERRUPT})
    assert Invalidation(kinds=kinds, indexes=(4, 5)).drops(entry)
    assert not Invalidation(kinds=kinds, indexes=(6, 7)).drops(entry)
