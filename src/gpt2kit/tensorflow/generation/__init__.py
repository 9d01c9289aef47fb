"""Generation in TensorFlow: the rules of the scores and the loops that write a text."""
