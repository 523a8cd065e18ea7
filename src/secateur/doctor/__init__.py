"""Is this installation, and this machine, fit for work? What is there, what is missing, and what is broken."""

from __future__ import annotations

from secateur.doctor.examine import Finding, examine, is_fit

__all__ = ["Finding", "examine", "is_fit"]
