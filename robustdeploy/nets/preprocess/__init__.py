"""What a board does to a camera's image before a net reads it; one file per step."""
