"""Write a network as files that run without this repository, with PyTorch: proxyless_commands/export.py."""

from proxyless_commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
