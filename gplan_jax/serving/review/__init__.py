"""The seeds' review page and the file behind it, on this machine; touches a socket and one file."""
