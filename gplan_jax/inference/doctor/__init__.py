"""`gplan doctor`: what works on this machine, at which speed; each check caught by itself."""
