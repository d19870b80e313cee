"""Prints a results record on a terminal, or into a file or pipe, by rich.

A table first, one row per claim and one column per IOMMU, so that one look tells; then a block for each case that did
not pass; then totals and what the exit code means. Guest text goes through `harmless` and never through rich's markup.
"""

from __future__ import annotations

from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.report.notable import excerpt, is_notable
from harness.report.record import Case, Finding, Run
from harness.report.summary import ALARMING, Totals, by_subject, exit_meaning, headline, iommus, worst
from harness.report.text import harmless, head
from harness.report.write import Written
from harness.verdict import INTERRUPTED, Verdict

__all__ = ["print_case_line", "print_run"]

_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "bold red",
    Verdict.FIXED: "bold blue",
    Verdict.ERROR: "bold magenta",
    Verdict.MISS: "bold yellow",
    Verdict.KNOWN: "yellow",
    Verdict.SKIP: "dim",
}
_MARKS = {
    Verdict.PASS: "✔",
    Verdict.FAIL: "✘",
    Verdict.FIXED: "✘",
    Verdict.ERROR: "!",
    Verdict.MISS: "?",
    Verdict.KNOWN: "~",
    Verdict.SKIP: "-",
}
_EXIT_STYLES = {0: "bold green", 1: "bold red", 2: "bold yellow", INTERRUPTED: "bold yellow"}

_FIELD_LIMIT = 600
_CONSOLE_LINES = 6
_CONSOLE_COLUMNS = 300
_MAX_FINDINGS = 6
_SENTENCE_COLUMNS = 44
_CELL_COLUMNS = 18


def print_run(run: Run, console: Console | None = None, written: Written | None = None) -> None:
    """Print the run; the last line is `N passed, N failed, N skipped` and nothing else.

    Args:
        run: what to print.
        console: where to; standard output by default, with rich's own view of TTY, width and `NO_COLOR`.
        written: where the reports are, said before the last line.
    """
    _Printer(console or Console()).print(run, written)


def print_case_line(case: Case, console: Console | None = None) -> None:
    """Print one line for a case that has just ended: verdict, IOMMU, seconds, parameters, sentence."""
    _Printer(console or Console()).print_line(case)


def _parameters(case: Case) -> str:
    """What stands in the brackets of its id, but for the IOMMU."""
    return case.id.partition("[")[2].removesuffix("]").removeprefix(case.iommu).removeprefix("-")


