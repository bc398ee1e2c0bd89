"""What a net costs: operations, counted in three independent ways, parameters and activation memory."""
