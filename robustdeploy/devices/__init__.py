"""How a pipe to a board is opened, and how the host talks through it."""
