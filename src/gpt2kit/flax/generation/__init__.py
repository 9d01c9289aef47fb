"""Generation in Flax: `generate` as one compiled program."""
