"""Print a network with its latency. The command is search/show.py, which knows the folders of searches as well."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "search" / "show.py"), run_name="__main__")
