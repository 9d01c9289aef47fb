"""What the commands need of JAX; imported only when one of them computes with it."""
