"""Choose the bits of a trained network: proxyless_commands/quantize.py."""

from proxyless_commands.quantize import main

if __name__ == "__main__":
    raise SystemExit(main())
