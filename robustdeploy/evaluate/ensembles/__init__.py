"""Ensembles: attacks of a recipe that stand for several, one file each; each part meets what those before it left."""
