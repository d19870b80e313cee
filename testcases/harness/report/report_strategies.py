"""Hypothesis strategies for runs in which every text is hostile."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.report.record import Artifact, Case, Evidence, Finding, Run
from harness.verdict import Verdict

_FRAGMENTS = (
    "<script>alert(1)</script>",
    "<SCRIPT src=//x>",
    "</pre></details></style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='x",
    "javascript:alert(1)",
    "<!--",
    "-->",
    "]]>",
    "<![CDATA[",
    "&lt;script&gt;",
    "&",
    "{{ 7*7 }}",
    "{% raw %}",
    "[bold red]",
    "[/]",
    "[link=file:///etc/passwd]x[/link]",
    "\x1b[31m",
    "\x1b]8;;http://x\x07",
    "\x9b2J",
    "\r",
    "\n",
    "::",
    "Kernel panic",
)

texts = st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.text(alphabet=st.characters(), max_size=8)), max_size=4).map(
    "".join
)

_findings = st.builds(Finding, subject=texts, expected=texts, seen=texts, citation=texts, detail=texts)
_machines = st.builds(
    Evidence, spec=texts, command=texts, console=texts, qmp_log=texts, vmm_stderr=texts, trace=texts, directory=texts
)
_cases = st.builds(
    Case,
    id=texts,
    claim=texts,
    verdict=st.sampled_from(Verdict),
    seconds=st.floats(0, 1e5),
    claim_ids=st.lists(texts, max_size=2).map(tuple),
    iommu=texts,
    message=texts,
    findings=st.lists(_findings, max_size=2).map(tuple),
    machines=st.lists(_machines, max_size=2).map(tuple),
    rerun=texts,
)
runs = st.builds(
    Run,
    harness_version=texts,
    started=texts,
    seconds=st.floats(0, 1e5),
    host=st.dictionaries(texts, texts, max_size=2),
    artifacts=st.lists(
        st.builds(
            Artifact,
            role=st.one_of(texts, st.just("guest-package")),
            name=texts,
            version=texts,
            source=texts,
            sha256=texts,
        ),
        max_size=2,
    ).map(tuple),
    cases=st.lists(_cases, max_size=3).map(tuple),
)
