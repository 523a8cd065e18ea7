"""Attention repaired: what was cut from the queries and keys is made good in the logits Q·Kᵀ."""

from secateur.recovery.attention.fit import LogitFit
from secateur.recovery.attention.planned import logit_fits

__all__ = ["LogitFit", "logit_fits"]
