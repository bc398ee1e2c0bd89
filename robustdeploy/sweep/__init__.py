"""A sweep: one recipe under several settings, each an ordinary run, and one table and picture of them all."""
