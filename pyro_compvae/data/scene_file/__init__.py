"""Our own files of scenes: what they declare, and how they are written and read."""
