"""The HTML page shows what is needed, and nothing that a guest wrote is markup in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from report_sample import HOSTILE, evidence, sample_run
from report_strategies import runs

from harness.report.html import EVIDENCE_LIMIT, FIELD_LIMIT, to_html
from harness.report.record import Case, Finding, Run
from harness.spec import IommuKind
from harness.verdict import Verdict

_TAGS = {
    "a",
    "body",
    "code",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "head",
    "header",
    "html",
    "li",
}
_TAGS |= {"mark", "meta", "ol", "p", "pre", "section", "span", "strong", "style", "summary", "table", "tbody", "td"}
_TAGS |= {"th", "thead", "title", "tr"}
_ATTRIBUTES = {
    "charset",
    "class",
    "colspan",
    "content",
    "data-label",
    "href",
    "http-equiv",
    "id",
    "lang",
    "name",
    "open",
}
_ATTRIBUTES |= {"scope", "title"}
_VOID = frozenset({"meta"})


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        return [e for e in self.walk() if e.tag == tag and all(e.attributes.get(k) == v for k, v in attributes.items())]


class Page(HTMLParser):
    """Reads a page into a tree, and refuses a tag that is closed out of order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root], f"never closed: {[e.tag for e in self._open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def page(*cases: Case, **changes: object) -> Element:
    run = replace(Run(harness_version="0", started="", seconds=1.0, cases=cases), **changes)  # type: ignore[arg-type]
    return Page(to_html(run)).root


def failed(**changes: object) -> Case:
    case = Case(id="testcases/test_x.py::test_y[intel]", claim="it works", verdict=Verdict.FAIL, seconds=1.0)
    return replace(case, **changes)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs)
def test_no_text_of_a_record_becomes_markup(run: Run) -> None:
    written = to_html(run)
    root = Page(written).root
    assert {e.tag for e in root.walk()} - {""} <= _TAGS
    assert {name for e in root.walk() for name in e.attributes} <= _ATTRIBUTES
    assert all(re.fullmatch(r"#case-\d+", e.attributes["href"] or "") for e in root.all("a"))
    assert "<script" not in written.lower()
    assert all(c.isprintable() for c in written if c not in "\n\t")
    written.encode()


def test_guest_text_is_shown_as_it_was_written() -> None:
    root = page(failed(machines=(evidence(IommuKind.INTEL, console=HOSTILE),)))
    (console,) = root.all("pre", **{"class": "console"})
    assert r"<script>alert('guest')</script> \x1b]0;title\x07 \u202egnp.exe" in console.text()
    assert "{{ 7*7 }}" in console.text()


def test_the_page_loads_nothing() -> None:
    written = to_html(sample_run())
    assert not re.search(r"\bsrc\s*=|@import|url\(|<link", written)
    assert "default-src 'none'" in written
    assert not re.search(r"https?://", written)


def test_totals_and_the_meaning_of_the_exit_code_come_first() -> None:
    header = Page(to_html(sample_run())).root.all("header")[0].text().split()
    text = " ".join(header)
    assert text.startswith("24 passed, 3 failed, 2 skipped exit code 1: something that was tested is wrong")


@pytest.mark.parametrize(
    ("verdict", "is_open"),
    [
        (Verdict.FAIL, True),
        (Verdict.ERROR, True),
        (Verdict.MISS, True),
        (Verdict.FIXED, True),
        (Verdict.KNOWN, False),
        (Verdict.SKIP, False),
        (Verdict.PASS, False),
    ],
)
def test_cases_that_need_action_are_open(verdict: Verdict, is_open: bool) -> None:
    (case,) = page(failed(verdict=verdict)).all("details", id="case-1")
    assert ("open" in case.attributes) is is_open


@pytest.mark.parametrize("verdict", [Verdict.KNOWN, Verdict.SKIP])
def test_the_reason_of_a_closed_case_is_in_its_summary(verdict: Verdict) -> None:
    finding = Finding(subject="s", expected="e", seen="other")
    root = page(failed(verdict=verdict, message="issue-7: a title\nmore", findings=(finding,)))
    assert "issue-7: a title" in root.all("summary")[0].text()


