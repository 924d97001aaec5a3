"""Host side of EdgeGuard: owns the signing keys; packs, signs, enrols and grants. Never installed on a device."""
