"""The protected model on disk: format, manifest, signature, encryption, and opening it into memory.

The format is docs/formats/bundle.md; MITRE ATLAS AML.M0012, M0013, M0014.
"""
