"""Write images as shards, tar files with an index: proxyless_commands/shard.py."""

from proxyless_commands.shard import main

if __name__ == "__main__":
    raise SystemExit(main())
