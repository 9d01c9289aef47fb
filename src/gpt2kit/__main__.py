"""`python -m gpt2kit`: the same command as `gpt2kit`."""

from gpt2kit.cli.main import run

if __name__ == "__main__":
    run()
