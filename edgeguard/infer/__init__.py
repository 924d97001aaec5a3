"""Running verified models: a drop-in session for protected bundles and the image adapter in front of it."""
