"""What every architecture has in common: stale results until the right invalidation, and one result after it."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
from cache_rigs import FRAME, NEW_FRAME, NEXT_PAGE, OTHER_FRAME, PAGE, RIGS, Rig, remap, replace_last_table
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_caches import Bench

from harness.model.access import AccessKind, Permissions


def cases(attribute: str) -> list[tuple[str, str]]:
    return [(name, command) for name, make in RIGS.items() for command in getattr(make(), attribute)]


every_rig = pytest.mark.parametrize("name", RIGS)


@every_rig
def test_without_a_change_there_is_one_outcome(name: str) -> None:
    assert RIGS[name]().targets() == {FRAME}


@every_rig
def test_after_an_unmap_without_an_invalidation_the_old_translation_is_allowed(name: str) -> None:
    rig = RIGS[name]()
    rig.map(None)
    assert rig.targets() == {FRAME, None}


@pytest.mark.parametrize(("name", "command"), cases("wrong"))
def test_after_an_invalidation_of_the_wrong_scope_it_still_is(name: str, command: str) -> None:
    rig = RIGS[name]()
    rig.map(None)
    rig.invalidate(command)
    assert rig.targets() == {FRAME, None}


@pytest.mark.parametrize(("name", "command"), cases("right"))
def test_after_the_right_invalidation_one_outcome_is_left(name: str, command: str) -> None:
    rig = RIGS[name]()
    rig.map(None)
    rig.invalidate(command)
    assert rig.targets() == {None}
    rig.map(FRAME)
    rig.invalidate(command)
    rig.map(NEW_FRAME)
    assert rig.targets() == {FRAME, NEW_FRAME}
    rig.invalidate(command)
    assert rig.targets() == {NEW_FRAME}


@every_rig
def test_a_right_that_was_taken_away_is_had_until_it_is_invalidated(name: str) -> None:
    rig = RIGS[name]()
    rig.map(FRAME, Permissions.READ)
    assert rig.targets(AccessKind.WRITE) == {FRAME, None}
    rig.invalidate(rig.right[-1])
    assert rig.targets(AccessKind.WRITE) == {None}


@every_rig
def test_a_page_that_was_not_present_is_not_missed_once_it_is(name: str) -> None:
    rig = RIGS[name]()
    rig.map(FRAME, page=NEXT_PAGE)
    assert rig.targets(page=NEXT_PAGE) == {FRAME}


@every_rig
def test_other_tags_for_a_device_count_once_its_entries_are_invalidated(name: str) -> None:
    rig = RIGS[name]()
    rig.do(lambda: rig.attach(False))
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate(rig.translations)
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate(*rig.device)
    if rig.policy.found_by_requester:
        # VT-d table 17: its translations are found without the domain that they are invalidated by.
        assert rig.targets() == {FRAME, OTHER_FRAME}
        rig.invalidate(rig.translations)
    assert rig.targets() == {OTHER_FRAME}


@every_rig
def test_a_table_of_tags_that_a_device_has_left_is_not_walked_on(name: str) -> None:
    rig = RIGS[name]()
    rig.do(lambda: rig.attach(False))
    rig.invalidate(*rig.device)
    rig.map(NEW_FRAME)
    assert rig.targets() == ({FRAME, OTHER_FRAME} if rig.policy.found_by_requester else {OTHER_FRAME})


@every_rig
def test_another_table_with_the_same_tags_counts_once_entries_and_then_translations_are_invalidated(name: str) -> None:
    rig = RIGS[name]()
    rig.do(lambda: rig.attach(True))
    rig.invalidate(*rig.device)
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate(rig.translations)
    assert rig.targets() == {OTHER_FRAME}


@every_rig
def test_translations_that_are_invalidated_before_the_device_entry_come_back(name: str) -> None:
    rig = RIGS[name]()
    rig.do(lambda: rig.attach(True))
    rig.invalidate(rig.translations)
    rig.invalidate(*rig.device)
    assert rig.targets() == {FRAME, OTHER_FRAME}


@every_rig
def test_after_everything_is_invalidated_no_history_is_left(name: str) -> None:
    rig = RIGS[name]()
    rig.map(None)
    rig.do(lambda: rig.attach(False))
    # Twice: what a walk uses in another order than it is dropped in goes with the second round.
    rig.invalidate(*rig.everything)
    assert rig.targets() == {OTHER_FRAME}
    rig.invalidate(*rig.everything)
    assert rig.model.memory.is_empty


def programs(rig: Rig) -> list[str | list[tuple[int, bytes]]]:
    """Entries to write, and names of commands."""
    found: list[str | list[tuple[int, bytes]]] = list(rig.commands)
    for frame in (FRAME, NEW_FRAME, None):
        for page in (PAGE, NEXT_PAGE):
            found.append(rig.change(partial(remap, rig.table, page, frame)))
    device = [change for same in (True, False) for change in rig.change(partial(rig.attach, same))]
    found += [[change] for change in device]
    found.append([(address, rig.memory.read(address, len(data))) for address, data in device])
    return found


def run(rig: Rig, program: list[int], chance: random.Random | None) -> None:
    """Let the model and an implementation do the same, and compare what comes of the access after each step."""
    next_page = replace(rig.access, iova=NEXT_PAGE)
    bench = Bench(rig.model, rig.engine_of, rig.policy, [rig.access, next_page], chance)
    choices = programs(rig)
    for number in program:
        choice = choices[number % len(choices)]
        if isinstance(choice, str):
            bench.invalidate(rig.model.engine.submit(rig.commands[choice]).invalidations)
        else:
            for address, data in choice:
                bench.write(address, int.from_bytes(data, "little"), len(data))
        bench.check()


@every_rig
@settings(max_examples=5, deadline=None)
@given(program=st.lists(st.integers(0, 1000), max_size=14), seed=st.integers(0, 1 << 16))
def test_caches_that_keep_what_they_like_never_give_what_is_not_allowed(
    name: str, program: list[int], seed: int
) -> None:
    run(RIGS[name](), program, random.Random(seed))


ONE_STAGE = ("vtd-second", "vtd-first-pasid", "riscv-first", "riscv-second", "amdvi-host", "smmuv3-1", "smmuv3-2")


@pytest.mark.parametrize("name", ONE_STAGE)
@settings(max_examples=3, deadline=None)
@given(program=st.lists(st.integers(0, 1000), max_size=8))
def test_what_is_allowed_is_what_caches_that_keep_everything_can_give(name: str, program: list[int]) -> None:
    run(RIGS[name](), program, None)


@every_rig
def test_a_table_that_is_no_longer_used_is_walked_on_until_its_translations_are_invalidated(name: str) -> None:
    rig = RIGS[name]()
    rig.do(lambda: rig.attach(True))
    rig.invalidate(*rig.device)
    rig.map(None)
    assert rig.targets() == {FRAME, OTHER_FRAME, None}
    rig.invalidate(rig.translations)
    assert rig.targets() == {OTHER_FRAME}


def large_page_rigs() -> list[tuple[str, bool]]:
    """Names of rigs, and whether one address of a large page takes all of it along."""
    return [(name, not name.startswith("vtd")) for name in RIGS if name != "vtd-nested"]


@pytest.mark.parametrize(("name", "whole"), large_page_rigs())
def test_an_address_takes_its_large_page_along_but_for_vt_d(name: str, whole: bool) -> None:
    rig = RIGS[name]()
    table = rig.table
    size, inside = 1 << 21, PAGE + 0x12_3000
    large = 0x8020_0000

    def map_large() -> None:
        table.unmap(PAGE, 0x1000)
        table.map(PAGE, large, size, largest_page=size)

    if rig.below is not None:
        rig.below.map(large, large, size)
    rig.do(map_large)
    rig.invalidate(*rig.everything)
    rig.invalidate(*rig.everything)
    assert rig.targets(page=inside) == {large + 0x12_3000}
    rig.do(lambda: table.unmap(PAGE, size))
    assert rig.targets(page=inside) == {large + 0x12_3000, None}
    rig.invalidate(rig.leaf_only)
    assert rig.targets(page=PAGE) == {None}
    assert rig.targets(page=inside) == ({None} if whole else {large + 0x12_3000, None})


@every_rig
def test_an_invalidation_of_leaves_alone_spares_the_table_that_led_to_them(name: str) -> None:
    rig = RIGS[name]()
    rig.do(lambda: replace_last_table(rig.table, NEW_FRAME))
    assert rig.targets() == {FRAME, NEW_FRAME}
    rig.invalidate(rig.leaf_only)
    assert rig.targets() == {FRAME, NEW_FRAME}
    rig.invalidate(rig.translations)
    assert rig.targets() == {NEW_FRAME}


@pytest.mark.parametrize(
    ("name", "command"), [("riscv-both-process", "frame of gscid"), ("amdvi-guest-pasid", "frame")]
)
def test_an_invalidation_of_the_stage_below_ends_what_was_made_with_it(name: str, command: str) -> None:
    rig = RIGS[name]()
    below = rig.below
    assert below is not None
    rig.do(lambda: remap(below, FRAME, OTHER_FRAME))
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate(rig.right[1])
    # What was kept of the stage below is there still.
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate(command)
    assert rig.targets() == {OTHER_FRAME}


def test_an_smmu_keeps_translations_of_both_stages_though_the_ipa_is_invalidated() -> None:
    rig = RIGS["smmuv3-12"]()
    below = rig.below
    assert below is not None
    rig.do(lambda: remap(below, FRAME, OTHER_FRAME))
    # IHI 0070 4.4.3: after the IPA, the translations by VA have to be invalidated as well, in this order.
    rig.invalidate("va")
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate("ipa of frame")
    assert rig.targets() == {FRAME, OTHER_FRAME}
    rig.invalidate("va")
    assert rig.targets() == {OTHER_FRAME}


def test_an_smmu_drops_both_stages_of_a_vmid_at_once() -> None:
    rig = RIGS["smmuv3-12"]()
    below = rig.below
    assert below is not None
    rig.do(lambda: remap(below, FRAME, OTHER_FRAME))
    rig.invalidate("vmid, both stages")
    assert rig.targets() == {OTHER_FRAME}
