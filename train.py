"""Train a network, from scratch or from inherited weights, with PyTorch: proxyless_commands/train.py."""

from proxyless_commands.train import main

if __name__ == "__main__":
    raise SystemExit(main())
