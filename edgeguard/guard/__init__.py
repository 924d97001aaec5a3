"""What may leave the device: the verdict state machine (ATLAS AML.M0002, AML.M0004)."""
