"""The instrument: it makes the keep-alive race happen, watches it from every side, and judges what it saw."""
