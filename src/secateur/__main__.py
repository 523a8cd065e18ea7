"""Makes ``python -m secateur`` the same as ``secateur``."""

from __future__ import annotations

from secateur.cli.main import main

if __name__ == "__main__":
    main()
