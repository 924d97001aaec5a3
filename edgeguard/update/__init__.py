"""How trust and models reach a device and replace each other: TUF client, A/B slots, recovery. ATLAS AML.M0017."""
