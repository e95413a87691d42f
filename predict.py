"""What a network sees in images, with PyTorch: proxyless_commands/predict.py."""

from proxyless_commands.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
