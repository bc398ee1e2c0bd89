"""TVM: its parts as they are installed, the schedule of our own, and what runs an engine; TVM is imported by name."""
