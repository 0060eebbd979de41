"""Attention over own tokens and shared contexts, a module a kernel; it knows no parameters."""
