"""The page of claims is what the cases say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.claims import claims_with_cases, load_claims, page
from harness.resources import ROOT, TESTCASES

_PAGE = ROOT / "docs" / "reference" / "claims.md"


def test_the_page_of_claims_is_as_the_cases_have_it(tmp_path: Path) -> None:
    written = tmp_path / "claims.md"
    words = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    cases = sorted(str(path) for path in TESTCASES.glob("test_*.py"))
    subprocess.run(
        [sys.executable, *words, f"--viommu-claims={written}", *cases], check=True, capture_output=True, timeout=60
    )
    hint = "run: .venv/bin/pytest --collect-only -q testcases/test_*.py --viommu-claims docs/reference/claims.md"
    assert written.read_text() == _PAGE.read_text(), hint


def test_a_claim_without_a_case_is_shown_as_a_gap() -> None:
    text = page(
        {"X-1": "first", "X-2": "second"}, [("a.py::test_it[intel]", ("X-1",)), ("a.py::test_it[virtio]", ("X-1",))]
    )
    assert "| X-1 | first | `a.py::test_it` |" in text
    assert "| X-2 | second | none yet |" in text
    assert "1 of 2 claims have cases." in text
    assert claims_with_cases(text) == ("X-1",)


def test_every_claim_has_a_sentence() -> None:
    assert all(sentence for sentence in load_claims().values())
