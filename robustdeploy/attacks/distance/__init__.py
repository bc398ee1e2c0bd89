"""Distances: how far an image must be moved before a net takes it for something else; one file each."""
