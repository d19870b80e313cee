"""Guests that do not come up: each is told for what it is, with the text that shows it, and soon."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import GuestCrashed, GuestUnreachable, Unsupported
from harness.lab import Lab
from harness.spec import Iommu, IommuKind, Machine

_PLAIN = Machine(iommu=Iommu(kind=IommuKind.NONE))


def test_a_kernel_without_an_init_is_a_panic_with_its_text(lab: Lab) -> None:
    spec = replace(_PLAIN, kernel_args=("rdinit=/there/is/none", "init=/there/is/none"))
    with lab.start(spec) as machine, pytest.raises(GuestCrashed, match="Kernel panic") as raised:
        machine.guest.wait_ready(60)
    assert "not syncing" in raised.value.evidence


def test_a_guest_that_hangs_in_init_is_unreachable_with_its_console(lab: Lab) -> None:
    spec = replace(_PLAIN, kernel_args=("rdinit=/bin/cat",))
    with lab.start(spec) as machine:
        machine.vmm.console.wait_for("Run /bin/cat as init", deadline=60)
        with pytest.raises(GuestUnreachable, match="did not come up within 1 s") as raised:
            machine.guest.wait_ready(1)
    assert "Run /bin/cat as init" in raised.value.evidence


def test_a_module_that_the_kernel_does_not_have_is_refused_by_name(lab: Lab) -> None:
    lab.require_modules("vfio_pci", "vfio-iommu-type1")
    with pytest.raises(Unsupported, match="no nosuch driver"):
        lab.require_modules("vfio_pci", "nosuch")
