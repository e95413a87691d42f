"""Write a network as files that run without this repository, with Keras: proxyless_commands/export_tf.py."""

from proxyless_commands.export_tf import main

if __name__ == "__main__":
    raise SystemExit(main())