class _Printer:
    def __init__(self, console: Console) -> None:
        self._console = console

    def print(self, run: Run, written: Written | None) -> None:
        if run.cases:
            self._console.print(self._table(run))
        for case in worst(run.cases):
            if case.verdict in ALARMING:
                self._print_case(case)
        self._print_set_aside(run)
        self._console.print(self._used(run))
        if written is not None:
            self._line("report", str(written.html))
        totals = Totals.of(run.cases)
        each = ", ".join(f"{number} {verdict.value}" for verdict, number in totals.counts.items()) or "nothing"
        self._console.print()
        self._console.print(self._text(f"{each} in {run.seconds:.1f} s"))
        style = _EXIT_STYLES[run.exit_code]
        self._console.print(self._text(exit_meaning(run), style))
        self._console.print(self._text(str(totals), style))

    def print_line(self, case: Case) -> None:
        verdict = self._verdict(case.verdict)
        verdict.pad_right(6 - verdict.cell_len)
        where = f"{case.iommu or '-':8}{case.seconds:6.1f} s  "
        parameters = _parameters(case)
        which = self._text(f"[{parameters}] " if parameters else "", "dim")
        line = Text.assemble(verdict, " ", (where, "dim"), which, self._text(case.claim))
        self._console.print(line, no_wrap=True, overflow="ellipsis")

    def _table(self, run: Run) -> Table:
        kinds = iommus(run)
        with_seconds = self._console.width >= _SENTENCE_COLUMNS + _CELL_COLUMNS * len(kinds)
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False)
        table.add_column("claim", ratio=1, overflow="fold")
        for kind in kinds:
            table.add_column(self._text(kind or "no machine", limit=20), no_wrap=True)
        for name, rows in by_subject(run).items():
            table.add_row(self._text(name, "bold"))
            for row in rows:
                cells = (self._cell(row.cells.get(kind, ()), with_seconds) for kind in kinds)
                table.add_row(Padding(self._text(row.claim), (0, 0, 0, 2)), *cells)
        return table

    def _cell(self, cases: tuple[Case, ...], with_seconds: bool) -> Text:
        lines = []
        for verdict, group in groupby(cases, key=lambda case: case.verdict):
            seconds = [case.seconds for case in group]
            times = f" x{len(seconds)}" if len(seconds) > 1 else ""
            line = Text.assemble(self._verdict(verdict), times)
            if with_seconds:
                line.append(f" {sum(seconds):.1f} s".rjust(_CELL_COLUMNS - 2 - line.cell_len), style="dim")
            lines.append(line)
        return Text("\n").join(lines)

    def _print_case(self, case: Case) -> None:
        title = Text.assemble(self._verdict(case.verdict), "  ")
        if case.iommu:
            title.append_text(self._text(f"{case.iommu}  ", "bold"))
        title.append_text(self._text(case.claim or case.id, "bold"))
        if case.claim_ids:
            title.append_text(self._text(f"  {' '.join(case.claim_ids)}", "dim"))
        line = "-" if self._console.options.ascii_only else "─"
        self._console.print(Rule(characters=line, style=_STYLES[case.verdict]))
        self._console.print(title)
        if case.message:
            self._indented(self._text(case.message))
        for finding in case.findings[:_MAX_FINDINGS]:
            self._indented(self._finding(finding))
        if len(case.findings) > _MAX_FINDINGS:
            self._indented(self._text(f"and {len(case.findings) - _MAX_FINDINGS} more findings", "dim"))
        for machine in case.machines:
            self._print_lines("VMM stderr", harmless(machine.vmm_stderr).strip().splitlines()[-_CONSOLE_LINES:])
            self._print_lines("console", excerpt(harmless(machine.console), _CONSOLE_LINES))
        if case.rerun:
            self._line("run again", case.rerun)
        self._console.print()

    def _finding(self, finding: Finding) -> Group:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        table.add_row("expected", self._text(finding.expected, "green"))
        table.add_row("seen", self._text(finding.seen, "red"))
        if finding.citation:
            table.add_row("source", self._text(finding.citation, "dim"))
        return Group(self._text(finding.subject), Padding(table, (0, 0, 0, 2)))

    def _print_lines(self, title: str, lines: list[str]) -> None:
        if not lines:
            return
        self._indented(Text(title, style="dim"))
        for line in lines:
            style = "yellow" if is_notable(line) else ""
            self._indented(self._text(line, style, limit=_CONSOLE_COLUMNS), columns=4)

    def _line(self, title: str, text: str) -> None:
        """A path or command, never broken into lines, so that it can be copied."""
        line = Text.assemble(("  " + title, "dim"), "  ", self._text(text, "cyan", limit=len(text)))
        self._console.print(line, soft_wrap=True)

    def _print_set_aside(self, run: Run) -> None:
        """Known issues and skips, cases of one reason together."""
        reasons: dict[tuple[Verdict, str], list[Case]] = {}
        for case in worst(run.cases):
            if case.verdict in (Verdict.KNOWN, Verdict.SKIP):
                reasons.setdefault((case.verdict, headline(case)), []).append(case)
        for (verdict, reason), cases in reasons.items():
            times = f" x{len(cases)}" if len(cases) > 1 else ""
            line = Text.assemble(self._verdict(verdict), times, "  ", self._text(reason or cases[0].claim))
            self._console.print(line)
        if reasons:
            self._console.print()

    def _used(self, run: Run) -> Text:
        used = [f"{a.role} {a.name} {a.version} ({a.source})" for a in run.artifacts if a.role in ("qemu", "kernel")]
        others = len(run.artifacts) - len(used)
        return self._text(", ".join([*used, f"and {others} packages, all in results.json"]), "dim")

    def _verdict(self, verdict: Verdict) -> Text:
        mark = "" if self._console.options.ascii_only else f"{_MARKS[verdict]} "
        return Text(f"{mark}{verdict.value}", style=_STYLES[verdict])

    def _indented(self, content: Text | Group, columns: int = 2) -> None:
        self._console.print(Padding(content, (0, 0, 0, columns), expand=False))

    def _text(self, text: str, style: str = "", limit: int = _FIELD_LIMIT) -> Text:
        shown = str(head(text, limit))
        if self._console.options.ascii_only:
            shown = shown.encode("ascii", "backslashreplace").decode("ascii")
        return Text(shown, style=style)
