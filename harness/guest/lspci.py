"""What `lspci` shows in the guest, in its machine-readable form."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from harness.errors import GuestError, SpecError
from harness.guest.shortened import shortened
from harness.guest.ssh import SshSession
from harness.pci import Address

__all__ = ["ListedFunction", "lspci", "parse_lspci"]

_MOST = 65_536


@dataclass(frozen=True, slots=True)
class ListedFunction:
    """One line: address, class and subclass (16 bits), vendor and device id."""

    address: Address
    class_code: int
    vendor: int
    device: int


def lspci(session: SshSession) -> tuple[ListedFunction, ...]:
    """Run `lspci -Dnmm` in the guest.

    Raises:
        GuestError: it failed, or printed what is not its format.
    """
    done = session.run("lspci -Dnmm")
    if done.status:
        raise GuestError(f"lspci ended with status {done.status}", evidence=done.stderr)
    return parse_lspci(done.stdout)


def parse_lspci(text: str) -> tuple[ListedFunction, ...]:
    """Read lines such as `0000:00:04.0 "00ff" "1234" "11e8" -r10 "1af4" "1100"` (lspci(8), -mm).

    Raises:
        GuestError: a line is not of that form, and quoted; or there are more than a segment has functions.
    """
    lines = text.splitlines()
    if len(lines) > _MOST:
        raise GuestError(f"lspci printed {len(lines)} lines, and a PCI segment has {_MOST} functions")
    functions = []
    for line in lines:
        try:
            address, class_code, vendor, device = shlex.split(line)[:4]
            functions.append(
                ListedFunction(Address.parse(address), int(class_code, 16), int(vendor, 16), int(device, 16))
            )
        except (ValueError, SpecError) as error:
            raise GuestError(f"lspci printed a line that is not its format: {shortened(repr(line))}") from error
    return tuple(functions)
