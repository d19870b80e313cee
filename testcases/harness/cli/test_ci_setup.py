"""ci/setup ends with 2 and a hint when it cannot make its environment: 1 would say that what is tested is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.resources import ROOT

_PYTHON = """\
#!/bin/sh
case "$*" in
    *version_info*) exit 0 ;;
    --version) echo Python 3.11 ;;
    *ensurepip*) exit ${NO_VENV:-0} ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && exit ${VENV_FAILS:-0} ;;
    *pip*) echo pip >>calls; exit ${PIP_FAILS:-0} ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with ci/setup, and a bin with a Python that does as the environment says."""
    (tmp_path / "ci").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "ci" / "setup", tmp_path / "ci")
    (tmp_path / "pyproject.toml").write_text("")
    for name, text in {"python3": _PYTHON, "apt-get": "#!/bin/sh\n", "dpkg-deb": "#!/bin/sh\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def setup(checkout: Path, script: str = "ci/setup", **environment: str) -> tuple[int, str]:
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script],
        cwd=checkout,
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("trouble", "said"),
    [("NO_VENV", "python3-venv"), ("VENV_FAILS", ".venv could not be made"), ("PIP_FAILS", "pip could not install")],
)
def test_trouble_ends_with_2_and_a_hint_and_is_tried_again(checkout: Path, trouble: str, said: str) -> None:
    status, errors = setup(checkout, **{trouble: "1"})
    assert status == 2
    assert said in errors
    assert "hint:" in errors
    assert setup(checkout) == (0, "")


def test_what_nobody_thought_of_ends_with_2(checkout: Path) -> None:
    (checkout / "pyproject.toml").unlink()
    status, errors = setup(checkout)
    assert status == 2
    assert "ci/setup" in errors


def test_a_second_time_installs_nothing(checkout: Path) -> None:
    setup(checkout)
    setup(checkout)
    assert (checkout / "calls").read_text() == "pip\n"


def test_a_check_that_fails_after_it_keeps_its_own_status(checkout: Path) -> None:
    (checkout / "ci" / "check").write_text("set -euo pipefail\nsource ci/setup\nfalse\n")
    assert setup(checkout, "ci/check")[0] == 1
