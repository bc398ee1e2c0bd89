"""The engine of a run: its folder, its stages and their seals, the ledger, and what is held against what."""
