"""What testpmd says of itself, from its text."""

from __future__ import annotations

import json

import pytest
from test_guest_agent import Script, agent_of

from harness.errors import AgentError, GuestError
from harness.guest.testpmd import IovaMode, PortStats, Testpmd, parse_stats

# Of DPDK 24.11, to `show port stats 0`.
_TEXT = """show port stats 0\r\r\n\r\n\
  ######################## NIC statistics for port 0  ########################\r\n\
  RX-packets: 2880       RX-missed: 1          RX-bytes:  1991040\r\n\
  RX-errors: 2\r\n\
  RX-nombuf:  3         \r\n\
  TX-packets: 2879       TX-errors: 4          TX-bytes:  1990000\r\n\
\r\n\
  Throughput (since last show)\r\n\
  Rx-pps:            0          Rx-bps:            0\r\n"""


def answers(said: str, pages: str = "16") -> Script:
    """The guest's side of a start: huge pages are asked for and counted, and testpmd comes to its prompt."""

    def answer(request: dict[str, object]) -> bytes:
        of = {"write_file": 2, "read_file": f"{pages}\n", "program_start": {"pid": 7, "said": said}}
        return json.dumps({"id": request["id"], "ok": of[str(request["op"])]}).encode()

    return Script(answer)


def test_counters_are_read() -> None:
    assert parse_stats(_TEXT) == PortStats(
        received=2880,
        received_bytes=1991040,
        missed=1,
        receive_errors=2,
        no_buffer=3,
        sent=2879,
        sent_bytes=1990000,
        send_errors=4,
    )


@pytest.mark.parametrize("word", ["RX-packets", "RX-nombuf", "TX-bytes"])
def test_a_counter_that_is_missing_or_no_number_is_named(word: str) -> None:
    for text in (_TEXT.replace(word, "XX"), _TEXT.replace(f"{word}:", f"{word}: many")):
        with pytest.raises(AgentError, match=f"no {word}") as caught:
            parse_stats(text)
        assert caught.value.evidence == text


@pytest.mark.parametrize("mode", IovaMode)
def test_the_iova_mode_is_what_dpdk_selected(mode: IovaMode) -> None:
    said = f"EAL: Detected CPU lcores: 1\r\nEAL: Selected IOVA mode '{mode}'\r\n"
    port = answers(said)
    assert Testpmd(agent_of(port), "0000:01:00.0").iova_mode is mode
    started = json.dumps(port.requests[-1])
    assert "--allow=0000:01:00.0" in started
    assert "iova-mode" not in started


@pytest.mark.parametrize("said", ["", "EAL: Selected IOVA mode 'DC'\n", "no EAL: Selected IOVA mode 'VA'"])
def test_a_testpmd_that_does_not_say_its_mode_is_told(said: str) -> None:
    with pytest.raises(AgentError, match="IOVA mode"):
        Testpmd(agent_of(answers(said)), "0000:01:00.0")


def test_a_guest_without_the_memory_is_told() -> None:
    with pytest.raises(GuestError, match="3 of 16 huge pages"):
        Testpmd(agent_of(answers("", pages="3")), "0000:01:00.0")
