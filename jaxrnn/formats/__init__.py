"""Formats: files of trained networks that other programs read and write."""
