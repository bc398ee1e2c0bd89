"""Accuracy, robustness, latency and agreement of what runs on a board, as rows."""
