"""An emulated Arm board: a folder with arm64 Python and toolchains, run by QEMU behind an SSH server on loopback."""
