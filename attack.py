"""Score a network on images changed to fool it, with PyTorch: proxyless_commands/attack.py."""

from proxyless_commands.attack import main

if __name__ == "__main__":
    raise SystemExit(main())
