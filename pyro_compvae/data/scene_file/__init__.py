"""Our own files of scenes: their format, their writing and their reading."""
