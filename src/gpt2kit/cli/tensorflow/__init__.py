"""What the commands need of TensorFlow; imported only when one of them computes with it."""
