"""Makes ``python -m secateur`` the same as ``secateur``."""

from __future__ import annotations

from secateur.cli import main

if __name__ == "__main__":
    main()
