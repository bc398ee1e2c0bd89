"""How the learning rate moves through a phase; one file per schedule."""
