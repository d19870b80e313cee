"""Programs as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.conform.program import Dma, Plug, Program, Read, Reset, Store, Unplug, Write
from harness.errors import SpecError
from harness.model.access import AccessKind

_SIZES = st.sampled_from((1, 2, 4, 8))
_WRITES = _SIZES.flatmap(
    lambda size: st.builds(Write, st.integers(0, 1 << 20), st.just(size), st.integers(0, (1 << 8 * size) - 1))
)
_STEPS = st.one_of(
    st.builds(Store, st.integers(0, (1 << 64) - 1), st.binary(min_size=1, max_size=40)),
    _WRITES,
    st.builds(Read, st.integers(0, 1 << 20), _SIZES),
    st.builds(
        Dma,
        st.just("edu3"),
        st.sampled_from((AccessKind.READ, AccessKind.WRITE)),
        st.integers(0, (1 << 64) - 4096),
        st.integers(1, 4095),
        st.integers(0, 4095),
    ),
    st.just(Reset()),
    st.just(Plug("edu9")),
    st.just(Unplug("edu9")),
)


@given(st.lists(_STEPS, max_size=10), st.integers(-1, 1 << 40))
def test_a_program_is_read_back_as_it_was_written(steps: list[Any], seed: int) -> None:
    program = Program("intel-iommu/legacy", seed, tuple(steps))
    assert Program.from_json(program.to_json()) == program


def test_numbers_are_hexadecimal_and_each_step_is_a_line() -> None:
    text = Program("x", 1, (Write(0x18, 4, 1 << 31), Store(0x20_0000, b"\x03\x10"))).to_json()
    assert '{"op": "write", "offset": "0x18", "size": "0x4", "value": "0x80000000"}' in text.replace("},", "}")
    assert '    {"op": "store", "address": "0x200000", "data": "0310"}\n' in text


def _changed(**values: Any) -> str:
    content = json.loads(Program("x", 1, (Write(0x18, 4, 1),)).to_json())
    return json.dumps(content | values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no program"),
        ("[]", "its schema is 'list'"),
        (_changed(schema="viommu-harness/program/0"), "its schema is 'viommu-harness/program/0'"),
        (_changed(extra=1), "this has .*extra"),
        (_changed(steps={}), "the steps are a list"),
        (_changed(steps=[{"op": "halt"}]), "step 0: .*halt"),
        (_changed(steps=[{"op": "read", "offset": "0x0"}]), "step 0: read has the fields offset, size"),
        (_changed(steps=[{"op": "read", "offset": 0, "size": "0x4"}]), "step 0: offset is 0, which is no int"),
        (_changed(steps=[{"op": "read", "offset": "0x0", "size": "0x3"}]), "by 1, 2, 4 or 8 bytes, not 3"),
        (_changed(steps=[{"op": "write", "offset": "0x0", "size": "0x1", "value": "0x100"}]), "0x100 does not fit 1"),
        (_changed(steps=[{"op": "store", "address": "0x0", "data": "0g"}]), "data is '0g', which is no bytes"),
    ],
)
def test_what_is_no_program_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Program.from_json(text)


@pytest.mark.parametrize(
    ("kind", "iova", "length"),
    [("execute", "0x0", "0x4"), ("write", "0x0", "0x0"), ("read", "0xffffffffffffffff", "0x2")],
)
def test_a_dma_that_no_device_can_do_is_refused(kind: str, iova: str, length: str) -> None:
    step = {"op": "dma", "device": "edu0", "kind": kind, "iova": iova, "length": length, "offset": "0x0"}
    with pytest.raises(SpecError, match="step 0: "):
        Program.from_json(_changed(steps=[step]))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.json cannot be read"):
        Program.load(tmp_path / "none.json")
