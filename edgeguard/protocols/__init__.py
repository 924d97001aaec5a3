"""Bytes to records: framers and decoders without I/O, bounded, fed piece by piece."""
