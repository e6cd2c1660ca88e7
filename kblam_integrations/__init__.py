"""Bridges from `kblam_engine` to other frameworks; importing this package imports none of them."""
