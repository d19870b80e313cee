from __future__ import annotations

import time
from dataclasses import replace

import pytest

from harness.artifacts.qemu import QemuBuild
from harness.errors import HostError
from harness.vmm.qemu.accelerator import Choice, choose
from harness.vmm.qemu.command import Accelerator


def _with_kvm(build: QemuBuild, instead: str) -> QemuBuild:
    """The build, with something else in the place of its KVM."""
    script = f'case "$*" in *"-accel kvm"*) {instead};; *) exec "$@";; esac'
    return replace(build, argv_prefix=("/bin/sh", "-c", script, "sh", *build.argv_prefix))


def test_what_ran_guest_instructions_is_chosen(build: QemuBuild) -> None:
    # Status 85 is what the firmware image makes QEMU end with: as if KVM had run it.
    assert choose(_with_kvm(build, "exit 85")) == Choice(Accelerator.KVM)


def test_a_kvm_that_never_runs_the_guest_is_given_up_after_two_seconds(build: QemuBuild) -> None:
    begin = time.monotonic()
    choice = choose(_with_kvm(build, "exec sleep 60"))
    assert choice.accelerator is Accelerator.TCG
    assert "did not run a dozen instructions in 2 s" in choice.rejected
    assert time.monotonic() - begin < 10


def test_a_kvm_that_qemu_cannot_open_is_rejected_with_its_words(build: QemuBuild) -> None:
    choice = choose(_with_kvm(build, "echo 'Could not access KVM kernel module' >&2; exit 1"))
    assert choice == Choice(Accelerator.TCG, "QEMU exited with status 1: Could not access KVM kernel module")


def test_a_qemu_that_ends_without_having_run_the_guest_is_not_taken_for_one_that_did(build: QemuBuild) -> None:
    assert choose(_with_kvm(build, "exit 0")).accelerator is Accelerator.TCG


def test_a_qemu_that_runs_nothing_at_all_is_a_host_error(build: QemuBuild) -> None:
    with pytest.raises(HostError, match="runs no guest on this host"):
        choose(replace(build, argv_prefix=("/bin/false",)))
