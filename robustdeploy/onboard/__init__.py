"""All that may run on a board: the standard library, numpy and the board's own toolchain."""