def test_a_finding_is_a_row_of_what_expected_seen_and_source() -> None:
    finding = Finding(subject="group", expected="alone", seen="shared", citation="VT-d 5.0", detail="walk")
    root = page(failed(findings=(finding,)))
    (table,) = root.all("table", **{"class": "findings"})
    by_label = {e.attributes["data-label"]: e.text().strip() for e in table.walk() if "data-label" in e.attributes}
    assert by_label == {"what": "group", "expected": "alone", "seen": "shared", "source": "VT-d 5.0", "detail": "walk"}


def test_a_failed_case_shows_all_its_evidence() -> None:
    machine = evidence(
        IommuKind.INTEL, command="CMD", console="CON", qmp_log="QMP", vmm_stderr="ERR", trace="TRC", directory="DIR"
    )
    text = page(failed(machines=(machine,), rerun="AGAIN", message="MSG")).all("details", id="case-1")[0].text()
    assert [
        word for word in ("CMD", "CON", "QMP", "ERR", "TRC", "DIR", "AGAIN", "MSG", "virtio-blk") if word not in text
    ] == []


def test_the_command_to_run_again_is_whole_and_alone_in_its_block() -> None:
    command = "viommu run -k 'a & b < c' " + "x" * 2 * FIELD_LIMIT
    root = page(failed(rerun=command))
    assert [e.text() for e in root.all("pre", **{"class": "command"})] == [command]


def test_a_dma_fault_on_the_console_is_marked() -> None:
    root = page(failed(machines=(evidence(IommuKind.INTEL),)))
    assert any("fault addr 0x1000000" in e.text() for e in root.all("mark"))


def test_the_end_of_a_stderr_is_at_the_top_when_there_is_no_console() -> None:
    root = page(failed(machines=(evidence(IommuKind.INTEL, console="", vmm_stderr="first\nCould not open"),)))
    (first,) = root.all("ol")
    assert "Could not open" in first.text()


def test_the_most_severe_case_comes_first() -> None:
    root = page(
        failed(verdict=Verdict.PASS, claim="one"), failed(verdict=Verdict.MISS, claim="two"), failed(claim="three")
    )
    assert [e.text() for e in root.all("span", **{"class": "claim"})] == ["three", "two", "one"]


def test_the_table_of_verdicts_links_each_cell_to_its_case() -> None:
    root = page(failed(iommu="intel"), failed(iommu="virtio", verdict=Verdict.PASS))
    (table,) = root.all("table", **{"class": "matrix"})
    assert [e.text() for e in table.all("th", scope="col")] == ["claim", "intel", "virtio"]
    assert [(e.attributes["href"], e.text()) for e in table.all("a")] == [("#case-1", "fail"), ("#case-2", "pass")]


def test_very_long_console_is_cut_at_its_beginning_with_a_note() -> None:
    machine = evidence(IommuKind.INTEL, console="a" * EVIDENCE_LIMIT + "the end")
    root = page(failed(machines=(machine,)))
    (console,) = root.all("pre", **{"class": "console"})
    assert console.text().strip().endswith("the end")
    assert len(console.text()) <= EVIDENCE_LIMIT + 2
    assert any("cut: the first 7 of" in e.text() for e in root.all("p"))


def test_very_long_field_is_cut_with_a_note() -> None:
    root = page(failed(findings=(Finding(subject="s", expected="e", seen="y" * (FIELD_LIMIT + 5)),)))
    assert "cut: the last 5 of 4,101 characters" in root.text()


def test_the_page_of_a_record_full_of_long_texts_is_bounded() -> None:
    case = failed(id="i" * 10**6, claim="c" * 10**6, iommu="k" * 10**6, claim_ids=("d" * 10**6,), message="m" * 10**6)
    assert len(to_html(Run(harness_version="v" * 10**6, started="s" * 10**6, seconds=1, cases=(case,)))) < 10**6


def test_a_run_without_cases_is_a_page_that_says_so() -> None:
    assert "exit code 2: no case was run" in page().text()


def test_a_case_id_cannot_leave_its_attribute() -> None:
    root = page(failed(id="x onmouseover=alert(1) \" onfocus='y"))
    assert {name for e in root.walk() for name in e.attributes} <= _ATTRIBUTES
