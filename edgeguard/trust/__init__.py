"""The one root of trust of a device: pinned TUF root, offline targets, delegated roles, signed fleet policy."""
