"""``python -m topolearn`` is ``topolearn``."""

from topolearn.cli import main

if __name__ == "__main__":
    main()
