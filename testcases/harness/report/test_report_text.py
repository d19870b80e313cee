"""Text from outside is made harmless and bounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report.notable import excerpt, is_notable
from harness.report.text import harmless, head, tail

_XML_1_0_CHARS = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@given(st.text(alphabet=st.characters()))
def test_harmless_text_holds_only_what_prints_and_xml_allows(text: str) -> None:
    shown = harmless(text)
    assert all(c.isprintable() for c in shown if c not in "\n\t")
    assert _XML_1_0_CHARS.fullmatch(shown)


@given(st.text(alphabet=st.one_of(st.sampled_from("\x1b[\r\n\x9bm1;"), st.characters())))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert harmless(harmless(text)) == harmless(text)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_printing_text_of_any_script_is_not_changed(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hhome", "home"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("nul \x00 del \x7f", r"nul \x00 del \x7f"),
        ("exe\u202egnp", r"exe\u202egnp"),
        ("path \udcff", r"path \udcff"),
        ("tag \U000e0041", r"tag \U000e0041"),
        ("line\r\r\nnext\ttab\n", "line\nnext\ttab\n"),
        ("over\rwritten", r"over\x0dwritten"),
        ("\x1b\x1b[31m[31mnested", r"\x1b[31mnested"),
    ],
)
def test_what_a_terminal_would_act_upon_is_shown(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_head_keeps_the_beginning_and_says_how_much_was_cut() -> None:
    shown = head("ab" * 1000, 10)
    assert (shown.text, shown.note) == ("ababababab", "cut: the last 1,990 of 2,000 characters")


def test_tail_keeps_the_end_and_says_how_much_was_cut() -> None:
    shown = tail("x" * 100 + "panic", 5)
    assert (shown.text, shown.note) == ("panic", "cut: the first 100 of 105 characters")


def test_text_at_the_limit_is_not_cut() -> None:
    assert (head("abc", 3).note, tail("abc", 3).note) == ("", "")


@pytest.mark.parametrize(
    "line",
    [
        "[    2.3] Kernel panic - not syncing: Attempted to kill init!",
        "[    2.3] BUG: unable to handle page fault for address: ffff88",
        "[    2.3] WARNING: CPU: 0 PID: 1 at drivers/iommu/intel/iommu.c:2019",
        "[  242.1] INFO: task modprobe:81 blocked for more than 120 seconds.",
        "[    2.3] DMAR: [DMA Write NO_PASID] Request device [00:05.0] fault addr 0x1000000 [fault reason 0x05]",
        "[    2.3] virtio_iommu virtio0: page fault from EP 40 at 0x1000000 []",
    ],
)
def test_crashes_and_dma_faults_are_notable(line: str) -> None:
    assert is_notable(line)


@pytest.mark.parametrize("line", ["[    0.4] DMAR: IOMMU enabled", "[    0.4] debug: on", "[    0.4] AMD-Vi: enabled"])
def test_ordinary_lines_are_not_notable(line: str) -> None:
    assert not is_notable(line)


def test_a_number_without_end_in_a_fault_line_is_no_error() -> None:
    assert is_notable("virtio_iommu virtio0: page fault from EP " + "1" * 10_000)


def test_excerpt_keeps_the_first_notable_line_and_the_last() -> None:
    lines = [f"UBSAN: shift-out-of-bounds in file.c:{n}:1" for n in range(20)]
    shown = [lines[0], "... 17 more such lines ...", lines[18], lines[19]]
    assert excerpt("\n".join(lines), 4) == shown


def test_excerpt_of_a_quiet_console_is_its_end() -> None:
    assert excerpt("a\n\nb\nc\nd\n", 3) == ["b", "c", "d"]
