"""Trackers: where a run tells what it does and what it finds. One module for each; several listen at once."""
