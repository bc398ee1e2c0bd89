"""The data sets: one file per plug-in, and how images are split, shuffled and augmented."""
