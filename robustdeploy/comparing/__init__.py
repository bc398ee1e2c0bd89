"""Comparing: several systems under one protocol, each row of the table an ordinary run."""
