"""The command line: one module per command, each of which imports what is heavy only when it runs."""
