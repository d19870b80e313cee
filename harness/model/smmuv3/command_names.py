"""What a command is called where it is counted: its opcode, and which of its forms it has (IHI 0070 chapter 4)."""

from __future__ import annotations

from harness.model.smmuv3.commands import COMMANDS, Smmuv3Opcode

__all__ = ["command_name"]

_OPCODES = {int(opcode): opcode for opcode in Smmuv3Opcode}
# Commands of the Secure queue, which no other has (4.4.2.5, 4.4.2.6).
_SECURE = {0x18: "CMD_TLBI_EL3_ALL", 0x1A: "CMD_TLBI_EL3_VA"}
_ALL_STREAMS = 31
# Flags of a command, with what they make of it.
_FORMS = (("SSV", "substream"), ("LEAF", "leaf"), ("GLOBAL", "global"), ("TG", "range"))
_SIGNALS = {0b01: "interrupt", 0b10: "event"}


def command_name(command: int, *, is_illegal: bool = False) -> str:
    """The name of a command, with its form: "CMD_TLBI_NH_VA leaf range".

    Args:
        command: its 128 bits.
        is_illegal: it was refused.
    """
    number = command & 0xFF
    opcode = _OPCODES.get(number)
    if opcode is None:
        return f"{_SECURE[number]} refused" if number in _SECURE else "reserved opcode"
    layout = COMMANDS[opcode]
    words = [opcode.name, *(form for name, form in _FORMS if name in layout and layout[name].get(command))]
    if opcode is Smmuv3Opcode.CMD_SYNC:
        signal = _SIGNALS.get(layout["CS"].get(command))
        words += [signal] if signal else []
    elif opcode is Smmuv3Opcode.CMD_CFGI_STE_RANGE and layout["RANGE"].get(command) == _ALL_STREAMS:
        words.append("all")
    if is_illegal:
        words.append("refused")
    return " ".join(words)
