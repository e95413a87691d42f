"""Make a trained network smaller: proxyless_commands/prune.py."""

from proxyless_commands.prune import main

if __name__ == "__main__":
    raise SystemExit(main())
