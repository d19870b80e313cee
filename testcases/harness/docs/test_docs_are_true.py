"""README and docs name files and options that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main

from harness.cli.main import app
from harness.resources import ROOT

_PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:^|[\s`/])viommu((?: +[^`\n#|]+)+)", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")
_QUOTED = re.compile(r"'[^']*'")


def _broken_links(page: Path, text: str) -> list[str]:
    targets = (link.partition("#")[0] for link in _LINK.findall(text) if "://" not in link)
    return [target for target in targets if target and not (page.parent / target).exists()]


def _unknown_options(text: str) -> list[str]:
    """Options, and subcommands, shown after `viommu` that it does not have."""
    root = typer.main.get_command(app)
    return [wrong for words in _COMMAND.findall(_QUOTED.sub("", text)) for wrong in _unknown(root, words)]


def _subcommands(command: object) -> Mapping[str, Any]:
    """Those of a group; none of a command."""
    return getattr(command, "commands", {})


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("-")}


def _unknown(command: object, words: str) -> Iterator[str]:
    shown, name = words.split(), ""
    while (commands := _subcommands(command)) and shown and not shown[0].startswith(("-", "[")):
        name = shown.pop(0).strip(".,:;)")
        if name not in commands:
            yield f"viommu {name}"
            return
        command = commands[name]
    known = _options(command) | {"--help"}
    yield from (f"{name} {option}" for option in _OPTION.findall(" ".join(shown)) if option not in known)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert _broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_are_shown_exist(page: Path) -> None:
    assert _unknown_options(page.read_text()) == []


def test_a_broken_link_is_seen() -> None:
    text = "[a](design.md#x) [b](nowhere.md) [c](https://example.org/x)"
    assert _broken_links(ROOT / "docs" / "page.md", text) == ["nowhere.md"]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("viommu run --iommu intel -k 'a --b'", []),
        ("`viommu run --iomu intel`", ["run --iomu"]),
        ("$ .venv/bin/viommu report --qemu sid", ["report --qemu"]),
        ("viommu bench boot [--json] [--spec FILE]", ["boot --spec"]),
        ("`viommu rum`", ["viommu rum"]),
    ],
)
def test_an_option_that_there_is_not_is_seen(text: str, unknown: list[str]) -> None:
    assert _unknown_options(text) == unknown


@pytest.mark.parametrize("command", ["run", "boot", "translate", "report", "bench boot", "bench model", "doctor"])
def test_every_option_of_a_command_is_in_its_page(command: str) -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    lines = "".join(line for line in text.splitlines() if f"`viommu {command}" in line)
    found: Any = typer.main.get_command(app)
    for name in command.split():
        found = _subcommands(found)[name]
    assert _options(found) <= set(_OPTION.findall(lines))


def test_every_finding_is_in_the_list_of_findings_under_its_title() -> None:
    text = (ROOT / "docs/findings.md").read_text()
    titles = set(re.findall(r"^## (F-\d+): (.+)$", text, re.MULTILINE))
    assert titles
    assert sorted(re.findall(r"^- \[(F-\d+)\]\(#f-\d+[\w-]*\) (.+)$", text, re.MULTILINE)) == sorted(titles)
