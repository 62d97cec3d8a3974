"""Which model this is, without loading it: folders, hub, adapters, fingerprints, built-ins.

Public: `resolve.resolve_model`, `fingerprint`'s two digests.
"""
