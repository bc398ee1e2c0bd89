"""What a net costs: operations, counted in independent ways, parameters and activation memory."""

COUNTED = "MACs of convolutions, matrix products and what is made of them (attention, recurrent cells, einsum)"
"""What the counts of operations hold, in words for people."""
