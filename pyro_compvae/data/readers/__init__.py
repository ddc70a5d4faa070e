"""Files of others, opened with care."""
