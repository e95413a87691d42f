"""The command's earlier place: it is hardware/profile_latency.py."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

    from hardware.profile_latency import main

    raise SystemExit(main())
