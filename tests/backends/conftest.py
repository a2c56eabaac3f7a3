"""Networks that are traced once, for every test here."""

from tracing import traced_once

__all__ = ["traced_once"]
