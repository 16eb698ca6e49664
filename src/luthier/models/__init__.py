"""Model folders: where they live, how they get there, and the decoder that runs them."""
