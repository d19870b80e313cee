"""A listed failure becomes known, a listed one that is gone becomes fixed, and nothing else changes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.checks.known_issues import KnownIssue, KnownIssues, in_range, release
from harness.errors import SpecError
from harness.report.record import Case, Finding
from harness.verdict import Verdict

_ENTRY = """\
[[issue]]
id = "bypass"
title = "a device without a driver bypasses virtio-iommu"
cases = ["CH-4", "testcases/test_rogue.py::test_*[virtio]"]
findings = ["IOMMU group of *: expected a group of *, saw no group", "memory at *: * (unchanged), saw *"]
text = "boot-bypass is on by default"
reference = "commit 0123456789ab"
"""
_WHEN = """
[issue.when]
iommu = "virtio"
kernel = ">=5.10,<6.15"
qemu = ">=7,<11"
"""
_NO_GROUP = Finding(
    subject="IOMMU group of 0000:00:04.0 (edu0)",
    expected="a group of 0000:00:04.0",
    seen="no group",
    citation="Linux, sysfs-kernel-iommu_groups",
)
_WRITTEN = Finding(subject="memory at 0x1000 after a write", expected="00 11 (unchanged)", seen="de ad")
_OTHER_GROUP = Finding(subject=_NO_GROUP.subject, expected=_NO_GROUP.expected, seen="a group of 0000:00:05.0")
_FACTS = {"iommu": "virtio", "kernel": "6.12.48+deb13-amd64", "qemu": "1:10.0.2+ds-2"}


def load(tmp_path: Path, text: str) -> KnownIssues:
    path = tmp_path / "known_issues.toml"
    path.write_text(text)
    return KnownIssues.load(path)


def case(verdict: Verdict = Verdict.FAIL, id: str = "testcases/test_x.py::test_y", *claim_ids: str) -> Case:
    return Case(
        id=id,
        claim="c",
        verdict=verdict,
        seconds=1.0,
        claim_ids=claim_ids or ("CH-4",),
        message="it failed",
        findings=(_NO_GROUP,) if verdict is Verdict.FAIL else (),
    )


def test_a_listed_failure_becomes_known_and_names_the_issue(tmp_path: Path) -> None:
    judged = load(tmp_path, _ENTRY + _WHEN).judge(case(), _FACTS)
    assert judged.verdict is Verdict.KNOWN
    assert judged.message.splitlines() == [
        "bypass: a device without a driver bypasses virtio-iommu (commit 0123456789ab)",
        "it failed",
    ]


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((_NO_GROUP, _WRITTEN), Verdict.KNOWN),
        ((_OTHER_GROUP,), Verdict.FAIL),
        ((_NO_GROUP, _OTHER_GROUP), Verdict.FAIL),
        ((_OTHER_GROUP, _NO_GROUP), Verdict.FAIL),
        ((), Verdict.FAIL),
    ],
)
def test_a_failure_is_known_when_every_finding_is_described_and_there_is_one(
    tmp_path: Path, findings: tuple[Finding, ...], verdict: Verdict
) -> None:
    failed = replace(case(), findings=findings)
    assert load(tmp_path, _ENTRY).judge(failed, _FACTS).verdict is verdict


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((_NO_GROUP,), Verdict.KNOWN),
        ((_WRITTEN, _NO_GROUP), Verdict.KNOWN),
        ((_WRITTEN,), Verdict.FAIL),
        ((_NO_GROUP, _OTHER_GROUP), Verdict.FAIL),
    ],
)
def test_consequences_are_known_only_beside_their_cause(
    tmp_path: Path, findings: tuple[Finding, ...], verdict: Verdict
) -> None:
    issues = load(tmp_path, _ENTRY + 'requires = ["IOMMU group of *: expected a group of *, saw no group"]\n')
    assert issues.judge(replace(case(), findings=findings), {}).verdict is verdict


_OOPS = "the guest kernel: oops: BUG: NULL pointer\nRIP: 0010:probe_device+0x58/0x310"


@pytest.mark.parametrize(
    ("findings", "crashes", "verdict"),
    [
        ((), (_OOPS,), Verdict.KNOWN),
        ((), (_OOPS, _OOPS), Verdict.KNOWN),
        ((_NO_GROUP,), (_OOPS,), Verdict.KNOWN),
        ((_NO_GROUP,), (), Verdict.KNOWN),
        ((), (_OOPS, "the guest kernel: panic"), Verdict.FAIL),
        ((_OTHER_GROUP,), (_OOPS,), Verdict.FAIL),
        ((), (_OOPS.replace("probe", "other"),), Verdict.FAIL),
        ((), (), Verdict.FAIL),
    ],
)
def test_a_crash_is_known_when_it_is_described_and_all_that_is_beside_it(
    tmp_path: Path, findings: tuple[Finding, ...], crashes: tuple[str, ...], verdict: Verdict
) -> None:
    issues = load(tmp_path, _ENTRY + 'crashes = ["the guest kernel: oops: *RIP: 0010:probe_device*"]\n')
    assert issues.judge(replace(case(), findings=findings), {}, crashes).verdict is verdict


def test_a_crash_is_not_known_by_the_findings_of_an_issue(tmp_path: Path) -> None:
    assert load(tmp_path, _ENTRY).judge(case(), {}, (_OOPS,)).verdict is Verdict.FAIL


def test_brackets_in_a_pattern_of_findings_stand_for_themselves(tmp_path: Path) -> None:
    finding = Finding(subject="a [b] c", expected="x", seen="y")
    issues = load(tmp_path, _ENTRY.replace("IOMMU group of *: expected a group of *, saw no group", "a [b] *"))
    assert issues.judge(replace(case(), findings=(finding,)), {}).verdict is Verdict.KNOWN


@pytest.mark.parametrize("verdict", [Verdict.MISS, Verdict.ERROR, Verdict.SKIP, Verdict.PASS])
def test_no_other_verdict_becomes_known(tmp_path: Path, verdict: Verdict) -> None:
    assert load(tmp_path, _ENTRY).judge(case(verdict), _FACTS) == case(verdict)


def test_a_pass_of_an_issue_that_always_shows_is_fixed(tmp_path: Path) -> None:
    judged = load(tmp_path, _ENTRY + "always = true\n" + _WHEN).judge(case(Verdict.PASS), _FACTS)
    assert judged.verdict is Verdict.FIXED
    assert judged.message.startswith("bypass: ")


@pytest.mark.parametrize("verdict", [Verdict.MISS, Verdict.ERROR, Verdict.SKIP])
def test_a_case_that_did_not_pass_is_not_fixed(tmp_path: Path, verdict: Verdict) -> None:
    assert load(tmp_path, _ENTRY + "always = true\n").judge(case(verdict), _FACTS).verdict is verdict


@pytest.mark.parametrize(
    ("id", "claim_id", "verdict"),
    [
        ("testcases/test_rogue.py::test_write[virtio]", "CH-9", Verdict.KNOWN),
        ("testcases/test_rogue.py::test_write[intel]", "CH-9", Verdict.FAIL),
        ("testcases/test_rogue.py::test_write_v", "CH-9", Verdict.FAIL),
        ("testcases/test_other.py::test_write[virtio]", "CH-9", Verdict.FAIL),
        ("testcases/test_other.py::test_write", "CH-4", Verdict.KNOWN),
        ("testcases/test_other.py::test_write", "CH-41", Verdict.FAIL),
    ],
)
def test_patterns_match_ids_of_cases_and_claims(tmp_path: Path, id: str, claim_id: str, verdict: Verdict) -> None:
    assert load(tmp_path, _ENTRY).judge(case(Verdict.FAIL, id, claim_id), {}).verdict is verdict


@pytest.mark.parametrize(
    "fact",
    [{"iommu": "intel"}, {"kernel": "6.15"}, {"kernel": "5.9.16"}, {"qemu": "11.0.0"}, {"qemu": "6.2"}, {"qemu": "?"}],
)
def test_every_condition_must_hold(tmp_path: Path, fact: dict[str, str]) -> None:
    assert load(tmp_path, _ENTRY + _WHEN).judge(case(), _FACTS | fact).verdict is Verdict.FAIL


@pytest.mark.parametrize("name", ["iommu", "kernel", "qemu"])
def test_a_fact_that_was_not_recorded_fulfils_no_condition(tmp_path: Path, name: str) -> None:
    facts = {key: value for key, value in _FACTS.items() if key != name}
    assert load(tmp_path, _ENTRY + _WHEN).judge(case(), facts).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("iommu", "verdict"), [("intel", Verdict.KNOWN), ("virtio", Verdict.KNOWN), ("", Verdict.FAIL)]
)
def test_a_list_of_texts_is_one_of_them(tmp_path: Path, iommu: str, verdict: Verdict) -> None:
    issues = load(tmp_path, _ENTRY + '[issue.when]\niommu = ["intel", "virtio"]\n')
    assert issues.judge(case(), {"iommu": iommu}).verdict is verdict


def test_the_first_entry_that_matches_counts(tmp_path: Path) -> None:
    issues = load(tmp_path, _ENTRY + _ENTRY.replace('"bypass"', '"other"'))
    assert issues.judge(case(), {}).message.startswith("bypass: ")


def test_a_file_without_entries_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "# none\n").judge(case(), _FACTS) == case()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[issue]]\nid = "a"\ntitle = \n', "line 3"),
        (_ENTRY + "[issue.when]\nkernel = 6\n", "when"),
        (_ENTRY.replace("text =", "txet ="), "entry 1: field 'txet'"),
        (_ENTRY.replace('reference = "commit 0123456789ab"', ""), "`reference`"),
        (_ENTRY.replace('"boot-bypass is on by default"', "3"), r"\$\.text"),
        (_ENTRY.replace('["CH-4", "testcases/test_rogue.py::test_*[virtio]"]', "[]"), "'cases' is empty"),
        (_ENTRY.replace('"bypass"', '""'), "'id' is empty"),
        (re.sub("(?m)^findings = .*$", "findings = []", _ENTRY), "'findings' is empty"),
        (re.sub("(?m)^findings = .*$", "", _ENTRY), "'findings' is empty, and so is 'crashes'"),
        (_ENTRY + '[issue.when]\narch = "amd64"\n', r"when\.arch"),
        (_ENTRY + '[issue.when]\ndma_mode = "strict"\n', r"when\.dma_mode"),
        (_ENTRY + _ENTRY, "entry 2: field 'id': 'bypass'"),
        (_ENTRY + '[issue.when]\nkernal = ">=6"\n', r"when\.kernal"),
        (_ENTRY + '[issue.when]\nkernel = "6.12"\n', r"when\.kernel"),
        (_ENTRY + '[issue.when]\nqemu = ">=7,<eleven"\n', r"when\.qemu"),
        (_ENTRY + '[issue.when]\nqemu = [">=7"]\n', r"when\.qemu"),
        ("issues = []\n", "'issues'"),
        ('issue = "x"\n', "'issue'"),
        ("issue = [3]\n", "entry 1"),
    ],
)
def test_a_bad_file_is_refused_by_line_or_field(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SpecError, match=named):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.toml.*No such file"):
        KnownIssues.load(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not a TOML file"):
        KnownIssues.load(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("5.10", "6.1"),
        ("6.9", "6.12"),
        ("6.12", "6.12.1"),
        ("6.15-rc7", "6.15"),
        ("6.15-rc2", "6.15-rc10"),
        ("6.14.99", "6.15-rc1"),
        ("7.2~rc3-1~exp1", "7.2-1"),
        ("6.12.48+deb13-amd64", "6.12.49-cloud-amd64"),
        ("1:7.2+dfsg-7+deb12u14", "10.0.2"),
        ("v9.2.0-rc1", "9.2.0"),
    ],
)
def test_releases_come_in_the_order_of_their_numbers(earlier: str, later: str) -> None:
    first, second = release(earlier), release(later)
    assert first is not None
    assert second is not None
    assert first < second


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_releases_compare_as_their_numbers_padded_with_zeros(a: list[int], b: list[int]) -> None:
    padded = [numbers + [0] * (4 - len(numbers)) for numbers in (a, b)]
    assert in_range(".".join(map(str, a)), f">={'.'.join(map(str, b))}") is (padded[0] >= padded[1])


@given(st.text())
def test_any_text_is_a_release_or_is_none(text: str) -> None:
    found = release(text)
    assert (found is None) is not in_range(text, ">=0-rc0")


def test_an_entry_can_be_made_without_a_file() -> None:
    issue = KnownIssue(id="a", title="t", cases=("CH-*",), findings=("*",), text="x", reference="r")
    assert KnownIssues((issue,)).judge(case(), {}).verdict is Verdict.KNOWN
