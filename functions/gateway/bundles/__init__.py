"""Bundles: an archived execution as one file that another installation takes (docs/reference/bundles.md)."""
