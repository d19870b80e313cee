"""Everything that the harness raises, named after what a caller can do about it.

::

    HarnessError
    ├── SpecError              the request is wrong: change the request
    │   └── Unsupported        this build, kernel or guest cannot do it: use another, or skip
    ├── HostError              this host lacks something: install it, free space, unblock a port
    ├── ArtifactError          a QEMU, kernel or package could not be had
    │   ├── MirrorUnreachable  no package source answered: check the network, or name a path
    │   └── CorruptArtifact    what was fetched or cached is damaged: it was thrown away, run again
    ├── VmmError               QEMU did not do as told
    │   ├── VmmStartError      it never came up: its stderr is in the message
    │   ├── VmmCrashed         it crashed under its guest: a finding about what is tested
    │   ├── VmmDied            it ended while it was needed, killed or by its own decision
    │   ├── NotSaved           it has something that cannot be saved: boot the machine instead
    │   └── VmmTimeout         it did not answer in time
    └── GuestError             the guest did not do as it must: a finding about what is tested
        ├── GuestCrashed       panic, oops, BUG, hung task, reset...: the text is in `evidence`
        ├── GuestUnreachable   no SSH, no agent answer: the console tail is in `evidence`
        └── AgentError         the in-guest agent reported a failure of the operation asked

Each carries what was asked and found (the message), what to do (`hint`) and what was seen (`evidence`),
and the verdict that a test gets when the error ends it.
"""

from __future__ import annotations

from typing import ClassVar

from harness.verdict import Verdict

__all__ = [
    "AgentError",
    "ArtifactError",
    "CorruptArtifact",
    "GuestCrashed",
    "GuestError",
    "GuestUnreachable",
    "HarnessError",
    "HostError",
    "MirrorUnreachable",
    "NotSaved",
    "SpecError",
    "Unsupported",
    "VmmCrashed",
    "VmmDied",
    "VmmError",
    "VmmStartError",
    "VmmTimeout",
]


class HarnessError(Exception):
    """Root of the hierarchy.

    Args:
        message: what was asked and what was found, one or two sentences.
        hint: what the user can do about it; empty when there is nothing to do.
        evidence: the text that shows it (stderr, console tail), shown below the message.
    """

    verdict: ClassVar[Verdict] = Verdict.MISS

    def __init__(self, message: str, *, hint: str = "", evidence: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence

    def __str__(self) -> str:
        parts = [self.message]
        if self.hint:
            parts.append(f"hint: {self.hint}")
        if self.evidence:
            parts.append(self.evidence.rstrip())
        return "\n".join(parts)


class SpecError(HarnessError):
    """The request is wrong or impossible; nothing was started."""


class Unsupported(SpecError):
    """A named capability is absent from this build, kernel or guest, found by asking it."""

    verdict = Verdict.SKIP


class HostError(HarnessError):
    """The host lacks something: a program, space, a permission."""


class ArtifactError(HarnessError):
    """A QEMU build, a kernel or a package could not be had."""


class MirrorUnreachable(ArtifactError):
    """No package source answered."""


class CorruptArtifact(ArtifactError):
    """Something fetched or cached is damaged; it has been removed."""


class VmmError(HarnessError):
    """QEMU did not do as it was told."""


class VmmStartError(VmmError):
    """QEMU ended, or refused its command line, before the guest ran."""


class VmmCrashed(VmmError):
    """QEMU ended by a signal of its own making (an assertion, a bad access) under a guest that ran."""

    verdict = Verdict.FAIL


class VmmDied(VmmError):
    """QEMU ended while it was still needed."""


class NotSaved(VmmError):
    """QEMU cannot save this machine."""


class VmmTimeout(VmmError):
    """QEMU did not answer in time."""


class GuestError(HarnessError):
    """The guest did not do as it must."""

    verdict = Verdict.FAIL


class GuestCrashed(GuestError):
    """The guest's console shows a panic, oops, BUG, hung task or the like; or it reset or shut itself down."""


class GuestUnreachable(GuestError):
    """The guest does not answer."""


class AgentError(GuestError):
    """The agent in the guest could not do what it was asked."""
