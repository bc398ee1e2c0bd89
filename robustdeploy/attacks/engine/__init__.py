"""Engine attacks: they follow a net in torch, and ask the engine on the board at each step; one file each."""
