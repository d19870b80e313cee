"""The reference model: what must be true, as pure functions of registers, memory and commands."""
