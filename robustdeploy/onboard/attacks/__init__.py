"""Attacks that see scores only and run beside the engine, one file each."""
