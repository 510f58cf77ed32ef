"""Image features: stored once by extraction, or made by a live tower while it trains."""
