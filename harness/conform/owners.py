"""Whose a record is: the requests of a round that it may be of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from harness.conform.request import Request
from harness.model.access import Fault

__all__ = ["blocked", "is_next"]


def blocked(
    requests: Sequence[Request], requester: int, record: str = "", address: int | None = None
) -> Request | None:
    """The first request of a requester whose fault is recorded.

    Args:
        requests: to choose from.
        requester: whose.
        record: name of its fault, where there is one of that name.
        address: that it was for, where there is one for that.
    """
    recorded = [request for request in requests if request.access.requester == requester and request.is_recorded]
    named = [each for each in recorded if isinstance(each.outcome, Fault) and each.outcome.code.name == record]
    exact = (each for each in chain(named, recorded) if each.access.iova == address)
    return next(chain(exact, named, recorded), None)


def is_next(owner: Request, code: int, address: int, requests: Sequence[Request]) -> bool:
    """Whether a record is that of another request, blocked as well, of the requester whose record is due.

    It may be of another part of the DMA, or of another device behind the same bridge.

    Args:
        owner: whose record is due.
        code: of the fault that the record is of.
        address: that the record is for.
        requests: of the round.
    """
    requester = owner.access.requester
    others = (each for each in requests if each.access.requester == requester and each.access.iova == address)
    faults = (each.outcome for each in others if isinstance(each.outcome, Fault))
    return owner.access.iova != address and any(fault.code.value == code for fault in faults)
