"""Questions about updates, answered with numbers."""

from perakit.theory.rank import OrderShare, order_share

__all__ = ["OrderShare", "order_share"]
