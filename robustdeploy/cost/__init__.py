"""What a net costs: operations and parameters, counted in three independent ways."""
