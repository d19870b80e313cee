"""Verdicts, exit codes, and which error leads to which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import errors
from harness.errors import HarnessError
from harness.verdict import Verdict, exit_code


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ("", 2),
        ("skip", 2),
        ("pass", 0),
        ("known", 0),
        ("pass skip known", 0),
        ("fail", 1),
        ("fixed", 1),
        ("error", 2),
        ("miss", 2),
        ("pass error", 2),
        ("pass miss", 2),
        ("pass fail", 1),
        ("miss error fail", 1),
        ("miss fixed", 1),
    ],
)
def test_exit_code(verdicts: str, code: int) -> None:
    assert exit_code(Verdict(word) for word in verdicts.split()) == code


@given(st.lists(st.sampled_from(Verdict)))
def test_exit_code_does_not_depend_on_order_or_number(verdicts: list[Verdict]) -> None:
    assert exit_code(verdicts) == exit_code(reversed(verdicts)) == exit_code(verdicts * 2)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_of_one_hierarchy_and_documented(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, HarnessError)
    assert kind.__doc__
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("name", errors.__all__)
def test_only_errors_of_the_guest_and_crashes_of_qemu_are_failures_of_what_is_tested(name: str) -> None:
    kind = getattr(errors, name)
    wanted = Verdict.FAIL if issubclass(kind, (errors.GuestError, errors.VmmCrashed)) else Verdict.MISS
    assert kind.verdict is (Verdict.SKIP if kind is errors.Unsupported else wanted)


def test_text_of_an_error_has_message_hint_and_evidence() -> None:
    assert str(HarnessError("asked, found", hint="do", evidence="seen\n")) == "asked, found\nhint: do\nseen"
    assert str(HarnessError("asked, found")) == "asked, found"
