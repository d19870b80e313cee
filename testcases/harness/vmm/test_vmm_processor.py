"""What a processor has in its registers, with no guest."""

from __future__ import annotations

from vmm_rig import Start, spec

from harness.vmm.qemu.processor import page_table


def test_a_processor_that_has_not_paged_yet_has_no_page_table(start: Start) -> None:
    assert page_table(start(spec()).qmp) == 0
