"""The product's own code."""
