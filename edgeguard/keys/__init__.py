"""Where a device's private key lives, and the only two things it does: open a wrap, derive a secret."""
