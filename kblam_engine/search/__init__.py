"""Scoring the keys of a knowledge base: all of them, down a tree, or by a library or service of vector search.

Importing this loads nothing: `files`, which `kblam kb info` reads, needs no torch.
"""
