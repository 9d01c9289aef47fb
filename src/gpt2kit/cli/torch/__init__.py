"""What the commands need of PyTorch; imported only when one of them computes with it."""
