"""Claims: what has to be true, by id, and the page that says which case shows each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import SpecError
from harness.resources import TESTCASES

__all__ = ["claims_with_cases", "load_claims", "page"]

_HEAD = """\
# Claims, and where each is checked

Written from the cases by `.venv/bin/pytest --collect-only testcases --viommu-claims docs/reference/claims.md`;
do not edit. A claim without a case is a gap, not a pass.

"""


_NO_CASE = "none yet"


def load_claims(path: Path = TESTCASES / "claims.toml") -> Mapping[str, str]:
    """The sentence of each claim, by its id.

    Raises:
        SpecError: the file is not there or not TOML.
    """
    try:
        return {id: str(text) for id, text in tomllib.loads(path.read_text()).items()}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"claims {path}: {error}") from error


def page(claims: Mapping[str, str], cases: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    """The page, in Markdown.

    Args:
        claims: as `load_claims` gives them.
        cases: node id of each case, with the ids of its claims; parameters of a case are left out of the page.
    """
    shown: dict[str, dict[str, None]] = {id: {} for id in claims}
    for node, ids in cases:
        for id in ids:
            shown[id][node.partition("[")[0]] = None
    gaps = [id for id, nodes in shown.items() if not nodes]
    lines = [
        f"{len(claims) - len(gaps)} of {len(claims)} claims have cases.",
        "",
        "| claim | | cases |",
        "|---|---|---|",
    ]
    for id, text in claims.items():
        nodes = "<br>".join(f"`{node}`" for node in shown[id]) or _NO_CASE
        lines.append(f"| {id} | {text} | {nodes} |")
    return _HEAD + "\n".join(lines) + "\n"


def claims_with_cases(page: str) -> tuple[str, ...]:
    """Ids of the claims that have cases, from a page that `page` has made."""
    rows = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| "))
    return tuple(row[0] for row in rows if row[-1].startswith("`"))
