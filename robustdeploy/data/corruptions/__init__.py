"""Corruptions: what weather, optics, sensors and storage do to an image; one file each."""
