"""Substitutes: nets that learn to answer as what is attacked, from its labels alone; one file each."""
