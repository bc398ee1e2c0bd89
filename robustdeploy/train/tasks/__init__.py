"""Ways to train, one file each, and the steps that they share."""
