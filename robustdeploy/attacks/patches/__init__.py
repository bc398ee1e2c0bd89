"""Patches: a square of an image that may look like anything, and all else stays; one file each."""
