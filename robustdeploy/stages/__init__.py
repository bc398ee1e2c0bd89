"""Stages: one module for each step from a recipe to its report, and the graph that they make."""
