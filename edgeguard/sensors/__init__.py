"""Everything that opens a device or a recording, behind one Source protocol."""
