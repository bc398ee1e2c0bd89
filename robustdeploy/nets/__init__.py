"""The architectures: one file per plug-in, and how nets are built, saved and loaded."""
