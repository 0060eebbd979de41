"""Files of contexts planned in parts: resumed, divided among machines, put together again."""
