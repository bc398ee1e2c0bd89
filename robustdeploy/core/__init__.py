"""The nouns that users write or read, and where they are kept."""
