"""Published checkpoints -> a bundle."""
