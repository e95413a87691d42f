"""Score a network on labelled images, with PyTorch: proxyless_commands/eval.py."""

from proxyless_commands.eval import main

if __name__ == "__main__":
    raise SystemExit(main())
