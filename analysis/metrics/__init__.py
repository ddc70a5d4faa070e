"""How well a guide explains and decomposes scenes."""
